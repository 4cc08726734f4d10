"""What a run can be asked for: each option with its meaning and its default, once for library, command line and plans.

`train` and `resume` take options as keyword arguments. `keyword_options` makes those of a dataclass, so that editors know
them, and an option that does not exist is refused in one line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from lambdaml.errors import SettingsError, nearest
from lambdaml.settings import LEASE_S, PATIENCE_S

if TYPE_CHECKING:
    from lambdaml.engines.caps import Cap
    from lambdaml.events import Emit
    from lambdaml.log.numerics import Mode

O = TypeVar("O")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """How functions work on a run, whatever the run is: the options of `lambdaml.resume`.

    Attributes:
        functions: How many processes share the workers; by default one per worker, but no more than there are cores.
        engine: `local` (processes), `inline` (this process) or `ray`; by default `local` or `inline`, whichever the
            store and the job allow.
        engine_options: Arguments of the engine's constructor, such as `{"address": "auto", "cpus": 2}` for `ray`.
        device: `cpu`, `cuda`, or `auto`.
        lifetime_s: Limits the life of each function, as platforms do.
        cap: Says when the run must stop, for what it will have spent by then; see `lambdaml.engines.caps`.
        on_event: Takes progress events, from any thread.
    """

    functions: int | None = None
    engine: str | None = None
    engine_options: Mapping[str, Any] | None = None
    device: str = "auto"
    lifetime_s: float = float("inf")
    cap: Cap | None = None
    on_event: Emit = lambda event: None

    def keywords(self) -> dict[str, Any]:
        """All of them by name, as keyword arguments."""
        return {option.name: getattr(self, option.name) for option in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(LaunchOptions):
    """What a run is, and how functions work on it: the options of `lambdaml.train`.

    Attributes:
        workers: N, the streams of updates that the data is dealt out to.
        schedule: `bsp`, `ssp:S`, `asp`, `quorum:K` ...; see `lambdaml.schedules.SCHEDULES`.
        steps: How many updates each worker makes. Or `epochs` over the data. With neither, 10 epochs, or 1000 with a target.
        target: The run stops at the first snapshot whose metrics meet it, e.g. `accuracy>=0.95`.
        codec: How gradients are written: `fp32`, `bf16`.
        staleness: What becomes of stale updates: `constant`, `inverse`, `polynomial:0.5` ...; see
            `lambdaml.staleness.RULES`.
        seed: The seed of everything that is random.
        args: Keyword arguments of the job's constructor.
        batch_size: The samples of an update, in place of the job's own `batch_size`.
        snapshot_every: A snapshot is taken, and evaluated, after so many updates of each worker; by default an epoch.
        init_from: URL of another run, from whose weights, optimizer and learning-rate schedule this one begins: those of
            its result, or of the newest snapshot; of another version as URL@VERSION.
        numerics: `reproducible`, for the same bits each time and on each CPU of a class, or `fast`, which promises none;
            see `lambdaml.training.numerics`. The engine `inline` cannot change what torch computes in once it has computed: such
            a run is recorded as `fast`, with a warning.
        coherence: Whether each evaluation measures the coherence of gradients.
        keep: How much history stays for `replay` and `verify`: `all`, or a size in bytes or as `500M`; by default 2 GiB or
            a tenth of the free disk. What is older is deleted while the run goes on.
        lease_s: How long a function that fell silent keeps its workers.
        max_rejected: The run stops as diverged when so many of the latest twice as many updates were rejected; by default
            10, or as many as there are workers.
        max_update_norm: Updates with a greater 2-norm are rejected.
        patience_s: A function gives up when nothing at all happened for so long, or when the store was down for it.
        planned: What a plan expected of this run, and why it was chosen; see `lambdaml.cost.planning.plan`.
    """

    workers: int = 4
    schedule: str = "bsp"
    steps: int | None = None
    epochs: float | None = None
    target: str | None = None
    codec: str = "fp32"
    staleness: str = "constant"
    seed: int = 0
    args: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    snapshot_every: int | None = None
    init_from: str | None = None
    numerics: Mode = "reproducible"
    coherence: bool = False
    keep: str | int | None = None
    lease_s: float = LEASE_S
    max_rejected: int | None = None
    max_update_norm: float | None = None
    patience_s: float = PATIENCE_S
    planned: dict[str, Any] | None = None


def options_of(make: Callable[..., O], given: Mapping[str, Any]) -> O:
    """Options from keyword arguments.

    Raises:
        SettingsError: one of them does not exist.
    """
    known = inspect.signature(make).parameters
    for name in given:
        if name not in known:
            raise SettingsError(f"there is no option {name!r}{nearest(name, known)}")
    return make(**given)


def keyword_options(function: Callable[..., R], make: Callable[..., Any]) -> Callable[..., R]:
    """A function whose last parameter is a dataclass of options, with these as keyword arguments instead."""
    *first, _ = (signature := inspect.signature(function)).parameters.values()
    own = [parameter.name for parameter in first]

    @wraps(function)
    def call(*args: Any, **given: Any) -> R:
        named = {name: given.pop(name) for name in own if name in given}
        return function(*args, **named, options=options_of(make, given))

    parameters = [*first, *inspect.signature(make).parameters.values()]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call

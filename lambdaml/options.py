"""The options of a run, each with its meaning and its default, defined once for library, command line and plans.

`train` and `resume` take options as keyword arguments. `keyword_options` derives these from a dataclass, so that
editors know them and an unknown option is refused in one line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lambdaml.errors import SettingsError, nearest
from lambdaml.settings import LEASE_S, PATIENCE_S, RECOVER_S

if TYPE_CHECKING:
    from lambdaml.engines.caps import Cap
    from lambdaml.events import Emit
    from lambdaml.log.numerics import Mode

O = TypeVar("O")
R = TypeVar("R")


STEP_ALONE = "local:1,sends=models"
"""In a run whose workers have models of their own, the algorithm `gradient` is this: a step along the own gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """The options of `lambdaml.resume` say how functions work on a run, whatever the run is.

    Attributes:
        functions: The number of processes that share the workers. The default is one per worker, but no more than the
            machine has cores.
        engine: `local` (processes), `inline` (this process) or `ray`. The default is `local` or `inline`, whichever the
            store and the job allow.
        engine_options: Arguments of the engine's constructor, such as `{"address": "auto", "cpus": 2}` for `ray`.
        device: The device that functions compute on: `cpu`, `cuda`, or `auto` for the best one available.
        lifetime_s: The longest time that a function may live, in seconds; platforms have such a limit.
        cap: A callable that decides when the run must stop because of what it will have spent by then; see
            `lambdaml.engines.caps`.
        on_event: A callable that takes progress events (`lambdaml.events`). It may be called from any thread.
    """

    functions: int | None = None
    engine: str | None = None
    engine_options: Mapping[str, Any] | None = None
    device: str = "auto"
    lifetime_s: float = float("inf")
    cap: Cap | None = None
    on_event: Emit = lambda event: None

    def keywords(self) -> dict[str, Any]:
        """Return all options by name, as keyword arguments."""
        return {option.name: getattr(self, option.name) for option in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(LaunchOptions):
    """The options of `lambdaml.train` say what a run is, and how functions work on it.

    Attributes:
        workers: The number of workers, N. A worker is a stream of updates; the data is dealt out to the workers.
        schedule: The rule that decides which updates a commit takes: `bsp`, `ssp:S`, `asp`, `quorum:K` ...; see
            `lambdaml.schedules.SCHEDULES`.
        algorithm: The algorithm, which says what a worker computes: `gradient`, `presum:G` for the sum of G gradients, `local:H`
            for H local steps, with an outer optimizer and perhaps `fragments=F`, `admm:RHO` for consensus ADMM, or
            `statistics` for a job that has sums and no gradient; see `lambdaml.algorithms.ALGORITHMS`.
        steps: The number of updates that each worker makes. Give either this or `epochs`; with neither, the run makes
            10 epochs, or at most 1000 if it has a target.
        epochs: The number of passes over the data, in place of `steps`.
        target: A condition on a metric, such as `accuracy>=0.95`. The run stops at the first snapshot that meets it.
        patience_evaluations: The number of evaluations in a row that bring no better value of the target's metric, or of
            the first metric that the job reports, after which the run stops; see `lambdaml.training.gains`. None for
            any number.
        codec: The format that updates are written in: `fp32`, `bf16`, `topk:0.01`, `sparse` ...; see `lambdaml.codecs.CODECS`.
        error_feedback: The share of what a worker's earlier updates did not carry that goes into its next one, from 0
            (none) to 1. The default is 1 for codecs that leave out numbers, and 0 for the others.
        staleness: The rule for stale updates: `constant`, `inverse`, `polynomial:0.5` ...; see
            `lambdaml.staleness.RULES`.
        aggregate: The way in which the updates of a step become one: `mean`, or one that resists workers that send anything:
            `median`, `trimmed:0.1`, `clip-median-norm`, `krum:F`; see `lambdaml.aggregates.AGGREGATES`.
        tune: The tuner that turns the knob of the run's codec or algorithm while the run goes on: `skewscout`, perhaps with options such as
            `skewscout:every=50`; see `lambdaml.tuners.TUNERS`. None for none.
        pattern: The way in which the bytes of updates reach every function: `gather`, or `tree:K` ...; see
            `lambdaml.patterns.PATTERNS`. It changes no bits beyond those of the bracket.
        bracket: The bracket of a step's sum: `flat`, or groups of G workers (`G`), or of groups of them (`G^2` ...); see
            `lambdaml.log.bracket`. The default is the one that the pattern adds up in.
        partition: The way in which samples are dealt to the workers: `iid`, or so that each has an owner: `sorted`, `skew:P`,
            `dirichlet:A`, `shards:K`, `by:FIELD`, or `job` for the job's own; see `lambdaml.partitions.PARTITIONS`. The
            default is `job` if the job has `partition(workers)`, and otherwise `iid`.
        extra: The measurement that is kept beside each update: `per-sample:N` for the gradients of N of the worker's samples
            before each local step, or `per-sample:N,codec=bf16`; see `lambdaml.log.extra`. By default there is none.
        seed: The seed of everything that is random.
        args: Keyword arguments of the job's constructor.
        batch_size: The number of samples in an update, in place of the job's own `batch_size`.
        snapshot_every: The number of updates of each worker after which a snapshot is taken and evaluated. The default
            is an epoch, or less if an epoch has many updates or large ones.
        init_from: The URL of another run. This run begins with the weights, the optimizer and the learning-rate
            schedule of that run's result, or of its newest snapshot if it has no result. URL@VERSION names another
            version. From a run of another algorithm only the weights and buffers are taken.
        numerics: `reproducible` gives the same bits each time and on each CPU of a class; `fast` promises no bits. See
            `lambdaml.training.numerics`. Once torch has computed in a process, the engine `inline` cannot change its
            arithmetic: such a run is recorded as `fast`, with a warning.
        coherence: Whether each evaluation measures the coherence of gradients.
        keep: The amount of history that stays for `replay` and `verify`: `all`, a number of rounds such as 16, or a
            size with a unit such as `500M` or `20000B`. A round is one update of each worker. The default is 2 GiB or a
            tenth of the free disk, whichever is less, but at least the updates of four intervals between snapshots, or
            half of the free disk if that is less. Older history is deleted while the run goes on.
        lease_s: How long a function that fell silent keeps its workers, in seconds.
        max_rejected: The number of rejected updates, among the latest twice as many, at which the run stops as
            diverged. The default is 10, or the number of workers if that is more.
        max_update_norm: The greatest 2-norm of an update, or of a sum of gradients; an update with a greater one is rejected.
        patience_s: How long nothing at all may happen, or the store may be down, before a function gives up, in
            seconds.
        recover_s: The seconds of compute after which a worker's memory is written, so that computing it again after a
            crash never takes much longer. Only runs whose workers remember something write any.
        announce_s: The seconds of an upload after which a worker of `ssp:S` announces its next update before it sends it, so that
            the others start nothing until that has its fate; see `lambdaml.worker.barrier`. By default nobody does.
        lost_memory: The answer to a worker's memory that cannot be recovered: `stop` ends the run with the reason, and
            `reset` begins that memory anew, which the log then says.
        planned: The expectations of a plan for this run, and why it was chosen; see `lambdaml.cost.planning.plan`.
    """

    workers: int = 4
    schedule: str = "bsp"
    algorithm: str = "gradient"
    steps: int | None = None
    epochs: float | None = None
    target: str | None = None
    patience_evaluations: int | None = None
    codec: str = "fp32"
    error_feedback: float | None = None
    staleness: str = "constant"
    aggregate: str = "mean"
    tune: str | None = None
    pattern: str = "gather"
    bracket: str | None = None
    partition: str | None = None
    extra: str | None = None
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
    recover_s: float = RECOVER_S
    announce_s: float | None = None
    lost_memory: Literal["stop", "reset"] = "stop"
    planned: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.schedule.partition(":")[0] == "groups" and self.algorithm == "gradient":
            object.__setattr__(self, "algorithm", STEP_ALONE)


def options_of(make: Callable[..., O], given: Mapping[str, Any]) -> O:
    """Make options from keyword arguments.

    Raises:
        SettingsError: If one of the options does not exist.
    """
    known = inspect.signature(make).parameters
    for name in given:
        if name not in known:
            raise SettingsError(f"there is no option {name!r}{nearest(name, known)}")
    return make(**given)


def keyword_options(function: Callable[..., R], make: Callable[..., Any]) -> Callable[..., R]:
    """Wrap a function whose last parameter is a dataclass of options, so that it takes these as keyword arguments."""
    *first, _ = (signature := inspect.signature(function)).parameters.values()
    own = [parameter.name for parameter in first]

    @wraps(function)
    def call(*args: Any, **given: Any) -> R:
        named = {name: given.pop(name) for name in own if name in given}
        return function(*args, **named, options=options_of(make, given))

    parameters = [*first, *inspect.signature(make).parameters.values()]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call

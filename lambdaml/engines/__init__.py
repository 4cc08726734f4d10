"""Engines: what executes functions. One file each.

An engine starts functions (`lambdaml.engines.entry.run_function`), starts others in place of those that die or leave before
the run has ended, and passes on what they say. Nothing else: leases, resume and the end of a run are the functions'
own business. To add one: a file with a class that has the members of `Engine`, and one line in `ENGINES`. Where
functions can die one by one, `lambdaml.engines.supervise` keeps them going.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lambdaml.engines.resources import cores
from lambdaml.events import Emit
from lambdaml.job import Job
from lambdaml.registry import Registry
from lambdaml.settings import Settings
from lambdaml.storage import Store

if TYPE_CHECKING:
    from lambdaml.training.one_thread import OneThread


class Enough(KeyboardInterrupt):
    """Has an engine ask its functions to leave, as Ctrl-C does. Never leaves `lambdaml.training.driver`."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What to run, and how.

    `lifetime_s` limits each function's life, as platforms do; functions leave in time and others go on.
    """

    store: Store
    settings: Settings
    job: Job
    functions: int
    device: str = "cpu"
    lifetime_s: float = float("inf")

    def assigned(self, index: int) -> list[int]:
        """The workers that function number `index` is meant to work as."""
        return list(range(index, self.settings.workers, self.functions))


def functions_for(workers: int, asked: int | None = None) -> int:
    """Functions that so many workers share: one each, but no more than asked for, by default than there are cores here."""
    return min(workers, asked if asked is not None else cores())


class Engine(Protocol):
    """What `lambdaml.training.driver` asks of an engine. Its constructor's parameters are the engine's options.

    Attributes:
        takes_objects: whether functions can be given a job that is an object, rather than import it.
        in_process: whether functions compute in the caller's process.
        nearby: whether functions run on the caller's machine.
    """

    takes_objects: bool
    in_process: bool
    nearby: bool

    @property
    def compute(self) -> OneThread:
        """Where the caller may run tensor work of its own (evaluation) while functions run."""

    def start(self) -> None:
        """Begin whatever takes long, in the background. The caller may find out that it is not needed."""

    def run(self, launch: LaunchSpec, emit: Emit) -> None:
        """Run functions until the run has ended.

        `emit` is called with the functions' events, from any thread. Beside what functions say themselves (what
        `World.emit` was given), these are `StartedEvent`, `UsageEvent`, a few times a second for each function and once more
        when it has ended, and then `EndedEvent`, all with the name of the function. On
        KeyboardInterrupt, which `emit` may raise too, the functions are asked to leave, and are gone when this raises it
        again.

        Raises:
            JobFailed, BadObject, ReplicaDiverged, RunFailed, StoreError: what made a function give up for good.
        """

    def close(self) -> None:
        """Free what the engine holds."""


ENGINES: Registry[Engine] = Registry(
    "engine",
    {
        "local": "lambdaml.engines.local:LocalEngine",
        "inline": "lambdaml.engines.inline:InlineEngine",
        "ray": "lambdaml.engines.ray:RayEngine",
    },
)

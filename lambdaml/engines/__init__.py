"""Engines execute functions. Each engine is one file.

An engine starts functions (`lambdaml.engines.entry.run_function`), replaces those that die or leave before the run has
ended, and passes on their events. It does nothing else: functions themselves see to leases, resume and the end of a
run. To add an engine, write a file with a class that has the members of `Engine`, and add one line to `ENGINES`. If
functions can die one by one, `lambdaml.engines.supervise` keeps them going.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lambdaml.engines.resources import cores
from lambdaml.events import Emit
from lambdaml.job import Job
from lambdaml.log.numerics import Numerics
from lambdaml.registry import Registry
from lambdaml.settings import JobSettings, Settings
from lambdaml.storage import Store

if TYPE_CHECKING:
    from lambdaml.training.one_thread import OneThread


class Enough(KeyboardInterrupt):
    """Makes an engine ask its functions to leave, as Ctrl-C does. `lambdaml.training.driver` always catches it."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """Says what an engine must run, and how.

    Attributes:
        store: The store that holds the run.
        settings: The settings of the run.
        job: The run's job.
        functions: The number of functions that run at the same time.
        device: The device that functions compute on.
        lifetime_s: The longest life of a function, in seconds, as platforms have it. Functions leave in time, and
            others go on.
        cap: The cap of this call in plain values, if it can be written down; see `lambdaml.engines.caps`.
    """

    store: Store
    settings: Settings
    job: Job
    functions: int
    device: str = "cpu"
    lifetime_s: float = float("inf")
    cap: Mapping[str, Any] | None = None

    def assigned(self, index: int) -> list[int]:
        """Return the workers that function number `index` should work as."""
        return list(range(index, self.settings.workers, self.functions))


def functions_for(workers: int, asked: int | None = None, elastic: bool = False) -> int:
    """Return how many functions the workers share: one each, but no more than `asked`, which is by default the number of
    this machine's cores. An `elastic` engine has no such limit."""
    return min(workers, asked if asked is not None else workers if elastic else cores())


class Engine(Protocol):
    """Declares what `lambdaml.training.driver` needs from an engine. The constructor's parameters are its options.

    Attributes:
        takes_objects: Whether functions can be given a job that is an object, rather than import it.
        in_process: Whether functions compute in the caller's process.
        nearby: Whether functions run on the caller's machine.
    """

    takes_objects: bool
    in_process: bool
    nearby: bool

    @property
    def compute(self) -> OneThread:
        """The thread in which the caller may run tensor work of its own (evaluation) while functions run."""

    def start(self) -> None:
        """Begin slow preparations in the background. The caller may never need them."""

    def run(self, launch: LaunchSpec, emit: Emit) -> None:
        """Run functions until the run has ended.

        `emit` is called with the functions' events, from any thread. Besides the events that functions pass to
        `World.emit`, these are `StartedEvent`, `UsageEvent` (a few times a second for each function, and once more when
        it has ended) and finally `EndedEvent`, all with the name of the function. On KeyboardInterrupt, which `emit`
        may raise too, the functions are asked to leave; they are gone when this raises it again.

        Raises:
            JobFailed, BadObject, ReplicaDiverged, RunFailed, StoreError: If this error made a function give up for
                good.
        """

    def close(self) -> None:
        """Free the resources that the engine holds."""


@runtime_checkable
class Elsewhere(Protocol):
    """Declares what an engine has besides, whose functions run where nothing is known of beforehand. It runs as many
    functions as are asked for, by default one for each worker."""

    def survey(self, store: Store, job: JobSettings, run: Numerics | None) -> Numerics:
        """Make sure that functions could work on a run, before it begins or goes on.

        Args:
            store: The place of the run.
            job: The run's job.
            run: The numerics class of the run, if it has begun.

        Returns:
            The numerics class that functions compute in.

        Raises:
            LambdaMLError: If they could not.
        """


ENGINES: Registry[Engine] = Registry(
    "engine",
    {
        "local": "lambdaml.engines.local:LocalEngine",
        "inline": "lambdaml.engines.inline:InlineEngine",
        "ray": "lambdaml.engines.ray:RayEngine",
        "lambda": "lambdaml.engines.lambda_engine:LambdaEngine",
    },
)

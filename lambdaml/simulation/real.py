"""Real gradients at modelled times: a replica whose work takes the time that its costs say, not this machine's time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lambdaml.algorithms import Assignment
from lambdaml.job import Job
from lambdaml.log.records import Commit
from lambdaml.settings import Settings
from lambdaml.simulation.stub_replica import Costs
from lambdaml.training.replica import Replica
from lambdaml.worker.machine import Computed


class Timed(Replica):
    """A replica that charges modelled time. Use it in one compute thread, like any replica.

    Args:
        job: The job, whose gradients are computed.
        settings: The run's settings.
        costs: The modelled seconds of each piece of work.
        charge: Is called with the seconds that each piece of work takes; see `VirtualWorld.charge`.
        clock: Returns the time of the function's world, in seconds.
    """

    def __init__(
        self,
        job: Job,
        settings: Settings,
        costs: Costs,
        charge: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(job, settings, clock)
        self._costs, self._charge = costs, charge

    def twin(self) -> Timed:
        return Timed(self.job, self.settings, self._costs, self._charge, self.clock)

    def compute(self, assignment: Assignment) -> Computed:
        found = super().compute(assignment)
        body = {name: array.copy() for name, array in found.body.items()}
        start = self.clock()
        self._charge(self._costs.step_s * assignment.batches * self.algorithm.summands)
        computed = self.clock()
        self._charge(self._costs.encode_s)
        return replace(found, body=body, compute_s=computed - start, encode_s=self.clock() - computed)

    def end(self, commit: Commit) -> None:
        super().end(commit)
        steps, applied = len(commit.steps), len(commit.applied)
        self._charge(self._costs.apply_s * steps + self._costs.apply_update_s * applied)


def first_snapshot(job: Job, settings: Settings) -> bytes:
    """Return the bytes of snapshot 0, which holds the job's fresh model."""
    return Replica(job, settings).state().dump()

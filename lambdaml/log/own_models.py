"""The models of the workers that a function works as, in a run whose workers have models of their own.

A worker's model before round r is a pure function of the updates of round r - 1: the mean over those of its group which
are not rejected. So it is no memory. Whoever takes a worker over reads its group's updates again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lambdaml.errors import RunFailed
from lambdaml.log.memory import digest_of_arrays
from lambdaml.log.records import DAMAGED, Body, Commit, Update, damaged
from lambdaml.log.reports import RoundReport
from lambdaml.schedules import Schedule, rounds_at_once
from lambdaml.schedules.groups import Groups
from lambdaml.settings import Settings

_DIGITS = 32
"""So many digits of the digest of a model are reported."""


@dataclass(frozen=True, slots=True)
class OwnModel:
    """The model from which a worker computes an update.

    Attributes:
        seq: The number of the update.
        body: The model, as the body of an update has it.
        digest: The digest of the body.
        reports: The reports on the worker's latest rounds.
    """

    seq: int
    body: Body
    digest: str
    reports: tuple[RoundReport, ...] = ()

    @staticmethod
    def of(seq: int, body: Body) -> OwnModel:
        """Return a model with its digest, and without reports."""
        return OwnModel(seq, body, digest_of_arrays(body.items())[:_DIGITS])


class OwnModels:
    """The models of the workers that a machine computes for.

    Attributes:
        grouping: The groups of each round.
        every: The number of rounds of a log entry, on which the header of an update reports.
        loaded: The run's model in the state that the machine has loaded, and its version.
        mean_at: The number of commits after which the machine last took the run's model.
    """

    def __init__(self, settings: Settings, schedule: Groups) -> None:
        self.grouping = schedule.grouping(settings.workers, settings.seed)
        self.every = schedule.every
        self.loaded: tuple[Body, int] = {}, 0
        self.mean_at = -1
        self._held: dict[int, OwnModel] = {}

    @staticmethod
    def made(settings: Settings, schedule: Schedule) -> OwnModels | None:
        """Return the models of a run, or None if its workers share one model."""
        if not rounds_at_once(schedule):
            return None
        assert isinstance(schedule, Groups)
        return OwnModels(settings, schedule)

    def holds(self, worker: int, seq: int) -> bool:
        """Return whether the model is here from which this update is computed."""
        return worker in self._held and self._held[worker].seq == seq

    def take(self, worker: int, model: OwnModel) -> None:
        """Take a worker's model."""
        self._held[worker] = model

    def drop(self, worker: int) -> None:
        """Forget a worker's model, because this function no longer works as this worker."""
        self._held.pop(worker, None)

    def of(self, worker: int, seq: int) -> OwnModel:
        """Return the model from which an update is computed.

        Raises:
            RunFailed: If it is not here.
        """
        if not self.holds(worker, seq):
            raise RunFailed(f"worker {worker} has no model from which to compute update {seq}")
        return self._held[worker]

    def report(self, update: Update) -> None:
        """Write into an update that was just made and checked what is to be known of it and of its worker's rounds before."""
        model = self.of(*update.id)
        update.reports = (*model.reports, report_of(update, model.digest))[-self.every :]

    def turnouts(self, commit: Commit) -> list[Mapping[int, float]]:
        """Return, for each round of a commit, how often the update of a worker counts in the mean of all models: once, or
        more if others of its group were rejected, since all of the group have its mean."""
        found: list[Mapping[int, float]] = []
        for step in commit.steps:
            passing = {entry.worker for entry in step}
            turn = step[0].seq if step else 0
            found.append(self.turnout(turn, passing))
        return found

    def barren(self, commit: Commit) -> list[tuple[int, int]]:
        """Return the rounds of a commit, each with the first worker of a group, in which all updates of the group were
        rejected."""
        passing = {(entry.worker, entry.seq) for entry in commit.applied}
        return [
            (turn, group[0])
            for turn in sorted({entry.seq for entry in commit.entries})
            for group in self.grouping.of(turn)
            if not any((worker, turn) in passing for worker in group)
        ]

    def turnout(self, turn: int, passing: set[int]) -> dict[int, float]:
        """Return how often each of these workers' updates, which are not rejected, counts in a round."""
        counts: dict[int, float] = {}
        for group in self.grouping.of(turn):
            there = passing.intersection(group)
            counts |= {worker: len(group) / len(there) for worker in there if len(there) < len(group)}
        return counts


def report_of(update: Update, base: str) -> RoundReport:
    """Return the report on an update that was computed from the model with this digest."""
    return RoundReport(
        *(update.seq, update.generation, update.samples, update.loss, update.batches, update.fault, base),
    )


def reported(worker: int, report: RoundReport, codec: str) -> Update:
    """Return the update that a report is about, without its body."""
    if report.fault == DAMAGED:
        return damaged(worker, report.seq, 0)
    return Update(
        worker=worker,
        seq=report.seq,
        base=report.seq,
        generation=report.generation,
        function="",
        samples=report.samples,
        loss=report.loss,
        codec=codec,
        batches=report.batches,
        fault=report.fault,
        loaded=False,
    )

"""Schedules: which workers a commit waits for, what it contains, and when a worker may go on. Each has its own file.

A schedule is a pure function of the log and of the updates that have arrived, so the same code runs live and under a
virtual clock. To add one, write a file with a class that has the members of `Schedule`, and add one line to
`SCHEDULES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lambdaml.log.records import Update
from lambdaml.log.state import LogState
from lambdaml.registry import Registry


@dataclass(frozen=True, slots=True)
class Decision:
    """The contents of the next commit. Faulty updates may appear in either list: they are rejected.

    Attributes:
        steps: The optimizer steps in order, each a list of updates that are averaged in the order given.
        discarded: The updates that no step will use.
    """

    steps: Sequence[Sequence[Update]]
    discarded: Sequence[Update] = ()


class Schedule(Protocol):
    """The rule by which a run's commits are made.

    Attributes:
        deterministic: Whether `decide` depends only on *which* updates have arrived, never on their order or timing.
            Then every function makes the same commit by itself, and the log is written but need not be read.
    """

    @property
    def deterministic(self) -> bool:
        """Whether `decide` depends only on *which* updates have arrived, never on their order or timing."""
        ...

    def needs(self, workers: int) -> int:
        """Return the number of updates that a commit waits for with this many workers. Forecasts use it."""

    def may_start(self, log_state: LogState, worker: int, seq: int, last_base: int) -> bool:
        """Return whether the worker may compute update `seq`, if it computed its previous one from `last_base`."""

    def decide(self, log_state: LogState, arrived: Sequence[Update]) -> Decision | None:
        """Return what to commit now, or None to wait for more updates.

        `arrived` has the updates without a fate in order of arrival. It holds each worker's updates in the order of
        `seq`, without gaps, from `log_state.next_seq[worker]` on.
        """

    def progress(self, log_state: LogState) -> float:
        """Return the share of the run that is done, in the unit that its `steps` count. The run is finished at 1."""

    def leaves(self, log_state: LogState, worker: int, seq: int) -> bool:
        """Return whether the worker has nothing left to compute once it has published `seq` updates."""


def in_rounds(schedule: Schedule, workers: int) -> bool:
    """Return whether each commit is a round of all workers, which every function makes by itself."""
    return schedule.deterministic and schedule.needs(workers) == workers


def delay_of(schedule: Schedule) -> int:
    """Return by how many rounds the model that an update is computed from is older than the newest one that it could be
    computed from. It is the schedule's `delay`, or 0 if it has none.

    Only a deterministic schedule may have a delay, and only if its commits are rounds of all workers. Update r of a worker
    is then computed after exactly max(0, r - delay) commits.
    """
    delay: int = getattr(schedule, "delay", 0)
    return delay


def cohort_of(schedule: Schedule) -> int | None:
    """Return how many of the run's workers take part in each round. It is the schedule's `cohort`, or None if all do.

    The workers that such a schedule knows are the slots of a round.
    """
    size: int | None = getattr(schedule, "cohort", None)
    return size


def rounds_at_once(schedule: Schedule) -> int:
    """Return the number of rounds that a commit covers at once, each computed from the one before. It is the schedule's
    `every`, or 0 if commits are no such rounds.

    Workers of a schedule that has it average models of their own, and nobody waits for the log.
    """
    every: int = getattr(schedule, "every", 0)
    return every


SCHEDULES: Registry[Schedule] = Registry(
    "schedule",
    {
        "bsp": "lambdaml.schedules.bsp:Bsp",
        "cohort": "lambdaml.schedules.cohort:Cohort",
        "groups": "lambdaml.schedules.groups:Groups",
        "pipeline": "lambdaml.schedules.pipeline:pipeline",
        "ssp": "lambdaml.schedules.ssp:ssp",
        "asp": "lambdaml.schedules.asp:Asp",
        "quorum": "lambdaml.schedules.quorum:Quorum",
    },
)

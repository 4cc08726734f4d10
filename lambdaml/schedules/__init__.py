"""Schedules: whom a commit waits for, what it contains, and when a worker may go on. One file each.

A schedule is a pure function of the log and of the updates that have arrived, so the same code runs live and under a
virtual clock. To add one: a file with a class that has the members of `Schedule`, and one line in `SCHEDULES`.
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
    """What the next commit is made of.

    `steps` are the optimizer steps in order, each a list of updates to be averaged in the order given; `discarded`
    are updates that no step will use. Updates found faulty may appear in either: they are rejected.
    """

    steps: Sequence[Sequence[Update]]
    discarded: Sequence[Update] = ()


class Schedule(Protocol):
    """The rule of a run.

    Attributes:
        deterministic: True if `decide` depends on *which* updates are there but never on their order or timing. Then every
            function comes to the same commit by itself, and the log is written but need not be read.
    """

    @property
    def deterministic(self) -> bool: ...

    def needs(self, workers: int) -> int:
        """How many updates a commit waits for, with so many workers. For forecasts."""

    def may_start(self, log_state: LogState, worker: int, seq: int, last_base: int) -> bool:
        """Whether the worker may compute update `seq`, its previous one being computed from `last_base`."""

    def decide(self, log_state: LogState, arrived: Sequence[Update]) -> Decision | None:
        """What to commit now, given the updates without a fate in order of arrival; None to wait for more.

        `arrived` holds each worker's updates in the order of `seq`, without gaps, from `view.next_seq[worker]` on.
        """

    def progress(self, log_state: LogState) -> float:
        """The share of the run that is done, by what its `steps` count. It is finished at 1."""

    def leaves(self, log_state: LogState, worker: int, seq: int) -> bool:
        """Whether the worker has nothing left to compute once it has published `seq` updates."""


def in_rounds(schedule: Schedule, workers: int) -> bool:
    """Whether each commit is a round of all workers, which every function comes to by itself."""
    return schedule.deterministic and schedule.needs(workers) == workers


SCHEDULES: Registry[Schedule] = Registry(
    "schedule",
    {
        "bsp": "lambdaml.schedules.bsp:Bsp",
        "ssp": "lambdaml.schedules.ssp:ssp",
        "asp": "lambdaml.schedules.asp:Asp",
        "quorum": "lambdaml.schedules.quorum:Quorum",
    },
)

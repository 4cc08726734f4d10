"""Quorum: a commit is one optimizer step on the mean of the first K updates, so no worker waits for the slowest.

`late=discard` uses only updates computed from the current version. The others are discarded with the next commit, or
with a commit of their own if their worker can do nothing more until it knows their fate. That is synchronous SGD with
backup workers (arXiv 1604.00981), and Rennala SGD (Tyurin and Richtarik 2023) with one update for each worker. It is
optimal by theory if workers differ in speed and share one distribution of data.

`late=weight` takes late updates into a later commit, weighted by the run's staleness rule. That is FedBuff (arXiv
2106.06639) with a buffer of K.

A run is finished after `steps` commits that took a step.
"""

from __future__ import annotations

from collections.abc import Sequence

from lambdaml.log.records import Update
from lambdaml.log.state import LogState
from lambdaml.schedules import Decision


class Quorum:
    """The first `k` updates make a commit. With k = N this is `bsp`, bit for bit."""

    deterministic = False

    def __init__(self, k: int, late: str = "discard") -> None:
        if k < 1:
            raise ValueError(f"a quorum of {k} makes no sense: k must be 1 or more")
        if late not in ("discard", "weight"):
            raise ValueError(f"late must be 'discard' or 'weight', not {late!r}")
        self.k = k
        self.late = late

    def needs(self, workers: int) -> int:
        return self.k

    def may_start(self, log_state: LogState, worker: int, seq: int, last_base: int) -> bool:
        return log_state.next_seq[worker] == seq or (
            log_state.version > last_base and seq - log_state.next_seq[worker] <= 1
        )

    def decide(self, log_state: LogState, arrived: Sequence[Update]) -> Decision | None:
        if self.late == "weight":
            return self._weighing(log_state, arrived)
        faulty = [update for update in arrived if update.fault]
        timely = [update for update in arrived if not update.fault and update.base >= log_state.version]
        late = [update for update in arrived if not update.fault and update.base < log_state.version]
        if len(timely) < self.k and len(timely) + len(faulty) < log_state.workers:
            return self._freeing([*faulty, *late], {update.worker for update in timely})
        return Decision(_step(timely[: self.k]), [*faulty, *late, *timely[self.k :]])

    def _freeing(self, useless: Sequence[Update], useful: set[int]) -> Decision | None:
        """Discard the useless updates of workers that are blocked, while there is no quorum.

        A worker may be one update ahead. So a worker that has two updates here, none of them useful, can do nothing
        more until they have their fates, and the others may be waiting for it.
        """
        blocking = [update for update in useless if update.worker not in useful]
        held_up = len(blocking) > len({update.worker for update in blocking})
        return Decision([], blocking) if held_up else None

    def _weighing(self, log_state: LogState, arrived: Sequence[Update]) -> Decision | None:
        chosen: list[Update] = []
        faulty: list[Update] = []
        for update in arrived:
            (faulty if update.fault else chosen).append(update)
            if len(chosen) == self.k or len(chosen) + len(faulty) == log_state.workers:
                return Decision(_step(chosen), faulty)
        return None

    def progress(self, log_state: LogState) -> float:
        return log_state.version / log_state.steps

    def leaves(self, log_state: LogState, worker: int, seq: int) -> bool:
        return False


def _step(updates: Sequence[Update]) -> list[list[Update]]:
    return [sorted(updates, key=lambda update: update.id)] if updates else []


def variants(workers: int) -> list[str]:
    """Return the variants worth trying: half of the workers or all but an eighth, with late updates used or not."""
    sizes = sorted({workers // 2, workers - max(1, workers // 8)} - {0, workers})
    return [f"quorum:{k}{late}" for k in sizes for late in ("", ",late=weight")]

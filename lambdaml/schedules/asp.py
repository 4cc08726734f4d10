"""Asynchronous parallel: every update is an optimizer step of its own, taken in the order of arrival.

A commit takes all updates that are pending (group commit), so that the log grows with the pace of the store rather
than with the number of workers. A worker has one update in flight: it computes the next one from a version that
holds its previous one. Then N equal workers see a mean staleness of N - 1 if updates arrive one at a time.

Source: LambdaML (arXiv 2105.07806) section 3. Staleness is defined as in arXiv 1810.03264.
"""

from __future__ import annotations

from collections.abc import Sequence

from lambdaml.log.records import Update
from lambdaml.log.state import LogState
from lambdaml.schedules import Decision


class Asp:
    """No worker waits for another. With one worker this is `bsp`, bit for bit."""

    deterministic = False

    def needs(self, workers: int) -> int:
        return 1

    def may_start(self, log_state: LogState, worker: int, seq: int, last_base: int) -> bool:
        return log_state.next_seq[worker] == seq

    def decide(self, log_state: LogState, arrived: Sequence[Update]) -> Decision | None:
        return Decision([[update] for update in arrived]) if arrived else None

    def progress(self, log_state: LogState) -> float:
        return sum(log_state.next_seq) / (log_state.workers * log_state.steps)

    def leaves(self, log_state: LogState, worker: int, seq: int) -> bool:
        return seq >= log_state.steps


def variants(workers: int) -> list[str]:
    """Return the variants worth trying. With one worker the list is empty, since `asp` is then `bsp`."""
    return ["asp"] if workers > 1 else []

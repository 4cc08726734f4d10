"""Bulk synchronous parallel: a commit is one optimizer step on the mean of all N updates of the round.

Source: Valiant, "A bridging model for parallel computation" (1990); LambdaML (arXiv 2105.07806) as GA-SGD.
"""

from __future__ import annotations

from collections.abc import Sequence

from lambdaml.log.records import Update
from lambdaml.log.state import LogState
from lambdaml.schedules import Decision


class Bsp:
    """Every worker waits for every other. Staleness is 0, and one straggler holds up all workers."""

    deterministic = True

    def needs(self, workers: int) -> int:
        return workers

    def may_start(self, log_state: LogState, worker: int, seq: int, last_base: int) -> bool:
        return log_state.next_seq[worker] == seq

    def decide(self, log_state: LogState, arrived: Sequence[Update]) -> Decision | None:
        round_ = {update.worker: update for update in arrived if update.seq == log_state.next_seq[update.worker]}
        if len(round_) < log_state.workers:
            return None
        return Decision([[round_[worker] for worker in range(log_state.workers)]])

    def progress(self, log_state: LogState) -> float:
        return log_state.commit / log_state.steps

    def leaves(self, log_state: LogState, worker: int, seq: int) -> bool:
        return seq >= log_state.steps

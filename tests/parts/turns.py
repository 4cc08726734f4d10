"""The schedule `turns`: workers take steps one after the other, in their order, whoever is faster (cyclic SGD)."""

from __future__ import annotations

from collections.abc import Sequence

from lambdaml.log.records import Update
from lambdaml.log.state import LogState
from lambdaml.schedules import Decision


class Turns:
    """Every update is a step of its own, and every worker computes while the others take their turns."""

    deterministic = True  # whose turn it is does not depend on who came first

    def needs(self, workers: int) -> int:
        return 1

    def may_start(self, log_state: LogState, worker: int, seq: int, last_base: int) -> bool:
        return log_state.next_seq[worker] == seq

    def decide(self, log_state: LogState, arrived: Sequence[Update]) -> Decision | None:
        turn = log_state.commit % log_state.workers
        found = [update for update in arrived if update.worker == turn]
        return Decision([found[:1]]) if found else None

    def progress(self, log_state: LogState) -> float:
        return log_state.commit / (log_state.workers * log_state.steps)

    def leaves(self, log_state: LogState, worker: int, seq: int) -> bool:
        return seq >= log_state.steps

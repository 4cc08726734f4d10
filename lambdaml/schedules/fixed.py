"""A schedule whose decision is given. It serves to make commits again from a log or a trace."""

from __future__ import annotations

from collections.abc import Sequence

from lambdaml.log.records import Update
from lambdaml.log.state import LogState
from lambdaml.schedules import Decision


class Fixed:
    """Returns the given decision, whatever has arrived. Users cannot choose it by name: no run can train with it.

    Args:
        every: The number of rounds that a commit covers; see `lambdaml.schedules.rounds_at_once`.
    """

    deterministic = False

    def __init__(self, decision: Decision, every: int = 0) -> None:
        self._decision, self.every = decision, every

    def needs(self, workers: int) -> int:
        return 0

    def may_start(self, log_state: LogState, worker: int, seq: int, last_base: int) -> bool:
        return False

    def decide(self, log_state: LogState, arrived: Sequence[Update]) -> Decision:
        return self._decision

    def progress(self, log_state: LogState) -> float:
        return 0.0

    def leaves(self, log_state: LogState, worker: int, seq: int) -> bool:
        return True

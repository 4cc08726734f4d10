"""Bulk synchronous parallel: a commit is one optimizer step on the mean of all N updates of the round.

Source: Valiant, "A bridging model for parallel computation" (1990); LambdaML (arXiv 2105.07806) as GA-SGD.
"""

from __future__ import annotations

from collections.abc import Sequence

from lambdaml.log.records import Update
from lambdaml.log.view import View
from lambdaml.schedules import Decision


class Bsp:
    """Every worker waits for every other. Staleness is 0; one straggler holds up all."""

    agreed = True

    def needs(self, workers: int) -> int:
        return workers

    def may_start(self, view: View, worker: int, seq: int, last_base: int) -> bool:
        return view.fated[worker] == seq

    def decide(self, view: View, arrived: Sequence[Update]) -> Decision | None:
        round_ = {update.worker: update for update in arrived if update.seq == view.fated[update.worker]}
        if len(round_) < view.workers:
            return None
        return Decision([[round_[worker] for worker in range(view.workers)]])

    def progress(self, view: View) -> float:
        return view.commit / view.steps

    def leaves(self, view: View, worker: int, seq: int) -> bool:
        return seq >= view.steps

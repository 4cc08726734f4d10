"""The protocol of what a machine does with travelling models; see `lambdaml.log.tuning`."""

from __future__ import annotations

from typing import Protocol

from lambdaml.log.records import Body, Update
from lambdaml.log.tuning import Tuning


class Travels(Protocol):
    """Packs and judges travelling models.

    Attributes:
        tuning: The tuning of the run.
    """

    tuning: Tuning

    def own(self, update: Update) -> bytes:
        """Return the bytes of its worker's own model, right after this update was computed."""

    def judge(self, worker: int, seq: int, body: Body) -> tuple[int, int] | None:
        """Return how many answers of a model are right on data of this worker, and of how many; None if it has no answer.
        The state is left as it was."""

"""What a log entry of a tuned run says beside its updates: what they sent, and what the run's tuner made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lambdaml.log.members import demand_type

DERIVED = -1
"""This stands in the place of a control entry's number if the run's tuner made the change, so that nobody asked for it."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """An account of what was sent with one value of a run's knob, and of what its tuner knows.

    Attributes:
        sent_bytes: The bytes of the bodies of updates: of those of a log entry or, in a log state, of all since the latest
            decision.
        updates: The number of these updates.
        batches: The number of a worker's batches, if a tuner decides how many an update covers: of those of a log entry or, in a
            log state, of all so far. It is 0 if it decides something else.
        loss: The accuracy loss that was seen with the latest travelling model; None if a log entry has none.
        state: The state of the tuner after that; None if a log entry has no decision.
    """

    sent_bytes: int = 0
    updates: int = 0
    batches: int = 0
    loss: float | None = None
    state: dict[str, Any] | None = None

    def after(self, earlier: Tuned | None) -> Tuned:
        """Return the account after a log entry, given the one before it."""
        if earlier is None:
            earlier = Tuned()
        batches = earlier.batches + self.batches
        if self.state is not None:
            return Tuned(0, 0, batches, self.loss, self.state)
        sent_bytes, updates = earlier.sent_bytes + self.sent_bytes, earlier.updates + self.updates
        return Tuned(sent_bytes, updates, batches, earlier.loss, earlier.state)

    def dump(self) -> list[Any]:
        """Return plain values."""
        return [self.sent_bytes, self.updates, self.batches, *([] if self.state is None else [self.loss, self.state])]

    @staticmethod
    def load(record: list[Any] | None) -> Tuned | None:
        """Read an account back; None if there is none.

        Raises:
            TypeError: If it holds something else.
        """
        if record is None:
            return None
        found = Tuned(*record)
        demand_type(found, int, "sent_bytes", "updates", "batches")
        if found.state is not None:
            demand_type(found, float, "loss")
            demand_type(found, dict, "state")
        return found

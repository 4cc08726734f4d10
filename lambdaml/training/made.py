"""The update that a replica has just computed, before its worker remembers it."""

from __future__ import annotations

from dataclasses import dataclass

from lambdaml.algorithms import Message
from lambdaml.codecs import Codec, Vector
from lambdaml.log.memory import Memory
from lambdaml.log.records import Update
from lambdaml.training.bodies import split_body
from lambdaml.training.feedback import Feedback
from lambdaml.training.flat import FlatGradient


@dataclass(frozen=True, slots=True)
class JustMade:
    """Holds what was computed for an update that its worker does not remember yet.

    Attributes:
        id: The worker and the number of the update.
        message: The result of computing it.
        taken: The vector that the worker's residual went into; None if it has none.
    """

    id: tuple[int, int]
    message: Message
    taken: Vector | None

    def remember(
        self, memory: Memory, update: Update, feedback: Feedback | None, codec: Codec, flat: FlatGradient
    ) -> None:
        """Fold it into its worker's memory, which counts it already."""
        residual = {} if feedback is None else feedback.kept(memory)
        memory.arrays, memory.values = {**self.message.arrays, **residual}, self.message.values
        if feedback is not None and self.taken is not None:
            encoded, rows, _ = split_body(update.body)
            if codec.exact and not rows:
                taken = codec.values(encoded, flat.layout)[:]  # in memory that the update holds anyway
                taken.flags.writeable = False
            else:
                taken = self.taken.copy() if self.taken is flat.host else self.taken
            feedback.sent(memory, update.seq, taken, encoded | rows)

"""Error feedback around any codec: what an update does not carry is kept, and goes into the worker's next update.

The vector that is encoded is u = vector + decay x residual. Once the fate of the update is known, what was not applied
of u returns to the residual: u - weight x sent if it was applied with that weight, all of u if it was refused. So
nothing that a codec leaves out, a rule damps or a schedule discards is lost.

A worker's own model is its base with all that it has made and the base does not hold yet: what its next update takes up of the
residual, and the whole vectors of its updates without a fate, sent or not. For a worker has applied its own updates.

Sources: Seide et al., "1-bit SGD" (Interspeech 2014); Karimireddy et al., "Error feedback fixes SignSGD" (arXiv
1901.09847). The decay is that of SparseLoCo (arXiv 2508.15706), where it is 0.95; 1 keeps everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lambdaml.codecs import Vector
from lambdaml.log.memory import Arrays, Memory, PendingUpdate
from lambdaml.log.records import Body

AddSent = Callable[[Body, float, Vector], None]
"""A function that adds weight times what a body says to a vector, in place."""

_RESIDUAL = "residual"
_BLOCK = 2**18


class Feedback:
    """Keeps the residuals of one replica's workers, in their memories.

    Args:
        decay: The share of the residual that an update takes up.
        exact: Whether a body always says all of its vector.
        add_sent: Adds what an encoded body says to a vector.
    """

    def __init__(self, decay: float, exact: bool, add_sent: AddSent) -> None:
        self._decay = decay
        self._exact = exact
        self._add_sent = add_sent

    def take_up(self, memory: Memory, vector: Vector, stays: Sequence[slice] = ()) -> Vector:
        """Return u, which is the vector itself if there is no residual. Neither it nor the memory is changed.

        Args:
            stays: The places that the update does not carry. The residual there does not decay.
        """
        residual = memory.arrays.get(_RESIDUAL)
        if residual is None:
            return vector
        if self._decay == 1.0:
            return residual + vector
        taken: Vector = residual * residual.dtype.type(self._decay)
        for span in stays:
            taken[span] = residual[span]
        taken += vector
        return taken

    def unsent(self, memory: Memory) -> Vector | None:
        """Return how far a worker's own model is ahead of its base, in an array that nobody may change; None if
        it is not."""
        parts = [memory.pending[seq].vector for seq in sorted(memory.pending)]
        residual = memory.arrays.get(_RESIDUAL)
        if residual is not None:
            parts.append(residual * residual.dtype.type(self._decay))
        return sum(parts[1:], parts[0]) if parts else None

    def kept(self, memory: Memory) -> Arrays:
        """Return the residual, as an array of the memory."""
        return {name: array for name, array in memory.arrays.items() if name == _RESIDUAL}

    def sent(self, memory: Memory, seq: int, taken: Vector, body: Body) -> None:
        """Note that update `seq` carries this body in place of `taken`, which the residual went into. Nobody else may
        change `taken` from now on."""
        memory.arrays.pop(_RESIDUAL, None)
        memory.pending[seq] = PendingUpdate(taken, body)

    def give_back(self, memory: Memory, pending: PendingUpdate, weight: float) -> None:
        """Return to the residual what was not applied of an update. Its vector is used up."""
        residual = memory.arrays.get(_RESIDUAL)
        if self._exact and weight == 1.0 and residual is None:
            return
        rest = pending.vector
        if (weight or residual is not None) and not rest.flags.writeable:
            rest = rest.copy()
        if weight:
            self._add_sent(pending.body, -weight, rest)
        if residual is not None:
            rest += residual
        if _any(rest):
            memory.arrays[_RESIDUAL] = rest
        else:
            memory.arrays.pop(_RESIDUAL, None)


def _any(vector: Vector) -> bool:
    """Return whether a number of the vector is not zero. Most vectors say so at their beginning."""
    return any(vector[start : start + _BLOCK].any() for start in range(0, len(vector), _BLOCK))

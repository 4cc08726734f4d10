"""Adds up the gradients of several batches in the places and with the bits that a sum of their updates has."""

from __future__ import annotations

import numpy as np

from lambdaml.codecs import UpdateContext
from lambdaml.log.records import Body
from lambdaml.training.bodies import buffer_name
from lambdaml.training.buffers import Buffers
from lambdaml.training.flat import FlatGradient
from lambdaml.training.rows import Rows
from lambdaml.training.step_sum import DENSE, StepSum, Write


class ModelGradientSum:
    """One sum. It is a `lambdaml.algorithms.GradientSum`.

    Args:
        flat: The flat gradient of the model.
        rows: Finds the rows of embeddings that a gradient touches.
        buffers: The buffers of the model.
        nominal: The number of samples whose gradient has the factor 1.
    """

    def __init__(self, flat: FlatGradient, rows: Rows, buffers: Buffers, nominal: int) -> None:
        self._flat, self._rows, self._buffers, self._nominal = flat, rows, buffers, nominal
        self._out = np.empty(flat.size, flat.layout.dtype)
        self._sum = StepSum(self._out)
        self._kept = buffers.keep()
        self._changed: Body = {}
        self._added = 0

    def add(self, worker: int, samples: int) -> None:
        """Add the gradient of a batch of this worker that is in the flat gradient now, and set the buffers back."""
        self._sum.add(worker, samples / self._nominal, self._writer())
        changed = self._buffers.changes(self._kept)
        self._buffers.restore(self._kept)
        self._changed |= {buffer_name(name, self._added): array for name, array in changed.items()}
        self._added += 1

    def finish(self) -> Body:
        """Leave the sum in the flat gradient, and return the buffers that each batch changed."""
        self._sum.finish()
        self._flat.put(self._out)
        return self._changed

    def _writer(self) -> Write:
        vector = self._flat.to_host()
        rows = self._rows.find(vector)
        layout = self._rows.layout(rows)
        body = DENSE.encode(self._rows.pack(vector, rows), layout, UpdateContext())
        return lambda weight, out, *, fresh: self._rows.add(DENSE, body, rows, weight, out, fresh)

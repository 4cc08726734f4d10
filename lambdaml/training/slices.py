"""What a replica does with slices of updates: it checks them, adds them up, and puts the sums together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lambdaml.codecs import Codec, Layout, UpdateContext, Vector
from lambdaml.errors import BadObject
from lambdaml.log.records import Body, Entry, Update
from lambdaml.log.slices import APART_BYTES, Block, Part, Slicing
from lambdaml.training.flat import layout_of
from lambdaml.training.numerics import squares
from lambdaml.training.step_sum import SUM, StepSum, factor_of, writer

if TYPE_CHECKING:
    from torch import nn

    from lambdaml.parts import Parts
    from lambdaml.training.job_model import JobModel


def slicing_of(codec: Codec, layout: Layout, count: int, whole: bool = False) -> Slicing:
    """Return how vectors of this layout are cut into so many slices. The codec's records have a fixed length, so two of
    them tell what all look like.

    Args:
        whole: Whether updates must be whole objects, however large they are.
    """
    assert codec.record is not None
    elements = codec.record[0]
    two = Layout.flat(2 * elements, layout.dtype)
    body = codec.encode(np.zeros(two.size, two.dtype), two, UpdateContext())
    parts = []
    for name, array in sorted(body.items()):
        cut = array.shape[:1] == (2,)
        parts.append(Part(name, array.dtype.name, array.shape[1:] if cut else array.shape, cut))
    slicing = Slicing(count, layout.size, elements, tuple(parts))
    large = sum(map(slicing.length, range(count))) > APART_BYTES
    return replace(slicing, apart=large and not whole)


def unsliceable(parts: Parts, model: nn.Module) -> str:
    """Return why updates of this model cannot be cut as the run's pattern wants, as the end of a sentence, or ""."""
    if not parts.slices:
        return ""
    if any(getattr(module, "sparse", False) is True for module in model.modules()):
        return "cuts vectors at fixed places, and sparse gradients of embeddings have none: use gather or tree"
    records = slicing_of(parts.codec, layout_of(model), parts.slices).records
    if parts.slices > records:
        return f"cuts vectors into {parts.slices} slices, and this model's have only {records} that can be read alone"
    return ""


class VectorSlices:
    """The slices of one model's updates. It is a `lambdaml.worker.machine.Slices`."""

    def __init__(self, parts: Parts, model: JobModel, slicing: Slicing) -> None:
        self.slicing = slicing
        self._parts, self._model, self._layout = parts, model, model.layout

    @staticmethod
    def of(parts: Parts, model: JobModel) -> VectorSlices | None:
        """Return the slices of a run's updates; None if they are written as a whole."""
        if not parts.slices:
            return None
        slicing = slicing_of(parts.codec, model.layout, parts.slices, whole=parts.remembers or parts.delay > 0)
        return VectorSlices(parts, model, slicing)

    def size_bytes(self, index: int) -> int:
        """Return the bytes that a slice takes in memory."""
        return self.slicing.length(index)

    def check(self, block: Block, index: int) -> tuple[str, float]:
        """Return why an update with this slice must be rejected, or "", and the sum of its numbers' squares."""
        codec, layout = self._parts.codec, self._of(index)
        if fault := codec.check(block.body, layout):
            return fault, 0.0
        vector = codec.values(block.body, layout)
        with np.errstate(over="ignore", invalid="ignore"):
            if not math.isfinite(float(vector.sum())) and not np.isfinite(vector).all():
                return "gradient is not finite", 0.0
            return "", squares(vector)

    def summing(self, index: int) -> SliceSum:
        """Begin a sum of the slices of this number."""
        return SliceSum(self._parts, self._of(index), self._model)

    def assemble(self, bodies: Sequence[Body]) -> Body:
        """Return the whole sum, given those of all slices in order.

        Raises:
            BadObject: If they are none of this model.
        """
        if not all(bodies):
            return {}
        whole = np.empty(self._layout.size, self._layout.dtype)
        for index, body in enumerate(bodies):
            self.place(whole, index, body)
        return {SUM: whole}

    def place(self, whole: Vector, index: int, body: Body) -> None:
        """Write the sum of a slice to its place in a vector.

        Raises:
            BadObject: If it is none of this model.
        """
        span = self.slicing.span(index)
        piece = body.get(SUM)
        if piece is None or (piece.shape, piece.dtype) != (whole[span].shape, whole.dtype):
            raise BadObject(f"the sum of slice {index} is none of this model's")
        whole[span] = piece

    def _of(self, index: int) -> Layout:
        span = self.slicing.span(index)
        return Layout.flat(span.stop - span.start, self._layout.dtype)


class SliceSum:
    """A sum of one slice of updates. It is a `lambdaml.worker.machine.Summing`."""

    def __init__(self, parts: Parts, layout: Layout, model: JobModel) -> None:
        self._parts, self._codec, self._layout, self._model = parts, parts.codec, layout, model
        self._out: Vector = np.empty(layout.size, layout.dtype)
        self._sum = StepSum(self._out, parts.bracket)

    def add(self, entry: Entry, update: Update) -> None:
        """Add the slice in an update's body."""
        whole = slice(0, self._layout.size)

        def write(weight: float, out: Vector, *, fresh: bool) -> None:
            self._codec.add(update.body, weight, out, self._layout, whole, fresh=fresh)

        self._sum.add(entry.worker, factor_of(entry, self._parts, self._model), write)

    def join(self, entries: Sequence[Entry], body: Body) -> None:
        """Add the sum of other updates' slices."""
        self._sum.add(entries[0].worker, None, writer(body[SUM]))

    def finish(self) -> Body:
        """End the sum and return it."""
        self._sum.finish()
        return {SUM: self._out} if self._sum.used else {}

"""Gradients that touch few rows travel as those rows: `nn.Embedding(sparse=True)` and `nn.EmbeddingBag(sparse=True)`.

A batch uses some of an embedding's rows, and the gradient of all others is zero. The codec encodes the flat gradient
without those zeros; beside it, part `r<number of the parameter>` lists the rows that are left, int64 and rising. Sums
are taken in the places of the rows, so they have the bits of dense sums, and optimizers see dense gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lambdaml.codecs import Codec, Layout, Vector
from lambdaml.log.records import Body


class _Span(NamedTuple):
    """Holds the place of a parameter in the flat gradient, and how many numbers a row of it has."""

    start: int
    stop: int
    width: int


class Rows:
    """Handles the parameters of one model whose gradients may travel by rows.

    Args:
        model: The model.
        parameters: The trained parameters, in their order in the flat gradient.
        layout: The layout of the flat gradient.
    """

    def __init__(self, model: nn.Module, parameters: Sequence[Tensor], layout: Layout) -> None:
        sparse = [
            module.weight for module in model.modules() if getattr(module, "sparse", False) is True and _has(module)
        ]
        self._layout = layout
        self._spans: dict[int, _Span] = {}
        for number, (parameter, span) in enumerate(zip(parameters, layout.spans, strict=True)):
            length = span.stop - span.start
            if length and any(parameter is weight for weight in sparse):
                self._spans[number] = _Span(span.start, span.stop, length // parameter.shape[0])

    def find(self, gradient: NDArray[Any]) -> Body:
        """Return the rows of this gradient that travel, for each parameter where this saves bytes."""
        found = {}
        for number, span in self._spans.items():
            bits = gradient[span.start : span.stop].view(f"u{gradient.itemsize}").reshape(-1, span.width)
            rows = np.flatnonzero(bits.any(axis=1))
            if len(rows) * (span.width + 2) < span.stop - span.start:
                found[f"r{number}"] = rows.astype(np.int64)
        return found

    def pack(self, gradient: NDArray[Any], rows: Body) -> NDArray[Any]:
        """Return the gradient without the numbers that `rows` leaves out; the gradient itself if it leaves out none."""
        if not rows:
            return gradient
        pieces = []
        for span, kept in self._pieces(rows):
            piece = gradient[span.start : span.stop]
            pieces.append(piece if kept is None else piece.reshape(-1, span.width)[kept].reshape(-1))
        return np.concatenate(pieces)

    def layout(self, rows: Body) -> Layout:
        """Return the layout of what is left of a gradient."""
        if not rows:
            return self._layout
        shapes = list(self._layout.shapes)
        for name, kept in rows.items():
            number = int(name[1:])
            shapes[number] = (len(kept), *shapes[number][1:])
        return Layout(tuple(shapes), self._layout.dtype)

    def check(self, rows: Body) -> str:
        """Return what is wrong with the rows of an update; "" if nothing is."""
        for name, kept in rows.items():
            span = self._spans.get(int(name[1:]))
            if span is None:
                return f"holds {name!r}, which is no part of an update to this model"
            most = (span.stop - span.start) // span.width
            if kept.dtype != np.int64 or kept.ndim != 1 or (np.diff(kept, prepend=-1, append=most) < 1).any():
                return "names rows that the model does not have"
        return ""

    def add(self, codec: Codec, body: Body, rows: Body, weight: float, out: Vector, fresh: bool) -> None:
        """Add weight * gradient to `out`, or overwrite `out` with it if `fresh`."""
        at, layout = 0, self.layout(rows)
        for span, kept in self._pieces(rows):
            place = out[span.start : span.stop]
            elements = slice(at, at + _length(span, kept))
            at = elements.stop
            if kept is None:
                codec.add(body, weight, place, layout, elements, fresh=fresh)
                continue
            product = np.empty(elements.stop - elements.start, out.dtype)
            codec.add(body, weight, product, layout, elements, fresh=True)
            if fresh:
                place[:] = 0
            table, terms = place.reshape(-1, span.width), product.reshape(-1, span.width)
            table[kept] = terms if fresh else table[kept] + terms

    def unpack(self, codec: Codec, body: Body, rows: Body) -> Vector:
        """Return the whole gradient, in an array of its own."""
        whole = np.empty(self._layout.size, self._layout.dtype)
        self.add(codec, body, rows, 1.0, whole, fresh=True)
        return whole

    def _pieces(self, rows: Body) -> Iterator[tuple[_Span, NDArray[Any] | None]]:
        """Yield the flat gradient in order, in pieces: those that travel whole, and parameters of which some rows
        do."""
        at = 0
        for number in sorted(int(name[1:]) for name in rows):
            span = self._spans[number]
            if span.start > at:
                yield _Span(at, span.start, 1), None
            yield span, rows[f"r{number}"]
            at = span.stop
        if at < self._layout.size:
            yield _Span(at, self._layout.size, 1), None


def _length(span: _Span, kept: NDArray[Any] | None) -> int:
    """Return how many numbers of a piece travel."""
    return span.stop - span.start if kept is None else len(kept) * span.width


def _has(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)

"""Gradients that touch few rows travel as those rows: `nn.Embedding(sparse=True)` and `nn.EmbeddingBag(sparse=True)`.

A batch uses some of an embedding's rows, and the gradient of all others is zero. The codec encodes the flat gradient
without those zeros; beside it, part `r<number of the parameter>` lists the rows that are left, int64 and rising. Sums
are taken in the places of the rows, so they have the bits of dense sums, and optimizers see dense gradients.

Where updates carry one fragment of the model each (`lambdaml.algorithms.fragments`), the codec encodes that fragment alone.
Part `fragment` says which one it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lambdaml.algorithms.fragments import divide, fragment_layouts
from lambdaml.codecs import Codec, Layout, Vector
from lambdaml.log.records import Body

FRAGMENT = "fragment"
"""This part of an update says which fragment it carries (one int32)."""


class _Span(NamedTuple):
    """Holds the place of a parameter in the flat gradient, and how many numbers a row of it has."""

    start: int
    stop: int
    width: int


class Rows:
    """Handles the parts of one model's gradients that travel: a fragment of the parameters, and rows of some of these.

    Args:
        model: The model.
        parameters: The trained parameters, in their order in the flat gradient.
        layout: The layout of the flat gradient.
        fragments: The number of fragments in which updates carry the parameters.

    Attributes:
        layouts: The layout of each fragment.
    """

    def __init__(self, model: nn.Module, parameters: Sequence[Tensor], layout: Layout, fragments: int = 1) -> None:
        sparse = [
            module.weight for module in model.modules() if getattr(module, "sparse", False) is True and _has(module)
        ]
        self._layout = layout
        self._fragments, self.layouts = divide(layout, fragments), fragment_layouts(layout, fragments)
        self._spans: dict[int, _Span] = {}
        for number, (parameter, span) in enumerate(zip(parameters, layout.spans, strict=True)):
            length = span.stop - span.start
            if length and any(parameter is weight for weight in sparse):
                self._spans[number] = _Span(span.start, span.stop, length // parameter.shape[0])

    def travels(self, seq: int) -> Body:
        """Return the part of an update of this number that says which fragment it carries, if there are several."""
        count = len(self._fragments)
        return {FRAGMENT: np.array([seq % count], np.int32)} if count > 1 else {}

    def stays(self, seq: int) -> list[int]:
        """Return the numbers of the parameters that an update of this number does not carry."""
        carried = seq % len(self._fragments)
        return [one for number, others in enumerate(self._fragments) if number != carried for one in others]

    def find(self, gradient: NDArray[Any], seq: int = 0) -> Body:
        """Return what travels of this gradient in an update of this number: the fragment, and the rows of each parameter
        where this saves bytes."""
        found = self.travels(seq)
        numbers = self._numbers(found)
        for number, span in self._spans.items():
            if number not in numbers:
                continue
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
        shapes = self._layout.shapes
        left = (
            (len(rows[f"r{number}"]), *shapes[number][1:]) if f"r{number}" in rows else shapes[number]
            for number in self._numbers(rows)
        )
        return Layout(tuple(left), self._layout.dtype)

    def check(self, rows: Body, seq: int = 0) -> str:
        """Return what is wrong with the fragment or the rows of an update of this number; "" if nothing is."""
        due = self.travels(seq)
        if _said(rows) != _said(due):
            return f"does not carry fragment {seq % len(self._fragments)} of {len(self._fragments)}"
        numbers = self._numbers(due)
        for name, kept in rows.items():
            if name == FRAGMENT:
                continue
            span = self._spans.get(int(name[1:]))
            if span is None or int(name[1:]) not in numbers:
                return f"holds {name!r}, which is no part of an update to this model"
            most = (span.stop - span.start) // span.width
            if kept.dtype != np.int64 or kept.ndim != 1 or (np.diff(kept, prepend=-1, append=most) < 1).any():
                return "names rows that the model does not have"
        return ""

    def add(self, codec: Codec, body: Body, rows: Body, weight: float, out: Vector, fresh: bool) -> None:
        """Add weight * gradient to `out`, or overwrite `out` with it if `fresh`."""
        at, layout = 0, self.layout(rows)
        if fresh and FRAGMENT in rows:
            out[:] = 0
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
        """Yield what travels of the flat gradient in order, in pieces: those that travel whole, and parameters of which
        some rows do."""
        start = stop = 0
        for number in self._numbers(rows):
            place, kept = self._layout.spans[number], rows.get(f"r{number}")
            if kept is not None or place.start > stop:
                if stop > start:
                    yield _Span(start, stop, 1), None
                start = place.start
            stop = place.stop
            if kept is not None:
                yield self._spans[number], kept
                start = stop
        if stop > start:
            yield _Span(start, stop, 1), None

    def _numbers(self, rows: Body) -> Sequence[int]:
        """Return the numbers of the parameters that travel, rising."""
        return self._fragments[int(rows[FRAGMENT][0])] if FRAGMENT in rows else range(len(self._layout.shapes))


def _said(rows: Body) -> tuple[str, list[int]] | None:
    """Return the dtype and the contents of the part that says which fragment travels; None if there is none."""
    return (rows[FRAGMENT].dtype.name, rows[FRAGMENT].tolist()) if FRAGMENT in rows else None


def _length(span: _Span, kept: NDArray[Any] | None) -> int:
    """Return how many numbers of a piece travel."""
    return span.stop - span.start if kept is None else len(kept) * span.width


def _has(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)

"""Codecs that send some numbers of a vector, each with its place.

A body holds two arrays of the same length: `index`, the places, int32 (int64 if the vector has 2^31 numbers or more) and
rising, and `value`, the numbers there in the vector's own dtype. So a float32 number takes 8 bytes, and a density of
0.001 takes 0.2 % of the bytes of `fp32`. Numbers that are not sent are decoded as zeros.

Of d numbers, k = max(floor(d * density), 1) are to be sent. That is counted over the whole vector, or over each tensor
by itself (`per=tensor`), which sends something of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import Layout, UpdateContext, Vector
from lambdaml.codecs.selection import index_dtype
from lambdaml.log.records import Body
from lambdaml.tuners import Knob

_BLOCK = 2**18
"""Numbers are added in blocks of this many, so that no intermediate value has the size of what is sent."""

_PACE = "warmup"
"""The name of the knob that says how many stages of its warm-up a codec goes through in an epoch."""


class Places:
    """Adds and checks bodies of places and their numbers."""

    record = None
    feedback = True
    needs: frozenset[str] = frozenset()

    def misfit(self, layout: Layout) -> str:
        return ""

    def check(self, body: Body, layout: Layout) -> str:
        if set(body) != {"index", "value"}:
            return f"holds {', '.join(sorted(body)) or 'nothing'} where an index and a value are due"
        index, value, dtype = body["index"], body["value"], index_dtype(layout.size)
        if index.ndim != 1 or index.dtype != dtype:
            return f"has an index of shape {index.shape} {index.dtype.name}, not one of {dtype.name}"
        if value.shape != index.shape or value.dtype != layout.dtype:
            return f"has a value of shape {value.shape} {value.dtype.name}, not {index.shape} {layout.dtype}"
        if len(index) and (index[0] < 0 or index[-1] >= layout.size or not (index[1:] > index[:-1]).all()):
            return f"has an index that does not rise from number to number within a vector of {layout.size}"
        return ""

    def values(self, body: Body, layout: Layout) -> Vector:
        return body["value"]

    def add(
        self, body: Body, weight: float, out: Vector, layout: Layout, elements: slice, *, fresh: bool = False
    ) -> None:
        index = body["index"]
        if fresh:
            out.fill(0.0 * weight)
        first, last = np.searchsorted(index, np.array([elements.start, elements.stop], index.dtype)).tolist()
        for start in range(first, last, _BLOCK):
            block = slice(start, min(start + _BLOCK, last))
            places, values = index[block] - elements.start, body["value"][block]
            if fresh and weight == 1.0:
                out[places] = values  # a product would quieten a NaN
            elif fresh:
                out[places] = values * weight
            else:
                out[places] += values * weight  # no place occurs twice


class Density(Places):
    """Sends a share of the numbers. It knows how many these are.

    Args:
        density: The part of the numbers that is sent, above 0 and at most 1.
        per: Whether the part is taken of each `tensor`, or of the whole vector (`model`).
        warmup: The densities of a worker's first epochs, with slashes between them; where `density` is larger, it takes
            their place. The schedule of the Top-k paper is `0.015625/0.004` (authors' code, hclhkbu/GaussianK-SGD), that
            of Deep Gradient Compression `0.25/0.0625/0.015625/0.004` (arXiv 1712.01887). Its pace is the codec's knob: the
            number of these densities that an epoch goes through, at first 1.
    """

    def __init__(self, density: float, per: str = "model", warmup: str = "") -> None:
        if per not in ("model", "tensor"):
            raise ValueError(f"per must be model or tensor, not {per!r}")
        self.per_tensor = per == "tensor"
        self.density = _share(density, "density")
        early = [_share(piece, "warmup") for piece in warmup.split("/")] if warmup else []
        self.densities = [*(max(density, share) for share in early), density]
        self.knob = Knob(_PACE, 1.0) if early else None
        self.exact = density == 1.0
        self.feedback = not self.exact

    def density_of(self, context: UpdateContext) -> float:
        """Return the density of an update."""
        stage = int(context.epoch * context.changed.get(_PACE, 1.0))
        return self.densities[min(stage, len(self.densities) - 1)]

    def count(self, layout: Layout, density: float) -> int:
        """Return how many numbers are sent, k."""
        return sum(share_of(span.stop - span.start, density) for span in self.spans(layout))

    def spans(self, layout: Layout) -> list[slice]:
        """Return the parts of the vector of which a share each is sent."""
        return layout.spans if self.per_tensor else [slice(0, layout.size)]

    def miscounted(self, count: int, layout: Layout) -> str:
        """Return that this is not how many numbers are sent, or "" if it is."""
        due = {self.count(layout, density) for density in self.densities}
        return "" if count in due else f"has {count} numbers where {min(due)} are due"


class DensityCodec(Density):
    """Sends a share of the numbers, with their places. A subclass says which.

    Attributes:
        fixed: Whether the number of numbers that are sent is exactly k.
    """

    fixed: bool

    def select(self, vector: Vector, count: int, context: UpdateContext) -> NDArray[Any]:
        """Return the rising places of the numbers to send, about `count` of them, fewer than the vector has."""
        raise NotImplementedError

    def expected_bytes(self, layout: Layout) -> int:
        return self.count(layout, self.density) * (index_dtype(layout.size).itemsize + layout.itemsize)

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        density = self.density_of(context)
        dtype, found = index_dtype(layout.size), []
        for span in self.spans(layout):
            piece, count = vector[span], share_of(span.stop - span.start, density)
            places = np.arange(count) if count == len(piece) else self.select(piece, count, context)
            found.append(places.astype(dtype, copy=False) + dtype.type(span.start))
        index = np.concatenate(found) if len(found) > 1 else found[0]
        return {"index": index, "value": vector if len(index) == len(vector) else vector[index]}

    def check(self, body: Body, layout: Layout) -> str:
        fault = super().check(body, layout)
        return fault if fault or not self.fixed else self.miscounted(len(body["index"]), layout)


def share_of(size: int, density: float) -> int:
    """Return k for this many numbers: a share of them, but at least one of any."""
    return min(max(int(size * density), 1), size)


def _share(value: float | str, name: str) -> float:
    share = float(value)
    if not 0.0 < share <= 1.0:
        raise ValueError(f"{name} must be above 0 and at most 1, not {value}")
    return share

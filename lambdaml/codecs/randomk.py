"""The codec `randomk:DENSITY` sends numbers at random places.

A body holds two arrays: `seed`, one int64, from which whoever reads the body draws the places again, and `value`, the
k numbers there in the order of their places, in the vector's own dtype. So a float32 number takes 4 bytes, half of what
it takes with its place.

Numbers are drawn from the raw output of the counter-based generator Philox-4x64-10 (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011), whose key is the seed and, in its upper 64 bits, the number of the tensor. The
place is the remainder of its division by the number of places; a place that was drawn before does not count. Where more
than half are sent, the others are drawn.

The expected error is exactly 1 - k/d of the squared norm (Stich et al., arXiv 1809.07599), whatever the vector. That is
what other codecs are to be compared with. If a number of the vector is not finite, the first such takes the place of the
first value, so that every replica rejects the update.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import Layout, UpdateContext, Vector
from lambdaml.codecs.places import Density, share_of
from lambdaml.codecs.selection import index_dtype
from lambdaml.log.records import Body

_BLOCK = 2**16
"""Vectors are looked through in blocks of this many numbers, so that no intermediate value has the vector's size."""

_MANY = 16
"""From one place in this many on, the drawn places are marked instead of sorted."""


class RandomK(Density):
    """Sends the numbers at random places; all others are decoded as zeros."""

    def expected_bytes(self, layout: Layout) -> int:
        return 8 + self.count(layout, self.density) * layout.itemsize

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        seed = np.array([context.seed], np.int64)
        places = self._places(seed, layout, self.density_of(context))
        if len(places) == len(vector):
            return {"seed": seed, "value": vector}
        value = vector[places]
        value[:1] = _first_not_finite(vector, value[:1])
        return {"seed": seed, "value": value}

    def check(self, body: Body, layout: Layout) -> str:
        if set(body) != {"seed", "value"}:
            return f"holds {', '.join(sorted(body)) or 'nothing'} where a seed and a value are due"
        seed, value = body["seed"], body["value"]
        if seed.shape != (1,) or seed.dtype != np.int64:
            return f"has a seed of shape {seed.shape} {seed.dtype.name}, not (1,) int64"
        if value.ndim != 1 or value.dtype != layout.dtype:
            return f"has a value of shape {value.shape} {value.dtype.name}, not one of {layout.dtype}"
        return self.miscounted(len(value), layout)

    def add(
        self, body: Body, weight: float, out: Vector, layout: Layout, elements: slice, *, fresh: bool = False
    ) -> None:
        value = body["value"]
        density = next(density for density in self.densities if self.count(layout, density) == len(value))
        places = self._places(body["seed"], layout, density)
        super().add({"index": places, "value": value}, weight, out, layout, elements, fresh=fresh)

    def _places(self, seed: NDArray[np.int64], layout: Layout, density: float) -> NDArray[Any]:
        dtype, found, low = index_dtype(layout.size), [], int(seed.view(np.uint64)[0])
        for number, span in enumerate(self.spans(layout)):
            size = span.stop - span.start
            found.append(drawn(low + (number << 64), share_of(size, density), size, dtype))
            found[-1] += dtype.type(span.start)
        return np.concatenate(found) if len(found) > 1 else found[0]


def drawn(key: int, count: int, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return `count` distinct rising places below `size`.

    As many numbers are drawn at once as places are lacking, and all new ones are kept. That gives the same places as one
    number after the other would.
    """
    generator = np.random.Philox(key=key)
    if _MANY * count > size:
        others = count > size - count
        marked = _marked(generator, size - count if others else count, size)
        return np.flatnonzero(marked != others).astype(dtype)
    places = np.empty(0, dtype)
    while len(places) < count:
        more = _remainders(generator, count - len(places), size).astype(dtype)
        places = np.sort(np.concatenate([places, np.sort(more)]), kind="stable")  # it merges two runs
        places = places[np.diff(places, prepend=dtype.type(-1)) > 0]
    return places


def _marked(generator: np.random.Philox, count: int, size: int) -> NDArray[np.bool_]:
    """Return where the drawn places are. This is quicker than a sort where these are many."""
    marked, lacking = np.zeros(size, bool), count
    while lacking:
        for start in range(0, lacking, _BLOCK):
            marked[_remainders(generator, min(_BLOCK, lacking - start), size)] = True
        lacking = count - int(np.count_nonzero(marked))
    return marked


def _remainders(generator: np.random.Philox, count: int, size: int) -> NDArray[np.int64]:
    numbers: NDArray[np.uint64] = generator.random_raw(count)
    numbers %= np.uint64(size)
    return numbers.view(np.int64)


def _first_not_finite(vector: Vector, otherwise: Vector) -> Vector:
    """Return the first number that is not finite, in an array."""
    for start in range(0, len(vector), _BLOCK):
        block = vector[start : start + _BLOCK]
        finite = np.isfinite(block)
        if not finite.all():
            return block[~finite][:1]
    return otherwise


def variants() -> list[str]:
    """Return the variants worth trying."""
    return ["randomk:0.01"]

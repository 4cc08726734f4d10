"""The codec `sparse` sends 64 of every 4,096 numbers in 0.158 bit per parameter: two bits for each number, and places in
the length that Elias and Fano give.

A body holds two arrays. `chunks` is uint8 of shape (ceil(d / 4096), 81): each row is the record of 4,096 numbers, of
which the last is filled up with zeros. `base` is float32 of shape (1,). A record of `keep` = 64 places p_i, which rise,
and their numbers consists of

* 2 keep bits, of which those at (p_i >> low) + i are set, where low is 12 - log2(keep) = 6;
* low times keep bits: bit i of those with number b is bit b of p_i;
* keep bits that are set where the number is negative;
* keep bits that are set where the number has the upper of the chunk's two magnitudes, and not the lower;
* a byte of which the lower 6 bits are a scale s, and the upper 2 say whether a ratio r is 0, 5/16, 10/16 or 13/16.

Bit i of a series is in byte i // 8 at 2^(i mod 8). The upper magnitude is base (1 + (s mod 4) / 4) 2^(s // 4 - 15), or 0
if s is 0; the lower is r times the upper. Both are exact in float64 and rounded once, to float32, so that every machine
decodes the same bits. Places beyond the vector mean nothing.

The numbers of the largest magnitude are sent; of equal ones the first. With U and L the sums of the u larger magnitudes
and of the l others, the best scale for a ratio r is (U + r L) / (u + r^2 l), and it lowers the squared error by (U + r
L)^2 / (u + r^2 l). For each r the best u is taken; the largest scale of the vector is 7/4 of the base; then each chunk
takes the ratio of which the nearest scale that can be written lowers its error most, and each number the nearer level.
So nothing makes a chunk's error larger than the chunk, and error feedback sends all of it in the end. A chunk of which
the scale is below 2^-16 of the largest is sent as zeros until it has grown.

The squared error of what is selected is about 0.5 % of its squares if the vector has a normal distribution, 1.4 % with
Laplace's and 5 % with Student's of 4 degrees of freedom.

Source: SparseLoCo (arXiv 2508.15706), with the same chunks and bits per number. Its authors' code (one-covenant/templar)
subtracts the mean of what is selected in a tensor, rounds to four bins of 1.5 standard deviations, and sends the mean of
each. What is selected lies in two groups, one on each side of zero, and the bins are not symmetric: nearly all of the
upper group is in one of them. Therefore one bit is the sign here. Levels of each chunk's own serve chunks of different
magnitudes, chunks with a few large numbers, and those with fewer than 64 that are not zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import Layout, UpdateContext, Vector
from lambdaml.codecs.dense import single_only
from lambdaml.log.records import Body

CHUNK = 4096
"""Numbers in a chunk."""

_ROWS = 128
"""Chunks are processed in blocks of this many, so that no intermediate value has the vector's size."""

_RATIOS = np.array([0, 5, 10, 13]) / 16
_SCALES = np.array([0.0, *((1 + s % 4 / 4) * 2.0 ** (s // 4 - 15) for s in range(1, 64))])
"""The upper magnitude for each s, as a multiple of the base."""

_LEVELS = np.stack([np.outer(_RATIOS, _SCALES), np.outer(np.ones(4), _SCALES)], axis=-1).reshape(256, 2)
"""The lower and the upper magnitude for each last byte of a record, as multiples of the base."""

_LARGEST_BASE = np.float32(np.finfo(np.float32).max / _SCALES[-1])
"""The largest base of which every multiple is finite."""


class Sparse:
    """Sends the numbers of the largest magnitudes of each chunk, each with its sign and one of two levels.

    Args:
        keep: How many of 4,096 numbers are sent, a power of two from 8 to 256.
    """

    exact = False
    feedback = True
    needs: frozenset[str] = frozenset()

    def __init__(self, keep: int = 64) -> None:
        if keep not in (8, 16, 32, 64, 128, 256):
            raise ValueError(f"keep must be a power of two from 8 to 256, not {keep}")
        self.keep = keep
        self._low = (CHUNK // keep).bit_length() - 1
        self._places_bytes = keep * (2 + self._low) // 8
        self.record = (CHUNK, self._places_bytes + keep // 4 + 1)

    def misfit(self, layout: Layout) -> str:
        return single_only(layout)

    def expected_bytes(self, layout: Layout) -> int:
        return -(-layout.size // CHUNK) * self.record[1] + 4

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        count = -(-len(vector) // CHUNK)
        chunks = np.empty((count, self.record[1]), np.uint8)
        kept, fits = np.empty((count, self.keep), np.float32), np.empty((count, 2, len(_RATIOS)))
        room = np.empty((2, min(count, _ROWS), CHUNK), np.uint32), np.empty((min(count, _ROWS), CHUNK), np.bool_)
        with np.errstate(all="ignore"):  # a vector that is not finite has a base of NaN
            for rows in _blocks(0, count):
                numbers = _filled(vector[rows.start * CHUNK : rows.stop * CHUNK])
                found = self._largest(numbers, room[0][:, : len(numbers)], room[1][: len(numbers)])
                chunks[rows, : self._places_bytes] = self._packed_places(found % CHUNK)
                kept[rows] = numbers.reshape(-1)[found]
                fits[rows] = _fit(np.abs(kept[rows]))
            base = _base(fits)
            for rows in _blocks(0, count):
                chunks[rows, self._places_bytes :] = _packed_values(kept[rows], fits[rows], base)
        return {"chunks": chunks, "base": np.array([base])}

    def check(self, body: Body, layout: Layout) -> str:
        if set(body) != {"chunks", "base"}:
            return f"holds {', '.join(sorted(body)) or 'nothing'} where chunks and a base are due"
        chunks, base, shape = body["chunks"], body["base"], (-(-layout.size // CHUNK), self.record[1])
        if chunks.shape != shape or chunks.dtype != np.uint8:
            return f"has chunks of shape {chunks.shape} {chunks.dtype.name}, not {shape} uint8"
        if base.shape != (1,) or base.dtype != np.float32:
            return f"has a base of shape {base.shape} {base.dtype.name}, not (1,) float32"
        for rows in _blocks(0, len(chunks)):
            high = self._high(chunks[rows])
            if (np.count_nonzero(high, axis=1) != self.keep).any():
                return f"has a chunk with a number of places that is not {self.keep}"
            places = self._places(high, self._planes(chunks[rows]))
            if (places[:, 1:] <= places[:, :-1]).any() or (places[:, -1] >= CHUNK).any():
                return f"has a chunk with places that do not rise from one to the next below {CHUNK}"
        return ""

    def values(self, body: Body, layout: Layout) -> Vector:
        levels, found = _signed_levels(body, 1.0), [np.empty(0, np.float32)]
        for rows in _blocks(0, len(body["chunks"])):
            places, values = self._decoded(body["chunks"], rows, levels)
            found.append(values[: np.searchsorted(places, layout.size)])
        return np.concatenate(found)

    def add(
        self, body: Body, weight: float, out: Vector, layout: Layout, elements: slice, *, fresh: bool = False
    ) -> None:
        levels = _signed_levels(body, weight)
        if fresh:
            out.fill(0.0 * weight)
        for rows in _blocks(elements.start // CHUNK, -(-elements.stop // CHUNK)):
            places, values = self._decoded(body["chunks"], rows, levels)
            places -= elements.start
            within = slice(*np.searchsorted(places, [0, len(out)]))
            if fresh:
                out[places[within]] = values[within]
            else:
                out[places[within]] += values[within]  # no place occurs twice

    def _largest(self, numbers: Vector, room: NDArray[np.uint32], chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the rising indices of the largest magnitudes of each chunk, `keep` of each; of equal ones the first.

        `room` and `chosen` are memory to work in, two arrays of the numbers' shape and one: new memory for each block
        would take half the time.
        """
        sizes, ranked = room
        np.bitwise_and(numbers.view(np.uint32), 0x7FFFFFFF, out=sizes)
        ranked[:] = sizes
        ranked.partition(CHUNK - self.keep, axis=1)
        least = ranked[:, CHUNK - self.keep, None]
        np.greater_equal(sizes, least, out=chosen)
        found = np.flatnonzero(chosen)
        if len(found) > len(numbers) * self.keep:
            row = found // CHUNK
            counts = np.bincount(row)
            equal = sizes.reshape(-1)[found] == least.reshape(-1)[row]
            seen = np.cumsum(equal)
            later = seen[np.cumsum(counts) - 1][row] - seen
            found = found[~equal | (later >= (counts - self.keep)[row])]
        return found.reshape(-1, self.keep)

    def _packed_places(self, places: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Return the bytes of a record up to the values."""
        bits = np.zeros((len(places), 2 + self._low, self.keep), np.uint8)
        flat = bits.reshape(len(places), -1)
        np.put_along_axis(flat, (places >> self._low) + np.arange(self.keep), 1, 1)
        for plane in range(self._low):
            bits[:, 2 + plane] = places >> plane & 1
        return np.packbits(flat, axis=1, bitorder="little")

    def _high(self, chunks: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return the first bits of each record, as many as there are for the upper parts of its places."""
        return np.unpackbits(chunks[:, : self.keep // 4], axis=1, bitorder="little").view(np.bool_)

    def _planes(self, chunks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the other bits, first those with number 0 of all places, and last those of the levels."""
        planes = chunks[:, self.keep // 4 : -1].reshape(len(chunks), -1, self.keep // 8).transpose(1, 0, 2)
        return np.unpackbits(np.ascontiguousarray(planes), axis=2, bitorder="little")

    def _places(self, high: NDArray[np.bool_], planes: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Return the places in each chunk, of records that have the right number of them."""
        lower = np.zeros(planes.shape[1:], np.uint16)
        for plane in reversed(planes[: self._low]):
            lower <<= 1
            lower |= plane
        places = np.flatnonzero(high).reshape(lower.shape)
        places -= np.arange(self.keep)
        places -= np.arange(0, high.size, 2 * self.keep)[:, None]
        places <<= self._low
        places |= lower
        return places

    def _decoded(self, chunks: NDArray[np.uint8], rows: slice, levels: Vector) -> tuple[NDArray[np.intp], Vector]:
        """Return the places of some chunks in the vector, which rise, and the numbers there."""
        chunks = chunks[rows]
        planes = self._planes(chunks)
        places = self._places(self._high(chunks), planes)
        places += np.arange(rows.start, rows.stop)[:, None] * CHUNK
        levels_at = (planes[-2] << 1 | planes[-1]) + 4 * chunks[:, -1:].astype(np.intp)
        return places.reshape(-1), levels.take(levels_at.reshape(-1))


def _blocks(start: int, stop: int) -> list[slice]:
    return [slice(row, min(row + _ROWS, stop)) for row in range(start, stop, _ROWS)]


def _filled(numbers: Vector) -> Vector:
    """Return whole chunks, of which the last is filled up with zeros."""
    lacking = -len(numbers) % CHUNK
    if lacking:
        numbers = np.concatenate([numbers, np.zeros(lacking, numbers.dtype)])
    return numbers.reshape(-1, CHUNK)


def _fit(sizes: Vector) -> NDArray[np.float64]:
    """Return the numerators and the denominators of each chunk's best scale for every ratio.

    A cumulative sum adds one number after the other, so it has the same bits everywhere.
    """
    sums = np.cumsum(np.sort(sizes, axis=1), axis=1, dtype=np.float64)
    lower = np.zeros_like(sums)
    lower[:, 1:] = sums[:, :-1]
    upper, count = sums[:, -1:] - lower, np.arange(sizes.shape[1])
    fits = np.empty((len(sizes), 2, len(_RATIOS)))
    for at, ratio in enumerate(_RATIOS):
        above, below = upper + ratio * lower, (sizes.shape[1] - count) + ratio**2 * count
        best = np.argmax(above * above / below, axis=1)
        fits[:, 0, at] = np.take_along_axis(above, best[:, None], 1)[:, 0]
        fits[:, 1, at] = below[best]
    return fits


def _base(fits: NDArray[np.float64]) -> np.float32:
    """Return the base of a vector from the fits of all its chunks."""
    largest = (fits[:, 0] / fits[:, 1]).max(initial=0.0)
    return np.minimum(np.float32(largest / _SCALES[-1]), _LARGEST_BASE) if np.isfinite(largest) else np.float32(np.nan)


def _levels(base: np.float32) -> NDArray[np.float32]:
    """Return the lower and the upper magnitude for each last byte of a record."""
    return (_LEVELS * np.float64(base)).astype(np.float32)


def _signed_levels(body: Body, weight: float) -> NDArray[np.float32]:
    """Return weight times the four numbers for each last byte of a record: the lower, the upper, and both below zero."""
    with np.errstate(all="ignore"):
        levels = _levels(body["base"][0]) * weight
        return np.concatenate([levels, -levels], axis=1).reshape(-1)


def _packed_values(kept: Vector, fits: NDArray[np.float64], base: np.float32) -> NDArray[np.uint8]:
    """Return the bytes of a record that follow the places."""
    above, below = fits[:, 0], fits[:, 1]
    scales = _SCALES * np.float64(base)
    nearest = np.searchsorted((scales[1:] + scales[:-1]) / 2, above / below)
    scale = scales[nearest]
    ratio = np.argmax(scale * (2 * above - scale * below), axis=1)[:, None]
    last = (64 * ratio + np.take_along_axis(nearest, ratio, 1)).astype(np.uint8)
    middle = _levels(base)[last[:, 0]].sum(axis=1, keepdims=True, dtype=np.float64) / 2
    bits = np.concatenate([np.signbit(kept), np.abs(kept) > middle], axis=1)
    return np.concatenate([np.packbits(bits, axis=1, bitorder="little"), last], axis=1)

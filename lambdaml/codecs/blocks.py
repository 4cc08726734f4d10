"""Codecs that cut a vector into blocks of the same length, and give each a scale.

A body holds one array, `blocks`, uint8 with one row for each block: four bytes for the scale, a float32 in little-endian
order, and then 256 bytes, in which each codec writes a block's numbers as parts of the scale. The last block is filled
up with zeros. As all rows have the same length, a slice of a vector can be read by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import Layout, UpdateContext, Vector, decode_vector
from lambdaml.codecs.dense import add_to, single_only
from lambdaml.log.records import Body

SCALE_BYTES = 4
ROW_BYTES = SCALE_BYTES + 256

_PIECE = 2**16
"""Vectors are processed in pieces of about this many numbers, so that no intermediate value has the vector's size."""


class Blocks:
    """Encodes, checks and adds blocks. A subclass says how one is written."""

    exact = False
    feedback: bool
    record: tuple[int, int] | None
    needs: frozenset[str] = frozenset()
    length: int
    """The numbers of a block."""

    def misfit(self, layout: Layout) -> str:
        return single_only(layout)

    def expected_bytes(self, layout: Layout) -> int:
        return self._count(layout.size) * ROW_BYTES

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        blocks, step = np.empty((self._count(len(vector)), ROW_BYTES), np.uint8), _PIECE // self.length
        rooms = self.rooms(min(len(blocks), step))
        with np.errstate(all="ignore"):
            for start in range(0, len(blocks), step):
                rows = blocks[start : start + step]
                numbers = vector[start * self.length :][: len(rows) * self.length].astype(np.float32, copy=False)
                lacking = len(rows) * self.length - len(numbers)
                if lacking:
                    numbers = np.concatenate([numbers, np.zeros(lacking, np.float32)])
                numbers, here = numbers.reshape(-1, self.length), [room[: len(rows)] for room in rooms]
                scales = self.write(numbers, lacking, rows[:, SCALE_BYTES:], here)
                rows[:, :SCALE_BYTES] = scales.astype("<f4").reshape(-1, 1).view(np.uint8)
        return {"blocks": blocks}

    def rooms(self, count: int) -> list[NDArray[Any]]:
        """Return the arrays that `write` needs for as many blocks. To allocate them takes longer than to use them."""
        raise NotImplementedError

    def write(
        self, numbers: NDArray[np.float32], lacking: int, codes: NDArray[np.uint8], rooms: list[NDArray[Any]]
    ) -> NDArray[np.float32]:
        """Write each block's numbers into its row of `codes`, and return each block's scale.

        Args:
            numbers: One row for each block.
            lacking: The number of zeros that fill up the last block.
            rooms: The arrays of `rooms`, with one row for each block.
        """
        raise NotImplementedError

    def read(self, codes: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write the blocks' numbers into `out`, as parts of their scales."""
        raise NotImplementedError

    def check(self, body: Body, layout: Layout) -> str:
        if set(body) != {"blocks"}:
            return f"holds {', '.join(sorted(body)) or 'nothing'} where blocks are due"
        blocks, due = body["blocks"], (self._count(layout.size), ROW_BYTES)
        if blocks.shape != due or blocks.dtype != np.uint8:
            return f"has blocks of shape {blocks.shape} {blocks.dtype.name}, not {due} uint8"
        return ""

    def values(self, body: Body, layout: Layout) -> Vector:
        return decode_vector(self, body, layout)

    def add(
        self, body: Body, weight: float, out: Vector, layout: Layout, elements: slice, *, fresh: bool = False
    ) -> None:
        first, last = elements.start // self.length, self._count(elements.stop)
        step = _PIECE // self.length
        room = np.empty((min(step, max(0, last - first)), self.length), np.float32)
        with np.errstate(all="ignore"):
            for start in range(first, last, step):
                rows = body["blocks"][start : min(start + step, last)]
                numbers, offset = room[: len(rows)], start * self.length
                self.read(rows[:, SCALE_BYTES:], numbers)
                numbers *= rows[:, :SCALE_BYTES].copy().view("<f4")
                here = slice(max(elements.start, offset), min(elements.stop, offset + numbers.size))
                place = out[here.start - elements.start : here.stop - elements.start]
                add_to(place, numbers.reshape(-1)[here.start - offset : here.stop - offset], weight, fresh=fresh)

    def _count(self, size: int) -> int:
        return -(-size // self.length)

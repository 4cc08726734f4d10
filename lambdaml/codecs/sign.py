"""The codec `sign` sends the sign of each number, and of each block of 2,048 the mean magnitude.

That is the scaled sign of EF-signSGD (Karimireddy et al., arXiv 1901.09847), block by block. The scale of a block is the
mean magnitude of its numbers, without those that only fill up the last block, and then there is one bit for each number:
bit i of byte b, from the lowest, is the sign of number 8 b + i, 1 for minus. The layout of a body is otherwise that of
`lambdaml.codecs.blocks`, so a number takes 1.016 bits. Every number is decoded as the scale with its sign, zeros as well.

What a block x of d numbers leaves out is ||x - Q(x)||^2 = (1 - ||x||_1^2 / (d ||x||^2)) ||x||^2, up to rounding: less than
its whole norm, but far from nothing, so training needs error feedback (the paper's sections 3 and 4).

A block that holds a NaN or an infinity has such a scale, and is decoded to numbers none of which is finite.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs.blocks import ROW_BYTES, Blocks
from lambdaml.codecs.sums import row_sums

_SIGNS = 1 - 2 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.float32)
"""The eight signs that each byte stands for."""


class Sign(Blocks):
    """Sends every number in one bit."""

    feedback = True
    length = 2048
    record = (length, ROW_BYTES)

    def rooms(self, count: int) -> list[NDArray[Any]]:
        shape = (count, self.length)
        return [
            np.empty(shape, bool),
            np.empty(shape, np.float32),
            np.empty(shape),
            np.empty((count, self.length // 2)),
        ]

    def write(
        self, numbers: NDArray[np.float32], lacking: int, codes: NDArray[np.uint8], rooms: list[NDArray[Any]]
    ) -> NDArray[np.float32]:
        minus, magnitudes, terms, sums = rooms
        codes[:] = np.packbits(np.signbit(numbers, out=minus), axis=1, bitorder="little")
        np.copyto(terms, np.abs(numbers, out=magnitudes))
        counts = np.full(len(numbers), self.length)
        counts[-1] -= lacking
        means: NDArray[np.float64] = row_sums(terms, sums) / counts
        return means.astype(np.float32)

    def read(self, codes: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        np.take(_SIGNS, codes, axis=0, out=out.reshape(*codes.shape, 8), mode="clip")

"""The codec `int8` sends each number in one byte, as a multiple of its block's scale.

A block has 256 numbers, and its scale is their largest magnitude / 127 (blockwise quantisation by the absolute maximum:
Dettmers et al., arXiv 2110.02861). Each number is sent as round(number / scale), ties to even: a signed byte from -127
to 127. The layout of a body is that of `lambdaml.codecs.blocks`, so a number takes 1.016 bytes.

The error of a number is at most scale / 2, besides the rounding of single precision (together below 0.50002 scale). No
scale is below 2^-126, the least normal number, so numbers below 2^-127 are decoded as zeros; and numbers above 3.4028e38
may be decoded as infinities. A block that holds a NaN or an infinity has such a scale, and is decoded to numbers none of
which is finite.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs.blocks import ROW_BYTES, Blocks

_LEVELS = np.float32(127)
_LEAST = np.finfo(np.float32).tiny

_ROUNDING = np.float32(1.5 * 2**23)
"""A number up to 2^22 that is added to this is rounded to a whole number, ties to even, and the low bits of the sum are
those of that number."""


class Int8(Blocks):
    """Sends every number in eight bits."""

    feedback = False
    length = 256
    record = (length, ROW_BYTES)

    def rooms(self, count: int) -> list[NDArray[Any]]:
        return [np.empty((count, self.length), np.float32)]

    def write(
        self, numbers: NDArray[np.float32], lacking: int, codes: NDArray[np.uint8], rooms: list[NDArray[Any]]
    ) -> NDArray[np.float32]:
        (shares,) = rooms
        np.abs(numbers, out=shares)
        scales: NDArray[np.float32] = np.maximum(np.maximum.reduce(shares, axis=1) / _LEVELS, _LEAST)
        np.divide(numbers, scales.reshape(-1, 1), out=shares)
        shares += _ROUNDING
        np.copyto(codes, shares.view(np.uint32), casting="unsafe")
        return scales

    def read(self, codes: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        out[:] = codes.view(np.int8)

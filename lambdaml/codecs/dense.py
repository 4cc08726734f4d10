"""Dense codecs: every number is sent, in the gradient's own precision or as bfloat16.

bfloat16 is the upper half of a float32, rounded to nearest, ties to even. It halves the bytes for next to no time
and keeps the range, so gradients need no scaling; relative error at most 2^-8 for a number that does not overflow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.log.records import Body

_BLOCK = 2**18
"""Numbers that are rounded at once, so that no intermediate value has the gradient's size."""


class Fp32:
    """The gradient as it is."""

    exact = True

    def encode(self, gradient: NDArray[Any]) -> Body:
        return {"gradient": gradient}

    def check(self, body: Body, size: int) -> str:
        return _shape(body, size, ("float32", "float64"))

    def decode(self, body: Body, size: int) -> NDArray[Any]:
        return body["gradient"]


class Bf16:
    """Half the bytes, 8 bits of precision."""

    exact = False

    def encode(self, gradient: NDArray[Any]) -> Body:
        rounded = np.empty(gradient.shape, np.uint16)
        for start in range(0, len(gradient), _BLOCK):
            rounded[start : start + _BLOCK] = _rounded(gradient[start : start + _BLOCK])
        return {"gradient": rounded}

    def check(self, body: Body, size: int) -> str:
        return _shape(body, size, ("uint16",))

    def decode(self, body: Body, size: int) -> NDArray[Any]:
        bits = body["gradient"].astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)


def _rounded(gradient: NDArray[Any]) -> NDArray[np.uint16]:
    bits = gradient.astype(np.float32, copy=False).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16).astype(np.uint16)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    if nan.any():
        rounded[nan] = 0x7FC0
    return rounded


def _shape(body: Body, size: int, dtypes: tuple[str, ...]) -> str:
    if set(body) != {"gradient"}:
        return f"holds {', '.join(sorted(body)) or 'nothing'} where a gradient is due"
    array = body["gradient"]
    if array.shape != (size,) or array.dtype.name not in dtypes:
        return f"has a gradient of shape {array.shape} {array.dtype.name}, not ({size},) {dtypes[0]}"
    return ""

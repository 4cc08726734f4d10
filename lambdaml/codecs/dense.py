"""Dense codecs: every number is sent, in the vector's own precision or as bfloat16.

bfloat16 is the upper half of a float32, rounded to nearest, ties to even. It halves the bytes at almost no cost in time
and keeps the range, so gradients need no scaling. The relative error of a number that does not overflow is at most
2^-8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import Vector
from lambdaml.log.records import Body

_BLOCK = 2**18
"""Vectors are processed in blocks of this many numbers, so that no intermediate value has the vector's size."""


class Fp32:
    """Sends the vector as it is."""

    exact = True
    feedback = False
    record = (1, 4)

    def encode(self, vector: Vector, seed: int) -> Body:
        return {"gradient": vector}

    def check(self, body: Body, elements: slice) -> str:
        return _shape(body, elements, ("float32", "float64"))

    def values(self, body: Body) -> Vector:
        return body["gradient"]

    def add(self, body: Body, weight: float, out: Vector, elements: slice, *, fresh: bool = False) -> None:
        add_to(out, body["gradient"][elements], weight, fresh=fresh)


class Bf16:
    """Sends the vector in half the bytes, with 8 bits of precision."""

    exact = False
    feedback = False
    record = (1, 2)

    def encode(self, vector: Vector, seed: int) -> Body:
        rounded = np.empty(vector.shape, np.uint16)
        for start in range(0, len(vector), _BLOCK):
            rounded[start : start + _BLOCK] = _rounded(vector[start : start + _BLOCK])
        return {"gradient": rounded}

    def check(self, body: Body, elements: slice) -> str:
        return _shape(body, elements, ("uint16",))

    def values(self, body: Body) -> Vector:
        return _widened(body["gradient"])

    def add(self, body: Body, weight: float, out: Vector, elements: slice, *, fresh: bool = False) -> None:
        bits = body["gradient"][elements]
        for start in range(0, len(bits), _BLOCK):
            block = slice(start, start + _BLOCK)
            add_to(out[block], _widened(bits[block]), weight, fresh=fresh)


def add_to(out: Vector, values: Vector, weight: float, *, fresh: bool = False) -> None:
    """Add weight * values to `out`, or with `fresh` replace its contents by that.

    It adds block by block, so that the product needs no memory of the vector's size.
    """
    if fresh and weight == 1.0:
        out[:] = values  # a product would quieten a NaN
        return
    if fresh:
        np.multiply(values, weight, out=out)
        return
    for start in range(0, len(out), _BLOCK):
        block = slice(start, start + _BLOCK)
        if weight == 1.0:
            out[block] += values[block]
        elif weight == -1.0:
            out[block] -= values[block]
        else:
            out[block] += values[block] * weight


def _rounded(vector: Vector) -> NDArray[np.uint16]:
    bits = vector.astype(np.float32, copy=False).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16).astype(np.uint16)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    if nan.any():
        rounded[nan] = 0x7FC0
    return rounded


def _widened(rounded: NDArray[Any]) -> NDArray[np.float32]:
    bits = rounded.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def _shape(body: Body, elements: slice, dtypes: tuple[str, ...]) -> str:
    if set(body) != {"gradient"}:
        return f"holds {', '.join(sorted(body)) or 'nothing'} where a gradient is due"
    array, size = body["gradient"], elements.stop - elements.start
    if array.shape != (size,) or array.dtype.name not in dtypes:
        return f"has a gradient of shape {array.shape} {array.dtype.name}, not ({size},) {dtypes[0]}"
    return ""

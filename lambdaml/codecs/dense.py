"""Dense codecs: every number is sent, in the vector's own precision, as bfloat16 or as IEEE half precision.

A body holds one array, `gradient`, with one number for each of the vector's: `fp32` in the vector's own dtype, `bf16`
as uint16, `fp16` as float16.

bfloat16 is the upper half of a float32, rounded to nearest, ties to even. It halves the bytes at almost no cost in time
and keeps the range, so gradients need no scaling. The relative error of a number that does not overflow is at most
2^-8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import Layout, UpdateContext, Vector
from lambdaml.log.records import Body

_BLOCK = 2**18
"""Vectors are processed in blocks of this many numbers, so that no intermediate value has the vector's size."""


class _Dense:
    exact: bool
    feedback = False
    needs: frozenset[str] = frozenset()

    def misfit(self, layout: Layout) -> str:
        return "" if self.exact else single_only(layout)

    def check(self, body: Body, layout: Layout) -> str:
        if set(body) != {"gradient"}:
            return f"holds {', '.join(sorted(body)) or 'nothing'} where a gradient is due"
        array, dtype = body["gradient"], self._dtype(layout)
        if array.shape != (layout.size,) or array.dtype.name != dtype:
            return f"has a gradient of shape {array.shape} {array.dtype.name}, not ({layout.size},) {dtype}"
        return ""

    def expected_bytes(self, layout: Layout) -> int:
        return layout.size * np.dtype(self._dtype(layout)).itemsize

    def values(self, body: Body, layout: Layout) -> Vector:
        return self._widened(body["gradient"])

    def add(
        self, body: Body, weight: float, out: Vector, layout: Layout, elements: slice, *, fresh: bool = False
    ) -> None:
        numbers = body["gradient"][elements]
        for start in range(0, len(numbers), _BLOCK):
            block = slice(start, start + _BLOCK)
            add_to(out[block], self._widened(numbers[block]), weight, fresh=fresh)

    def _dtype(self, layout: Layout) -> str:
        raise NotImplementedError

    def _widened(self, numbers: Vector) -> Vector:
        raise NotImplementedError


class Fp32(_Dense):
    """Sends the vector as it is."""

    exact = True
    record = (1, 4)

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        return {"gradient": vector}

    def _dtype(self, layout: Layout) -> str:
        return layout.dtype

    def _widened(self, numbers: Vector) -> Vector:
        return numbers


class Bf16(_Dense):
    """Sends the vector in half the bytes, with 8 bits of precision."""

    exact = False
    record = (1, 2)

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        rounded = np.empty(vector.shape, np.uint16)
        for start in range(0, len(vector), _BLOCK):
            rounded[start : start + _BLOCK] = _rounded(vector[start : start + _BLOCK])
        return {"gradient": rounded}

    def _dtype(self, layout: Layout) -> str:
        return "uint16"

    def _widened(self, numbers: Vector) -> Vector:
        bits = numbers.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)


class Fp16(_Dense):
    """Sends the vector in half the bytes, with 11 bits of precision and a range from 6e-8 to 65,504. A number beyond
    it becomes infinite, and its update is rejected."""

    exact = False
    record = (1, 2)

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        with np.errstate(over="ignore"):
            return {"gradient": vector.astype(np.float16)}

    def _dtype(self, layout: Layout) -> str:
        return "float16"

    def _widened(self, numbers: Vector) -> Vector:
        return numbers.astype(np.float32)


def single_only(layout: Layout) -> str:
    """Return that a codec of single precision does not carry vectors of this layout, if they are in double."""
    return (
        "" if layout.dtype == "float32" else f"carries float32 numbers, and this model's gradients are {layout.dtype}"
    )


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

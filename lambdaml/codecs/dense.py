"""Dense codecs: every number is sent, in the vector's own precision, as bfloat16 or as IEEE half precision.

A body holds one array, `gradient`, with one number for each of the vector's: `fp32` in the vector's own dtype, `bf16`
as uint16, `fp16` as float16.

bfloat16 is the upper half of a float32, rounded to nearest, ties to even. It halves the bytes at almost no cost in time
and keeps the range, so gradients need no scaling. The relative error of a number that does not overflow is at most
2^-8.

Both halves are computed by integer arithmetic, and so to the same bits on every machine, whether or not it has
instructions for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import Layout, UpdateContext, Vector, decode_vector
from lambdaml.log.records import Body

_BLOCK = 2**18
"""Vectors are processed in blocks of this many numbers, so that no intermediate value has the vector's size."""


class _Dense:
    exact: bool
    record: tuple[int, int] | None
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
        return decode_vector(self, body, layout)

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        return {"gradient": self._narrowed(vector.astype(np.float32, copy=False))}

    def add(
        self, body: Body, weight: float, out: Vector, layout: Layout, elements: slice, *, fresh: bool = False
    ) -> None:
        numbers = body["gradient"][elements]
        room = np.empty(min(len(numbers), _BLOCK), np.float32)
        for block in _blocks(len(numbers)):
            add_to(out[block], self._widened(numbers[block], room), weight, fresh=fresh)

    def _dtype(self, layout: Layout) -> str:
        raise NotImplementedError

    def _narrowed(self, vector: NDArray[np.float32]) -> Vector:
        raise NotImplementedError

    def _widened(self, numbers: Vector, room: NDArray[np.float32]) -> Vector:
        """Return the numbers in the vector's dtype, in this array that has room for them."""
        raise NotImplementedError


class Fp32(_Dense):
    """Sends the vector as it is."""

    exact = True
    record = (1, 4)

    def values(self, body: Body, layout: Layout) -> Vector:
        return body["gradient"]

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        return {"gradient": vector}

    def _dtype(self, layout: Layout) -> str:
        return layout.dtype

    def _widened(self, numbers: Vector, room: NDArray[np.float32]) -> Vector:
        return numbers


class Bf16(_Dense):
    """Sends the vector in half the bytes, with 8 bits of precision."""

    exact = False
    record = (1, 2)

    def _dtype(self, layout: Layout) -> str:
        return "uint16"

    def _narrowed(self, vector: NDArray[np.float32]) -> Vector:
        rounded, room = np.empty(len(vector), np.uint16), np.empty(min(len(vector), _BLOCK), np.uint32)
        for block in _blocks(len(vector)):
            numbers, sent = vector[block], rounded[block]
            bits, total = numbers.view(np.uint32), room[: len(numbers)]
            np.right_shift(bits, 16, out=total)
            np.bitwise_and(total, 1, out=total)
            np.add(total, 0x7FFF, out=total)
            np.add(total, bits, out=total)
            np.right_shift(total, 16, out=total)
            np.copyto(sent, total, casting="unsafe")
            if np.isnan(np.maximum.reduce(numbers)):
                sent[np.isnan(numbers)] = 0x7FC0
        return rounded

    def _widened(self, numbers: Vector, room: NDArray[np.float32]) -> Vector:
        bits = room[: len(numbers)].view(np.uint32)
        np.copyto(bits, numbers)
        np.left_shift(bits, 16, out=bits)
        return bits.view(np.float32)


class Fp16(_Dense):
    """Sends the vector in half the bytes, with 11 bits of precision and a range from 6e-8 to 65,504. A number beyond
    it becomes infinite, and its update is rejected."""

    exact = False
    record = (1, 2)

    def _dtype(self, layout: Layout) -> str:
        return "float16"

    def _narrowed(self, vector: NDArray[np.float32]) -> Vector:
        """Round to nearest, ties to even, by adding to |x|, of which the exponent is e, the number 2^(e + 13).

        The last bit of that sum is worth 2^(e - 10), as that of a half is, so that the sum's low bits say how often |x|
        contains it. Below e = -14, the worth of a half's last bit does not sink any further. 2,048 more of these bits
        are added for the sake of the exponent: the sum's, shifted to its place in a half, is then right in 16 bits.
        """
        halves, longest = np.empty(len(vector), np.uint16), min(len(vector), _BLOCK)
        sums, powers, signs = (np.empty(longest, dtype) for dtype in (np.uint32, np.uint32, np.uint16))
        least = np.full(longest, (127 - 14) << 23, np.uint32)
        for block in _blocks(len(vector)):
            numbers, half = vector[block], halves[block]
            count, bits = len(numbers), numbers.view(np.uint32)
            total, power, sign = sums[:count], powers[:count], signs[:count]
            np.bitwise_and(bits, 0x7FFFFFFF, out=total)
            if np.maximum.reduce(total) >= (127 + 16) << 23:  # 65,536, infinity or NaN
                with np.errstate(over="ignore"):
                    half[:] = numbers.astype(np.float16).view(np.uint16)
                continue
            np.bitwise_and(total, 0x7F800000, out=power)
            np.maximum(power, least[:count], out=power)
            np.add(power, (13 << 23) + 2048, out=power)
            np.add(total.view(np.float32), power.view(np.float32), out=total.view(np.float32))
            np.right_shift(power, 13, out=power)
            np.add(total, power, out=total)
            np.copyto(half, total, casting="unsafe")
            np.right_shift(bits, 16, out=total)
            np.copyto(sign, total, casting="unsafe")
            np.bitwise_and(sign, 0x8000, out=sign)
            np.bitwise_or(half, sign, out=half)
        return halves.view(np.float16)

    def _widened(self, numbers: Vector, room: NDArray[np.float32]) -> Vector:
        return np.take(_every_half(), numbers.view(np.uint16), out=room[: len(numbers)], mode="clip")


def single_only(layout: Layout) -> str:
    """Return that a codec of single precision does not carry vectors of this layout, if they are in double."""
    return (
        "" if layout.dtype == "float32" else f"carries float32 numbers, and this model's gradients are {layout.dtype}"
    )


def add_to(out: Vector, values: Vector, weight: float, *, fresh: bool = False) -> None:
    """Add weight * values to `out`, or with `fresh` replace its contents by that.

    A product is added block by block, so that it needs no memory of the vector's size.
    """
    if fresh and weight == 1.0:
        out[:] = values  # a product would quieten a NaN
        return
    if fresh:
        np.multiply(values, weight, out=out)
        return
    if weight in (1.0, -1.0):
        (np.add if weight == 1.0 else np.subtract)(out, values, out=out)
        return
    room = np.empty(min(len(out), _BLOCK), np.result_type(values, weight))
    for block in _blocks(len(out)):
        out[block] += np.multiply(values[block], weight, out=room[: len(out[block])])


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


@cache
def _every_half() -> NDArray[np.float32]:
    """Return what each pattern of 16 bits means in half precision. To look it up is quicker than to convert it."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)

"""The codec `fp16`: every number as IEEE half precision, half the bytes. What overflows becomes infinite, and is rejected."""

from __future__ import annotations

import numpy as np

from lambdaml.codecs import Vector
from lambdaml.codecs.dense import add_to
from lambdaml.log.records import Body


class Half:
    """The vector has 11 bits of precision, and a range from 6e-8 to 65,504."""

    exact = False
    feedback = False
    record = (1, 2)

    def encode(self, vector: Vector, seed: int) -> Body:
        with np.errstate(over="ignore"):
            return {"gradient": vector.astype(np.float16)}

    def check(self, body: Body, elements: slice) -> str:
        array, size = body.get("gradient"), elements.stop - elements.start
        fits = len(body) == 1 and array is not None and array.shape == (size,) and array.dtype == np.float16
        return "" if fits else f"holds no gradient of {size} float16"

    def values(self, body: Body) -> Vector:
        return body["gradient"].astype(np.float32)

    def add(self, body: Body, weight: float, out: Vector, elements: slice, *, fresh: bool = False) -> None:
        add_to(out, body["gradient"][elements].astype(np.float32), weight, fresh=fresh)

"""The codec `half`: every number as IEEE half precision, half the bytes. What overflows becomes infinite, and is rejected."""

from __future__ import annotations

import numpy as np

from lambdaml.codecs import Layout, UpdateContext, Vector
from lambdaml.codecs.dense import add_to
from lambdaml.log.records import Body


class Half:
    """The vector has 11 bits of precision, and a range from 6e-8 to 65,504."""

    exact = False
    feedback = False
    record = (1, 2)
    needs: frozenset[str] = frozenset()

    def misfit(self, layout: Layout) -> str:
        return "" if layout.dtype == "float32" else f"carries float32 numbers, not {layout.dtype}"

    def expected_bytes(self, layout: Layout) -> int:
        return 2 * layout.size

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        with np.errstate(over="ignore"):
            return {"gradient": vector.astype(np.float16)}

    def check(self, body: Body, layout: Layout) -> str:
        array = body.get("gradient")
        fits = len(body) == 1 and array is not None and array.shape == (layout.size,) and array.dtype == np.float16
        return "" if fits else f"holds no gradient of {layout.size} float16"

    def values(self, body: Body, layout: Layout) -> Vector:
        return body["gradient"].astype(np.float32)

    def add(
        self, body: Body, weight: float, out: Vector, layout: Layout, elements: slice, *, fresh: bool = False
    ) -> None:
        add_to(out, body["gradient"][elements].astype(np.float32), weight, fresh=fresh)

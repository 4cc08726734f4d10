"""The codec `significant:THRESHOLD` sends the numbers that change a parameter by more than a part of it.

Source: Hsieh et al., Gaia (NSDI 2017), and the code of kevinhsieh/non_iid_dml. The number u of the parameter w is sent
if |u| > v |w|, so where w is zero any u but zero is. The threshold v decays:

* `decay=sqrt`: v = THRESHOLD / sqrt(t), where t counts the worker's updates from 1 on, as in pablogs98/MLLess;
* `decay=lr`: v = THRESHOLD times the learning rate of the job's schedule, as a share of its first;
* `decay=none`: v = THRESHOLD.

A body holds the places and the numbers, as in `lambdaml.codecs.places`; or, where that is not larger, all numbers in one
array `gradient`, as `fp32` does. Numbers must say how far a parameter moved, so the algorithm must send displacements.
An error is at most v |w|; error feedback keeps it until it is significant. A threshold of 0 sends everything.

The threshold is the codec's knob: where a tuner turns it (`lambdaml.tuners`), its present value takes the place of THRESHOLD.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import DISPLACEMENT, Layout, UpdateContext, Vector
from lambdaml.codecs.dense import Fp32
from lambdaml.codecs.places import Places
from lambdaml.codecs.selection import index_dtype
from lambdaml.log.records import Body
from lambdaml.tuners import Knob

_BLOCK = 2**16
"""Vectors are processed in blocks of this many numbers, so that no intermediate value has the vector's size."""

_DENSE = Fp32()


class Significant(Places):
    """Sends the numbers that are significant; all others are decoded as zeros.

    Args:
        threshold: The part of a parameter beyond which a change of it is significant, at the first update.
        decay: How the threshold decays: `sqrt`, `lr` or `none`.
    """

    needs = frozenset({DISPLACEMENT})

    def __init__(self, threshold: float, decay: str = "sqrt") -> None:
        if not 0.0 <= threshold < math.inf:
            raise ValueError(f"threshold must be a finite number of at least 0, not {threshold}")
        if decay not in ("sqrt", "lr", "none"):
            raise ValueError(f"decay must be sqrt, lr or none, not {decay!r}")
        self._threshold, self._decay = threshold, decay
        self.exact = threshold == 0.0
        self.feedback = not self.exact
        self.knob = None if self.exact else Knob("threshold", threshold)

    def expected_bytes(self, layout: Layout) -> int:
        """Return the bytes of the dense vector. A body is never larger; how much smaller it is, training shows."""
        return _DENSE.expected_bytes(layout)

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        if self.exact:
            return {"gradient": vector}
        weights, threshold = context.weights(), vector.dtype.type(self._decayed(context))
        dtype = index_dtype(len(vector))
        found, room = [np.empty(0, dtype)], (vector.nbytes - 1) // (dtype.itemsize + vector.itemsize)
        for start in range(0, len(vector), _BLOCK):
            block = slice(start, start + _BLOCK)
            here = np.flatnonzero(_significant(vector[block], weights[block], threshold)).astype(dtype)
            here += dtype.type(start)
            found.append(here)
            room -= len(here)
            if room < 0:
                return {"gradient": vector}
        index = np.concatenate(found)
        return {"index": index, "value": vector[index]}

    def check(self, body: Body, layout: Layout) -> str:
        return _DENSE.check(body, layout) if "gradient" in body else super().check(body, layout)

    def values(self, body: Body, layout: Layout) -> Vector:
        return _DENSE.values(body, layout) if "gradient" in body else super().values(body, layout)

    def add(
        self, body: Body, weight: float, out: Vector, layout: Layout, elements: slice, *, fresh: bool = False
    ) -> None:
        add = _DENSE.add if "gradient" in body else super().add
        add(body, weight, out, layout, elements, fresh=fresh)

    def _decayed(self, context: UpdateContext) -> float:
        threshold: float = context.changed.get("threshold", self._threshold)
        if self._decay == "lr":
            return threshold * context.rate_share()
        return threshold / math.sqrt(context.seq + 1) if self._decay == "sqrt" else threshold


def _significant(vector: Vector, weights: Vector, threshold: Any) -> NDArray[np.bool_]:
    """Return where numbers exceed the threshold. NaN and infinity always do."""
    with np.errstate(over="ignore", invalid="ignore"):
        bound = np.abs(weights)
        bound *= threshold
    np.minimum(bound, np.finfo(vector.dtype).max, out=bound)
    return ~(np.abs(vector) <= bound)


def variants() -> list[str]:
    """Return the variants worth trying: the threshold of Gaia's experiments."""
    return ["significant:0.01"]

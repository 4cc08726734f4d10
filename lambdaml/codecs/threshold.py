"""The codec `threshold:DENSITY` sends the numbers from a threshold on that a sample gives.

Source: Lin et al., Deep Gradient Compression (arXiv 1712.01887). The threshold is the magnitude of the rank in the sample
that k has in the vector. The sample has about one number in 101, but at least some thousand; it begins at a place that
the update's seed chooses, and its stride is odd, so that it does not meet the same columns of a matrix again and again.
All numbers from the threshold on are sent; if these are more than 4/3 k, exactly the k largest are.

At least one number is sent: the one of the sample that gave the threshold. Where the sample has rank r, the count has a
relative standard deviation of about 1/sqrt(r). Magnitudes are compared as integers, where NaN is above infinity, so what
is not finite is always sent. The layout of a body is that of `lambdaml.codecs.places`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import UpdateContext, Vector
from lambdaml.codecs.places import DensityCodec
from lambdaml.codecs.selection import largest, magnitude_at, magnitudes, where

_STRIDE = 101
_SAMPLE = 2**13
"""One number in `_STRIDE` is looked at, or more of them if that were fewer than about `_SAMPLE`."""


class Threshold(DensityCodec):
    """Sends the numbers from a sampled threshold on; all others are decoded as zeros."""

    fixed = False

    def select(self, vector: Vector, count: int, context: UpdateContext) -> NDArray[Any]:
        stride = max(1, min(len(vector) // _SAMPLE, _STRIDE)) - 1 | 1
        sample = magnitudes(vector[context.seed % stride :: stride])
        least = magnitude_at(sample, max(1, round(count * len(sample) / len(vector))))
        most = 4 * count // 3
        found = where(np.greater_equal, vector, least, most + 1)
        return largest(vector, count) if len(found) > most else found


def variants() -> list[str]:
    """Return the variants worth trying."""
    return ["threshold:0.01"]

"""The mean and the standard deviation of a vector, with the same bits on every machine.

A sum of floats depends on its order, and libraries choose that order by the processor. Here number i is added in
float64 to sum i modulo 2^15, one after the other, and then half of these sums are added to the other half until one is
left. Every addition is one of arrays, element by element, so its order is written here.
"""

from __future__ import annotations

import math

import numpy as np

from lambdaml.codecs import Vector
from lambdaml.codecs.sums import row_sums

_LANES = 2**15


def mean_and_deviation(vector: Vector) -> tuple[float, float]:
    """Return the mean and the unbiased standard deviation of at least two numbers. Both are NaN if a number is not
    finite, or if a square of a float64 number is not."""
    added, block = np.zeros((2, _LANES)), np.empty(_LANES)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(vector), _LANES):
            numbers = vector[start : start + _LANES]
            size = len(numbers)
            block[:size] = numbers
            added[0, :size] += block[:size]
            block[:size] *= block[:size]
            added[1, :size] += block[:size]
        total, total_squares = row_sums(added, np.empty((2, _LANES // 2))).tolist()
        mean = total / len(vector)
        variance = (total_squares - len(vector) * mean * mean) / (len(vector) - 1)
    return (mean, math.sqrt(max(variance, 0.0))) if math.isfinite(variance) else (math.nan, math.nan)

"""The line through the times of a step against its batch size, and the spread of the times about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np


def batch_sizes(batch_size: int, samples: int) -> list[int]:
    """Return the job's own batch size and some powers of two times it, both smaller and larger."""
    sizes: list[int] = []
    for factor in (1, 2, 1 / 2, 4, 1 / 4, 8, 1 / 8, 16):
        size = min(max(1, round(batch_size * factor)), samples)
        if size not in sizes:
            sizes.append(size)
        if len(sizes) == 5:
            break
    return sorted(sizes)


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit (overhead, slope) of `y = overhead + slope * x` to relative errors by least squares; neither is negative.

    Errors are relative because plans are judged this way: a tenth too much is as bad for a small batch as for a large
    one. A single point is all overhead.

    Args:
        points: Pairs (x, y), both of them positive.
    """
    x, y = np.array(points, dtype=float).T
    rows, ones = np.stack([1 / y, x / y], axis=1), np.ones(len(y))

    def fitted(columns: list[int]) -> list[float]:
        return [float(value) for value in np.linalg.lstsq(rows[:, columns], ones, rcond=None)[0]]

    overhead, slope = fitted([0, 1]) if np.ptp(x) > 1e-6 * max(1.0, x.max()) else (0.0, -1.0)
    if slope < 0:
        return fitted([0])[0], 0.0
    return (overhead, slope) if overhead >= 0 else (0.0, fitted([1])[0])


def quantile(values: Sequence[float], q: float) -> float:
    """Return the smallest of the values that at least the share `q` of them do not exceed, as elsewhere in lambdaml."""
    return float(np.quantile(values, q, method="inverted_cdf"))


def spread(groups: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return (sigma, p95, p99) of positive times, each over the median of its group.

    sigma is that of a lognormal: half of the distance between the quantiles of one standard deviation below and above
    the median, so that one hiccup of the machine does not decide it.
    """
    ratios = [value / middle for group in groups for middle in [median(group)] for value in group]
    sigma = math.log(quantile(ratios, 0.841) / quantile(ratios, 0.159)) / 2
    return sigma, quantile(ratios, 0.95), quantile(ratios, 0.99)

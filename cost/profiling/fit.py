"""Fitting a line to a step's time against its batch size, and the spread about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median


def batch_sizes(batch_size: int, samples: int) -> list[int]:
    """The job's own batch size and powers of two times it, on both sides: at least four if there are as many samples."""
    sizes: list[int] = []
    for factor in (1, 2, 1 / 2, 4, 1 / 4, 8, 1 / 8, 16):
        size = min(max(1, round(batch_size * factor)), samples)
        if size not in sizes:
            sizes.append(size)
        if len(sizes) == 5:
            break
    return sorted(sizes)


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(overhead, slope) of `y = overhead + slope * x`, least squares of the relative errors; neither is negative.

    Relative, because that is how a plan is judged: a tenth too much is as bad for a small batch as for a large one.
    One point alone is all overhead.

    Args:
        points: (x, y), both positive.
    """
    weights = [1 / y**2 for _, y in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, points)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, points)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points))
    if spread <= 1e-12 * total * max(1.0, mean_x**2):
        return mean_y, 0.0
    slope = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points)) / spread
    overhead = mean_y - slope * mean_x
    if slope < 0:
        return mean_y, 0.0
    if overhead < 0:
        square = sum(w * x * x for w, (x, _) in zip(weights, points))
        return 0.0, sum(w * x * y for w, (x, y) in zip(weights, points)) / square
    return overhead, slope


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest of the values that at least the share `q` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def spread(groups: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """(sigma, p95, p99) of positive times, each over the median of its group.

    sigma is that of a lognormal, half of what lies between the quantiles of one standard deviation below and above, so
    that one hiccup of the machine does not make it.
    """
    ratios = [value / middle for group in groups for middle in [median(group)] for value in group]
    sigma = (math.log(quantile(ratios, 0.841)) - math.log(quantile(ratios, 0.159))) / 2
    return sigma, quantile(ratios, 0.95), quantile(ratios, 0.99)

"""The codec `gaussiank:DENSITY` sends the numbers beyond a threshold that is guessed as if they were normally distributed.

Source: Shi et al. (arXiv 1911.08772) and the authors' code (hclhkbu/GaussianK-SGD). For numbers of the mean mu and the
unbiased standard deviation sigma, a normal distribution has the share `density` of them beyond mu - z sigma, half of it
on each side, where z is the quantile at density / 2. Magnitudes are compared with that threshold.

* `rule=paper` is the published rule. If fewer than 2/3 k numbers are found, the threshold is halved; if more than
  4/3 k, it is multiplied by 1.5; and after three rounds whatever is found last is sent. On heavy tails that is often
  nothing, and training stalls.
* `rule=bisect` bisects the threshold between zero and the largest magnitude, beginning with the same guess, until the
  count is in that range. If ten bisections do not suffice, or four looks at the whole vector do not leave a sixteenth
  of it, the k largest are sent, exactly. So between 2/3 k and 4/3 k numbers are always sent.

A vector with a number that is not finite has no such threshold; its k largest are sent, where NaN is above infinity. The
layout of a body is that of `lambdaml.codecs.places`. No number that is left out has a larger magnitude than one that is
sent, so with `rule=bisect` the error is at most that of `topk` with 2/3 k numbers.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import UpdateContext, Vector
from lambdaml.codecs.moments import mean_and_deviation
from lambdaml.codecs.places import DensityCodec
from lambdaml.codecs.selection import largest, magnitudes, where

_ROUNDS = 3
_BISECTIONS = 10

_LOOKS = 4
"""So often at most is the whole vector compared with a threshold; this takes about as long as a partial sort."""


class GaussianK(DensityCodec):
    """Sends the numbers beyond a threshold; all others are decoded as zeros.

    Args:
        density, per, warmup: They have the meanings that `lambdaml.codecs.places.Density` gives.
        rule: How the threshold is corrected: `bisect` or `paper`.
    """

    fixed = False

    def __init__(self, density: float, per: str = "model", warmup: str = "", rule: str = "bisect") -> None:
        super().__init__(density, per, warmup)
        if rule not in ("bisect", "paper"):
            raise ValueError(f"rule must be bisect or paper, not {rule!r}")
        self._correct = _bisected if rule == "bisect" else _in_three_rounds

    def select(self, vector: Vector, count: int, context: UpdateContext) -> NDArray[Any]:
        mean, deviation = mean_and_deviation(vector)
        if math.isnan(deviation):
            return largest(vector, count)
        return self._correct(vector, count, mean - normal_quantile(self.density_of(context)) * deviation)


def normal_quantile(density: float) -> float:
    """Return the number below which half of this share of a standard normal distribution is. It is rounded, because
    libraries differ in the last bits of a logarithm."""
    return round(NormalDist().inv_cdf(max(density / 2, 5e-324)), 9)


def _in_three_rounds(vector: Vector, count: int, threshold: float) -> NDArray[Any]:
    for _ in range(_ROUNDS):
        found = _above(vector, threshold)
        if 3 * len(found) < 2 * count:
            threshold *= 0.5
        elif 3 * len(found) > 4 * count:
            threshold *= 1.5
        else:
            break
    return found


def _bisected(vector: Vector, count: int, threshold: float) -> NDArray[Any]:
    """Return the places of the numbers above a threshold that 2/3 to 4/3 of `count` numbers exceed, if there is one.

    Once the numbers above a threshold are too many, but few of all, only they are looked at.
    """
    fewest, most = -(-2 * count // 3), 4 * count // 3
    pool, places, low, high = vector, None, 0.0, math.inf
    for turn in range(1 + _BISECTIONS):
        if places is None and turn == _LOOKS:
            break
        room = max(most, len(pool) // 16)
        found = _above(pool, threshold, room + 1)
        if fewest <= len(found) <= most:
            return found if places is None else places[found]
        if len(found) > most:
            low = max(threshold, 0.0)
        if most < len(found) <= room:
            pool, places = pool[found], found if places is None else places[found]
        if high == math.inf:
            high = max(float(pool.max()), -float(pool.min()))
        if len(found) < fewest:
            high = min(high, threshold)
        threshold = low + (high - low) / 2
        if not low < threshold < high:
            break
    exact = largest(pool, count)
    return exact if places is None else places[exact]


def _above(vector: Vector, threshold: float, most: int | None = None) -> NDArray[Any]:
    """Return the rising places of the numbers of a magnitude above the threshold in the vector's precision; the first
    `most` of them."""
    if threshold < 0:
        return where(np.greater_equal, vector, 0, most)
    with np.errstate(over="ignore"):
        rounded = np.array([threshold]).astype(vector.dtype)
    return where(np.greater, vector, int(magnitudes(rounded)[0]), most)


def variants() -> list[str]:
    """Return the variants worth trying."""
    return ["gaussiank:0.01"]

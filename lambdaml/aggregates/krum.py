"""Krum: the update that lies closest to its nearest neighbours.

The score of an update is the sum of its squared distances to the n - f - 2 updates that are closest to it, and the update
with the least score is taken. With n >= 2f + 3 that is one that f workers, even together, cannot place where they like.
It is the gradient of a single worker, with as much noise; Multi-Krum takes the mean of the m updates with the least scores.

Source: Blanchard et al., "Machine learning with adversaries: Byzantine tolerant gradient descent" (NIPS 2017, arXiv
1703.02757).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lambdaml.aggregates import mean_of
from lambdaml.codecs import Vector
from lambdaml.training.numerics import squares


class Krum:
    """Takes the updates with the least scores; of equal scores the first counts as less.

    Args:
        f: The number of workers that it resists.
        m: The number of updates of which it takes the mean, at most n - f - 2.
    """

    def __init__(self, f: int, m: int = 1) -> None:
        if f < 0:
            raise ValueError(f"f must be 0 or more, not {f}")
        if m < 1:
            raise ValueError(f"m must be 1 or more, not {m}")
        self._f, self._m = f, m
        self.least = max(2 * f + 3, m + f + 2)

    def combine(self, vectors: Sequence[Vector], out: Vector) -> None:
        scores = self._scores(vectors)
        chosen = sorted(range(len(vectors)), key=lambda number: scores[number])[: self._m]
        mean_of([vectors[number] for number in sorted(chosen)], out)

    def _scores(self, vectors: Sequence[Vector]) -> list[float]:
        count = len(vectors)
        distances: list[list[float]] = [[] for _ in vectors]
        for one in range(count):
            for other in range(one + 1, count):
                with np.errstate(over="ignore"):  # a huge update is infinitely far away
                    distance = squares(vectors[one] - vectors[other])
                distances[one].append(distance)
                distances[other].append(distance)
        return [sum(sorted(each)[: count - self._f - 2]) for each in distances]


def variants(workers: int) -> list[str]:
    """Return the variants worth trying: the most workers that can be resisted, and as many updates as may then be taken."""
    f = max(0, (workers - 3) // 2)
    return [f"krum:{f}", f"krum:{f},m={workers - f - 2}"] if workers > f + 3 else [f"krum:{f}"]

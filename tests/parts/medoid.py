"""The medoid: the update that has the least sum of distances to all others.

Source: Kaufman and Rousseeuw, "Clustering by means of medoids" (1987).
"""

from __future__ import annotations

from collections.abc import Sequence

from lambdaml.codecs import Vector
from lambdaml.training.numerics import norm


class Medoid:
    """Takes the update in the middle, whatever the distances are."""

    least = 3

    def combine(self, vectors: Sequence[Vector], out: Vector) -> None:
        out[:] = min(vectors, key=lambda one: sum(sorted(norm(one - other) for other in vectors)))

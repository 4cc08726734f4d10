"""The mean of updates that are clipped to the median of their norms.

One huge update then weighs no more than others do. The direction of an update stays: workers that send the opposite of
their gradients make steps shorter, as many as they are, and turn them round only if they are the majority.

Sources: clipping to a bound, Sun et al., "Can you really backdoor federated learning?" (arXiv 1911.07963); the median of
the norms as the bound, Andrew et al., "Differentially private learning with adaptive clipping" (NeurIPS 2021, arXiv
1905.03871), who estimate it over many rounds, without the noise of privacy. Here it is that of the very step.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from lambdaml.aggregates import mean_of
from lambdaml.codecs import Vector
from lambdaml.training.numerics import norm


class ClipMedianNorm:
    """Scales each update down to the median of the step's 2-norms, if its own is greater, and takes the mean."""

    least = 3

    def combine(self, vectors: Sequence[Vector], out: Vector) -> None:
        norms = [norm(vector) for vector in vectors]
        bound = median(norms)
        mean_of(vectors, out, [bound / length if length > bound else 1.0 for length in norms])

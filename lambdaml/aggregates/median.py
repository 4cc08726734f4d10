"""The median of each parameter by itself.

Less than half of the workers, whatever they send, cannot move a parameter beyond the values that the others sent for it.

Source: Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates" (ICML 2018, arXiv
1803.01498), coordinate-wise median.
"""

from __future__ import annotations

from collections.abc import Sequence

from lambdaml.aggregates import mean_of_middle
from lambdaml.codecs import Vector


class Median:
    """Takes the middle value of each parameter, and of an even number of updates the mean of the two in the middle."""

    least = 3

    def combine(self, vectors: Sequence[Vector], out: Vector) -> None:
        mean_of_middle(vectors, out, (len(vectors) - 1) // 2)

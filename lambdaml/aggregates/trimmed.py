"""The trimmed mean: for each parameter by itself, the least and the greatest values are left out of the mean.

It resists as many workers as are left out at each end. Of the others' values it uses more than the median does, so that its
steps are less noisy.

Source: Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates" (ICML 2018, arXiv
1803.01498), coordinate-wise trimmed mean. Where the share of the updates is no whole number, it is rounded up here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lambdaml.aggregates import mean_of_middle
from lambdaml.codecs import Vector


class Trimmed:
    """Leaves out a share of the updates at each end.

    Args:
        share: The share, more than 0 and less than a half. At least one value is left out at each end, and at least one is
            left.
    """

    least = 3

    def __init__(self, share: float = 0.1) -> None:
        if not 0 < share < 0.5:
            raise ValueError(f"share must lie between 0 and 0.5, not {share}")
        self._share = share

    def combine(self, vectors: Sequence[Vector], out: Vector) -> None:
        count = len(vectors)
        cut = math.ceil(self._share * count - 1e-9)  # 0.1 of 30 is 3, whatever floats say
        mean_of_middle(vectors, out, min(cut, (count - 1) // 2))


def variants(workers: int) -> list[str]:
    """Return the variants worth trying: a tenth, and a quarter, at each end."""
    return ["trimmed:0.1", "trimmed:0.25"]

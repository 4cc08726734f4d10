"""The mean: the sum of a step's updates over that of their samples, in the run's bracket.

It is added up as updates come, or by several functions (`lambdaml.training.step_sum`), so nothing is left to combine.
"""

from __future__ import annotations


def mean() -> None:
    """Return no aggregate: the step's sum is divided."""

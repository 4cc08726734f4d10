"""An update that is R steps old or older is discarded: Ringmaster ASGD (Maranjyan, Tyurin, Richtárik, arXiv 2501.16168).

With R = max(1, ceil(noise / target)), where `noise` is the variance sigma^2 of a gradient and `target` the squared
gradient norm epsilon to be reached, this is as fast as any method can be when all workers draw from one distribution
of data, however their speeds differ and change. The step size that goes with it is
min(1 / (2 R L), epsilon / (4 L sigma^2)) for a loss of smoothness L: `step_size`.

A worker whose own data nobody else holds, and who is always late, is never heard: see `ringleader` for that.
"""

from __future__ import annotations

import math

from lambdaml.log.records import Entry
from lambdaml.log.state import LogState
from lambdaml.staleness import Rule


class Discard(Rule):
    """Updates that are `r` steps old are not used.

    Args:
        r: steps, 1 or more; or 0, if `noise` and `target` are given.
        noise: variance of an update's gradient (of its norm, summed over the parameters).
        target: squared norm of the gradient at which to arrive.
        smooth: of the loss, with `lr`: weighs updates so that the step is that of the theory.
        lr: the step size of the job's optimizer.
    """

    def __init__(
        self, r: int = 0, noise: float = 0.0, target: float = 0.0, smooth: float = 0.0, lr: float = 0.0
    ) -> None:
        given = {"noise": noise, "target": target, "smooth": smooth, "lr": lr}
        for name, value in given.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {value}")
        if r < 0 or (r > 0) == (noise > 0 and target > 0):
            raise ValueError("give r, 1 or more, or both noise and target")
        if (smooth > 0) != (lr > 0) or (smooth and r):
            raise ValueError("the step of theory takes smooth, lr, noise and target")
        self.r = r or threshold(noise, target)
        self._weight = step_size(noise, target, smooth) / lr if lr else 1.0

    def weight(self, staleness: int, log_state: LogState) -> float:
        return self._weight

    def judge(self, entry: Entry, log_state: LogState) -> float | None:
        return None if entry.staleness >= self.r else self._weight


def threshold(noise: float, target: float) -> int:
    """R = max(1, ceil(sigma^2 / epsilon))."""
    return max(1, math.ceil(noise / target))


def step_size(noise: float, target: float, smooth: float) -> float:
    """min(1 / (2 R L), epsilon / (4 L sigma^2)), with R from `threshold`."""
    return min(1 / (2 * threshold(noise, target) * smooth), target / (4 * smooth * noise) if noise else math.inf)

"""Updates at least R steps old are discarded: Ringmaster ASGD (Maranjyan, Tyurin, Richtárik, arXiv 2501.16168).

With R = max(1, ceil(noise / target)), where `noise` is the variance sigma^2 of a gradient and `target` the squared
gradient norm epsilon to be reached, this is as fast as any method can be if all workers draw from one distribution
of data, however their speeds differ and change. `step_size` returns the step size that goes with it,
min(1 / (2 R L), epsilon / (4 L sigma^2)) for a loss of smoothness L.

A worker that is always late and has data that no other worker holds never contributes: see `ringleader` for that.
"""

from __future__ import annotations

import math

from lambdaml.log.records import Entry
from lambdaml.log.state import LogState
from lambdaml.staleness import Rule


class Discard(Rule):
    """Discards updates that are `r` steps old or older.

    Args:
        r: The threshold in steps, 1 or more; 0 if `noise` and `target` are given.
        noise: The variance of an update's gradient (of its norm, summed over the parameters).
        target: The squared norm of the gradient at which training aims.
        smooth: The smoothness of the loss. Together with `lr` it weighs updates so that the step is that of the theory.
        lr: The step size of the job's optimizer.
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
    """Return R = max(1, ceil(sigma^2 / epsilon)), where `noise` is sigma^2 and `target` is epsilon."""
    return max(1, math.ceil(noise / target))


def step_size(noise: float, target: float, smooth: float) -> float:
    """Return min(1 / (2 R L), epsilon / (4 L sigma^2)), with R from `threshold`; `smooth` is L."""
    return min(1 / (2 * threshold(noise, target) * smooth), target / (4 * smooth * noise) if noise else math.inf)

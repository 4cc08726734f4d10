"""Delay-adaptive step sizes.

Without `smooth`: w(tau) = m / max(m, tau), where m is the number of workers (Mishchenko et al., "Asynchronous SGD beats
minibatch SGD under arbitrary delays", arXiv 2206.07638, with the code of konstmish/asynchronous_sgd). The convergence
rate then does not depend on the greatest delay. Equal workers, whose staleness is about m - 1, count in full.

With `smooth`: w(tau) = 1 if tau <= m, else min(1, 1 / (4 smooth tau)), where `smooth` is L times the job's step size
and L is the smoothness of the loss (Koloskova, Stich, Jaggi, arXiv 2206.08307). The rate then depends on the mean delay
instead of the greatest.
"""

from __future__ import annotations

import math

from lambdaml.log.state import LogState
from lambdaml.staleness import Rule


class Adaptive(Rule):
    """Full weight up to a staleness of `m`, then inversely proportional to staleness.

    Args:
        m: The greatest staleness, in steps, that counts in full; 0 for the number of workers.
        smooth: The smoothness of the loss times the step size; 0 if it is not known.
    """

    def __init__(self, m: int = 0, smooth: float = 0.0) -> None:
        if m < 0:
            raise ValueError(f"m must be 0 or more, not {m}")
        if not 0 <= smooth < math.inf:
            raise ValueError(f"smooth must be 0 or more, not {smooth}")
        self.m = m
        self.smooth = smooth

    def weight(self, staleness: int, log_state: LogState) -> float:
        m = self.m or log_state.workers
        if staleness <= m:
            return 1.0
        return min(1.0, 1.0 / (4 * self.smooth * staleness)) if self.smooth else m / staleness

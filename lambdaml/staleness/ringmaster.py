"""The parameter-free form of `discard`: at step k an update as old as floor(sqrt(k)) is discarded, w = 1/(k + 1)^0.75.

It follows the experiments on which it rests (vectozavr/ringmaster-lmo, with arXiv 2605.18174), where 1/sqrt(k)
represents a target that grows with the run. The job's step size is that of the first step.
"""

from __future__ import annotations

import math

from lambdaml.log.records import Entry
from lambdaml.log.state import LogState
from lambdaml.staleness import Rule


class Ringmaster(Rule):
    """Tolerates more staleness the longer the run goes on, in ever smaller steps.

    Args:
        decay: The exponent by which the step size decays, (k + 1)^-decay; 0 for no decay.
    """

    def __init__(self, decay: float = 0.75) -> None:
        if not 0 <= decay < math.inf:
            raise ValueError(f"decay must be 0 or more, not {decay}")
        self.decay = decay

    def judge(self, entry: Entry, log_state: LogState) -> float | None:
        k = entry.base + entry.staleness
        return None if entry.staleness >= max(1, math.isqrt(k)) else math.pow(k + 1, -self.decay)

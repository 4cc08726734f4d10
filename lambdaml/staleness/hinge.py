"""The weight w(tau) = 1 if tau <= b, else 1 / (a (tau - b) + 1), of FedAsync in its hinge form.

Source: Xie, Koyejo, Gupta (arXiv 1903.03934). In that paper the weight mixes models; here it multiplies gradients. The
paper has a = 10 and b = 4. If b is at least the staleness of workers of usual speed, these count in full and stragglers
hardly at all. With a = 0 this is `constant`.
"""

from __future__ import annotations

import math

from lambdaml.log.state import LogState
from lambdaml.staleness import Rule


class Hinge(Rule):
    """Lets updates count in full up to a staleness of `b`. Beyond that, they count less the greater `a` is."""

    def __init__(self, a: float = 10.0, b: float = 4.0) -> None:
        for name, value in (("a", a), ("b", b)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {value}")
        self.a = a
        self.b = b

    def weight(self, staleness: int, log_state: LogState) -> float:
        return 1.0 if staleness <= self.b else 1.0 / (self.a * (staleness - self.b) + 1)

"""The weight w(tau) = (tau + 1)^-a: FedAsync, polynomial form (Xie, Koyejo, Gupta, arXiv 1903.03934).

In that paper the weight mixes models; here it multiplies gradients. The paper's usual value is a = 0.5. With a = 0 this
is `constant`, with a = 1 it is `inverse`.
"""

from __future__ import annotations

import math

from lambdaml.log.state import LogState
from lambdaml.staleness import Rule


class Polynomial(Rule):
    """Gives an update that is tau steps old the weight (tau + 1)^-a."""

    def __init__(self, a: float = 0.5) -> None:
        if not 0 <= a < math.inf:
            raise ValueError(f"a must be 0 or more, not {a}")
        self.a = a

    def weight(self, staleness: int, log_state: LogState) -> float:
        return math.pow(staleness + 1, -self.a)

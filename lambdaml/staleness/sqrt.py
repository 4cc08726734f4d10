"""The weight w(tau) = 1 / sqrt(1 + tau) of FedBuff, with `quorum:K,late=weight` as its buffer.

Source: Nguyen et al. (arXiv 2106.06639).
"""

from __future__ import annotations

import math

from lambdaml.log.state import LogState
from lambdaml.staleness import Rule


class Sqrt(Rule):
    """Gives an update that is tau steps old the weight 1 / sqrt(1 + tau)."""

    def weight(self, staleness: int, log_state: LogState) -> float:
        return 1.0 / math.sqrt(1 + staleness)

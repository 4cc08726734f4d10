"""The weight w(tau) = 1 / (tau + 1) of DynSGD.

Source: Jiang et al., "Heterogeneity-aware distributed parameter servers" (SIGMOD 2017).
"""

from __future__ import annotations

from lambdaml.log.state import LogState
from lambdaml.staleness import Rule


class Inverse(Rule):
    """Gives an update that is tau steps old the weight 1 / (tau + 1)."""

    def weight(self, staleness: int, log_state: LogState) -> float:
        return 1.0 / (staleness + 1)

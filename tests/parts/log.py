"""The staleness rule `log`: an update that is `staleness` steps old counts 1 / (1 + strength ln(1 + staleness))."""

from __future__ import annotations

import math

from lambdaml.log.state import LogState
from lambdaml.staleness import Rule


class Logarithmic(Rule):
    """Milder than `sqrt`: at strength 1 an update of 20 steps still counts a quarter."""

    def __init__(self, strength: float = 1.0) -> None:
        if not 0 <= strength < math.inf:
            raise ValueError(f"strength must be 0 or more, not {strength}")
        self.strength = strength

    def weight(self, staleness: int, log_state: LogState) -> float:
        return 1 / (1 + self.strength * math.log1p(staleness))

"""The tuner `ladder` raises the knob by a little while the accuracy loss is small, and lowers it by half when it is not.

Source: Chiu and Jain, "Analysis of the increase and decrease algorithms for congestion avoidance" (1989).
"""

from __future__ import annotations

from typing import Any

from lambdaml.tuners import Knob, Observation


class Ladder:
    """Raises additively and lowers multiplicatively.

    Args:
        every: The number of rounds from one travelling model to the next.
    """

    samples = 16

    def __init__(self, every: int = 5) -> None:
        self.every = every

    def turn(self, knob: Knob, state: dict[str, Any], seen: Observation) -> tuple[dict[str, Any], float]:
        value = state.get("value", knob.value)
        value = value / 2 if seen.loss > 0.1 else value + knob.value / 4
        return {"value": value}, value

"""The tuner `skewscout` finds how little may be sent while models of workers do as well on the data of others.

Source: Hsieh et al., "The non-IID data quagmire of decentralized machine learning" (ICML 2020, arXiv 1910.00189). Of the
values that the knob can have, the one is sought with the least objective

    J = penalty x max(0, accuracy loss - loss) + bytes sent / bytes of the model

by hill climbing: the values form a geometric row, and each decision goes to the neighbour that has the least objective, or
stays. Objectives that were seen are remembered for some trips, since what is sent changes as training goes on. A neighbour of
which none is known is tried, unless it cannot be better: one that sends more while the accuracy loss costs nothing, or less
while it does.
"""

from __future__ import annotations

import math
from typing import Any

from lambdaml.tuners import Knob, Observation


class SkewScout:
    """Climbs down the objective of SkewScout.

    Args:
        every: The number of rounds from one travelling model to the next.
        loss: The accuracy loss that costs nothing.
        penalty: The cost of each unit of accuracy loss beyond that.
        factor: The factor between neighbouring values of the knob.
        span: The greatest factor by which the knob's value may differ from the first; with 1 it may not change.
        memory: The number of trips for which an objective is remembered.
        samples: The number of samples on which each worker judges a model.
    """

    def __init__(
        self,
        every: int = 50,
        loss: float = 0.05,
        penalty: float = 50.0,
        factor: float = 1.3,
        span: float = 32.0,
        memory: int = 8,
        samples: int = 256,
    ) -> None:
        for name, value, least in (("every", every, 2), ("memory", memory, 1), ("samples", samples, 1)):
            if value < least:
                raise ValueError(f"{name} must be {least} or more, not {value}")
        if not (0.0 <= loss <= 1.0 and 0.0 <= penalty < math.inf):
            raise ValueError("loss must lie between 0 and 1, and penalty must be a finite number of at least 0")
        if not (1.0 < factor < math.inf and 1.0 <= span < math.inf):
            raise ValueError("factor must be greater than 1, and span at least 1")
        self.every, self.samples = every, samples
        self._loss, self._penalty, self._factor, self._memory = loss, penalty, factor, memory
        self._most = int(math.log(span) / math.log(factor) + 1e-9)

    def turn(self, knob: Knob, state: dict[str, Any], seen: Observation) -> tuple[dict[str, Any], float]:
        at, trip = state.get("at", 0), state.get("trip", 0)
        excess = self._penalty * max(0.0, seen.loss - self._loss)
        known = [one for one in state.get("known", []) if one[0] != at and one[2] > trip - self._memory]
        known = [*known, [at, excess + seen.sent, trip]]
        found = {place: objective for place, objective, _ in known}
        untried = at - 1 if excess else at + 1
        near = [at, *(one for one in (at - 1, at + 1) if one in found or one == untried)]
        near = [one for one in near if abs(one) <= self._most and (not knob.whole or self._value(knob, one) >= 1)]
        place = min(near, key=lambda one: found.get(one, 0.0))
        return {"at": place, "trip": trip + 1, "known": known}, self._value(knob, place)

    def _value(self, knob: Knob, place: int) -> float:
        """Return the value at a place of the row. A power would have other bits on other machines."""
        value = knob.value
        for _ in range(abs(place)):
            value = value * self._factor if place > 0 else value / self._factor
        return value

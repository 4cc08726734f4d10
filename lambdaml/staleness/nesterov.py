"""Delayed Nesterov: momentum at every n-th update only (Liu et al., "Asynchronous Local-SGD", arXiv 2401.09135).

Momentum together with staleness breaks asynchronous training. Here gradients are gathered, D += g, and an update makes
a step along g/n + c beta m. At every n-th update, m = beta m + D/n and D = 0, and the step is along
g/n + (1 - c n + c) beta m. With c = 0 momentum moves the parameters at these steps only; with c = 1/n it moves them in
equal parts at all steps.

Use it with plain SGD as the job's optimizer. `n` is the number of workers, so that n steps go as far as one of `bsp`.
A step on the mean of k updates counts as k updates. With `bsp`, and with n = 1, this is Nesterov's momentum; if also
beta = 0, it is `constant`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lambdaml.algorithms import MOMENTUM
from lambdaml.codecs import Vector
from lambdaml.log.records import Entry
from lambdaml.staleness import Rule, Terms, Transform


class Nesterov(Rule):
    """Delays the change of the momentum to every n-th update.

    Args:
        beta: The decay of the momentum.
        n: The number of updates from one change of the momentum to the next; 0 for the number of workers.
        c: The share of the momentum in each step between two changes, up to 1/n.
    """

    gives = frozenset({MOMENTUM})

    def __init__(self, beta: float = 0.9, n: int = 0, c: float = 0.0) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta must lie between 0 and 1, not {beta}")
        if n < 0:
            raise ValueError(f"n must be 0 or more, not {n}")
        if not 0 <= c * max(1, n) <= 1:
            raise ValueError(f"c must lie between 0 and 1/n, not {c}")
        self.beta, self.n, self.c = beta, n, c

    def transform(self, workers: int, batch_size: int) -> Transform:
        n = self.n or workers
        return _Momentum(self.beta, n, min(self.c, 1 / n))


class _Momentum:
    """Keeps m, D, and the number of updates that D has gathered."""

    def __init__(self, beta: float, n: int, c: float) -> None:
        self._beta, self._n, self._c = beta, n, c
        self._momentum: Vector | None = None
        self._gathered: Vector | None = None
        self._count = 0

    def begin(self, version: int, parameters: Callable[[], Vector]) -> None:
        pass

    def terms(
        self, entries: Sequence[Entry], gradients: Sequence[Vector], divisor: float, parameters: Callable[[], Vector]
    ) -> Terms:
        share = min(1.0, len(entries) / self._n)
        terms = [(gradient, entry.weight * share) for entry, gradient in zip(entries, gradients, strict=True)]
        if not self._beta:
            return terms, divisor
        if self._momentum is None or self._gathered is None:
            self._momentum, self._gathered = np.zeros_like(gradients[0]), np.zeros_like(gradients[0])
        for gradient, weight in terms:
            self._gathered = self._gathered + gradient * (weight / divisor)
        self._count += len(entries)
        factor = self._c
        if self._count >= self._n:
            self._momentum = self._beta * self._momentum + self._gathered
            self._gathered, self._count = np.zeros_like(self._gathered), 0
            factor = 1 - self._c * self._n + self._c
        return [*terms, (self._momentum, factor * self._beta * divisor)] if factor else terms, divisor

    def state(self) -> dict[str, Vector]:
        state: dict[str, Vector] = {"count": np.array([self._count], np.int64)}
        if self._momentum is not None and self._gathered is not None:
            state |= {"momentum": self._momentum.copy(), "gathered": self._gathered.copy()}
        return state

    def load(self, state: Mapping[str, Vector]) -> None:
        self._count = int(state["count"][0])
        self._momentum, self._gathered = state.get("momentum"), state.get("gathered")

"""Delay compensation: g + lambda g*g*(w_now - w_read), element by element, for a gradient g computed at w_read.

This is a first-order estimate of the gradient at w_now that takes lambda g*g for the diagonal of the Hessian: DC-ASGD
(Zheng et al., ICML 2017, arXiv 1609.08326). The adaptive form, DC-ASGD-a, takes lambda / sqrt(s + 1e-7) in place of
lambda, where s is a running mean of g*g that forgets at the rate `decay`.

A replica keeps the parameters of all versions that an update may still have been computed from, at most `window` of
them, and each snapshot holds them. A gradient from an older version is compensated from the oldest version kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lambdaml.algorithms import GRADIENT
from lambdaml.codecs import Vector
from lambdaml.log.records import Entry
from lambdaml.staleness import Rule, Terms, Transform

_TINY = 1e-7
_VERSION = "version-"
_MEAN_SQUARE = "mean-square"
_READ = "read"


class Dc(Rule):
    """DC-ASGD, with the same lambda for every parameter. With lambda = 0 it is `constant`.

    Args:
        strength: The factor lambda; 0.04 in the paper.
        window: The most versions that are kept; 0 for four times the number of workers.
    """

    decay: float | None = None

    needs = frozenset({GRADIENT})

    def __init__(self, strength: float = 0.04, window: int = 0) -> None:
        if not 0 <= strength < math.inf:
            raise ValueError(f"strength must be 0 or more, not {strength}")
        if window < 0:
            raise ValueError(f"window must be 0 or more, not {window}")
        self.strength = strength
        self.window = window

    def transform(self, workers: int, batch_size: int) -> Transform | None:
        if not self.strength:
            return None
        return Compensation(self.strength, self.decay, workers, self.window or 4 * workers)


class DcAdaptive(Dc):
    """DC-ASGD-a: for each parameter, lambda is smaller the larger its gradients have been lately.

    Args:
        strength: The factor lambda_0; 2 in the paper.
        decay: The decay of the running mean of squares; 0.95 in the paper.
        window: The most versions that are kept; 0 for four times the number of workers.
    """

    def __init__(self, strength: float = 2.0, decay: float = 0.95, window: int = 0) -> None:
        super().__init__(strength, window)
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie between 0 and 1, not {decay}")
        self.decay = decay


class Compensation:
    """Keeps old parameters and compensates gradients with them. `_read` has each worker's last base: no worker computes
    from an older version."""

    def __init__(self, strength: float, decay: float | None, workers: int, window: int) -> None:
        self._strength, self._decay, self._window = strength, decay, window
        self._read = [0] * workers
        self._kept: dict[int, Vector] = {}
        self._mean_square: Vector | None = None

    def begin(self, version: int, parameters: Callable[[], Vector]) -> None:
        self._kept[version] = parameters()
        oldest = min(self._read)
        while len(self._kept) > self._window or min(self._kept) < oldest:
            del self._kept[min(self._kept)]

    def terms(
        self, entries: Sequence[Entry], gradients: Sequence[Vector], divisor: float, parameters: Callable[[], Vector]
    ) -> Terms:
        now = parameters() if any(entry.staleness for entry in entries) else None
        terms = []
        for entry, gradient in zip(entries, gradients, strict=True):
            strength = self._adapted(gradient) if self._decay is not None else self._strength
            if entry.staleness and now is not None:
                read = self._kept.get(entry.base, self._kept[min(self._kept)])
                gradient = gradient + strength * gradient * gradient * (now - read)
            self._read[entry.worker] = max(self._read[entry.worker], entry.base)
            terms.append((gradient, entry.weight))
        return terms, divisor

    def _adapted(self, gradient: Vector) -> Vector:
        assert self._decay is not None
        if self._mean_square is None:
            self._mean_square = np.zeros_like(gradient)
        self._mean_square = self._decay * self._mean_square + (1 - self._decay) * gradient * gradient
        adapted: Vector = self._strength / np.sqrt(self._mean_square + _TINY)
        return adapted

    def state(self) -> dict[str, Vector]:
        state = {f"{_VERSION}{version}": vector.copy() for version, vector in self._kept.items()}
        if self._mean_square is not None:
            state[_MEAN_SQUARE] = self._mean_square.copy()
        return state | {_READ: np.array(self._read, np.int64)}

    def load(self, state: Mapping[str, Vector]) -> None:
        self._read = state[_READ].tolist()
        self._mean_square = state.get(_MEAN_SQUARE)
        kept = {int(name.removeprefix(_VERSION)): v for name, v in state.items() if name.startswith(_VERSION)}
        self._kept = dict(sorted(kept.items()))

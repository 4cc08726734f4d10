"""How much longer steps take than they should, in the virtual world: by chance, for good, or for one function only.

    STRAGGLERS.make("lognormal:0.3").factor(3, random)      # of the next step of function 3

Chance comes from the caller, as in `lambdaml.simulation.platform`; factors are rounded to 1e-9.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Protocol

from lambdaml.registry import Registry
from lambdaml.simulation.platform import Uniform
from lambdaml.storage.latency import normal


class Stragglers(Protocol):
    """How much longer steps take than they should."""

    def factor(self, function_index: int, uniform: Uniform) -> float:
        """By how much the next step of this function takes longer; below 1 if it is faster."""


@dataclass(frozen=True, slots=True)
class Even:
    """No stragglers."""

    def factor(self, function_index: int, uniform: Uniform) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Each step by itself: exp(N(-sigma^2/2, sigma^2)), 1 on average."""

    sigma: float

    def __post_init__(self) -> None:
        _check_sigma(self.sigma)

    def factor(self, function_index: int, uniform: Uniform) -> float:
        return _lognormal_factor(self.sigma, uniform())


@dataclass(frozen=True, slots=True)
class Pareto:
    """Each step by itself, with a heavy tail: P(factor > x) falls as x^-alpha; 1 on average. Up to 2: no variance."""

    alpha: float

    def __post_init__(self) -> None:
        if not 1 < self.alpha < math.inf:
            raise ValueError("a Pareto distribution has a mean for alpha > 1 only")

    def factor(self, function_index: int, uniform: Uniform) -> float:
        return round((self.alpha - 1) / self.alpha * math.pow(1 - uniform(), -1 / self.alpha), 9)


@dataclass(frozen=True, slots=True)
class _Slow:
    """One function is slower (or faster) by a fixed factor, the others are not."""

    function: int
    times: float

    def __post_init__(self) -> None:
        if not 0 < self.times < math.inf:
            raise ValueError("the factor must be positive")

    def factor(self, function_index: int, uniform: Uniform) -> float:
        return self.times if function_index == self.function else 1.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Each function has a speed of its own for good: lognormal, 1 on average over many functions and seeds."""

    sigma: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check_sigma(self.sigma)

    def factor(self, function_index: int, uniform: Uniform) -> float:
        digest = hashlib.blake2b(f"{self.seed}\0{function_index}".encode(), digest_size=6).digest()
        return _lognormal_factor(self.sigma, int.from_bytes(digest, "big") / 2**48)


_STRAGGLERS = {"none": Even, "lognormal": Lognormal, "pareto": Pareto, "slow": _Slow, "spread": Spread}
STRAGGLERS: Registry[Stragglers] = Registry(
    "straggler model", {name: f"{__name__}:{kind.__name__}" for name, kind in _STRAGGLERS.items()}
)
"""`none`, `lognormal:SIGMA`, `pareto:ALPHA`, `slow:FUNCTION,FACTOR` or `spread:SIGMA[,SEED]`."""


def _lognormal_factor(sigma: float, unit: float) -> float:
    return round(math.exp(sigma * normal(unit) - sigma * sigma / 2), 9)


def _check_sigma(sigma: float) -> None:
    if not 0 <= sigma < math.inf:
        raise ValueError("sigma must be a number that is not negative")

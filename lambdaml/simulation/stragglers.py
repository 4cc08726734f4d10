"""Models of slow steps in the virtual world: slow by chance, for good, or for one function only.

    STRAGGLERS.make("lognormal:0.3").factor(3, random)      # of the next step of function 3

The caller supplies chance, as in `lambdaml.simulation.platform`. Factors are rounded to 1e-9.
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
    """A model of how much longer steps take than they should."""

    def factor(self, function_index: int, uniform: Uniform) -> float:
        """Return the factor by which this function's next step takes longer, which is below 1 if it is faster."""


@dataclass(frozen=True, slots=True)
class Even:
    """No stragglers: every step takes as long as it should."""

    def factor(self, function_index: int, uniform: Uniform) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Independent lognormal factors for each step: exp(N(-sigma^2/2, sigma^2)), with mean 1.

    Attributes:
        sigma: The standard deviation of the factor's logarithm, 0 or more.
    """

    sigma: float

    def __post_init__(self) -> None:
        _check_sigma(self.sigma)

    def factor(self, function_index: int, uniform: Uniform) -> float:
        return _lognormal_factor(self.sigma, uniform())


@dataclass(frozen=True, slots=True)
class Pareto:
    """Independent heavy-tailed factors for each step: P(factor > x) falls as x^-alpha, with mean 1.

    The variance is infinite for an alpha of up to 2.

    Attributes:
        alpha: The exponent of the tail, greater than 1.
    """

    alpha: float

    def __post_init__(self) -> None:
        if not 1 < self.alpha < math.inf:
            raise ValueError("a Pareto distribution has a mean for alpha > 1 only")

    def factor(self, function_index: int, uniform: Uniform) -> float:
        return round((self.alpha - 1) / self.alpha * math.pow(1 - uniform(), -1 / self.alpha), 9)


@dataclass(frozen=True, slots=True)
class _Slow:
    """One function that is slower (or faster) by a fixed factor, while the others are not."""

    function: int
    times: float

    def __post_init__(self) -> None:
        if not 0 < self.times < math.inf:
            raise ValueError("the factor must be positive")

    def factor(self, function_index: int, uniform: Uniform) -> float:
        return self.times if function_index == self.function else 1.0


@dataclass(frozen=True, slots=True)
class Spread:
    """A permanent factor for each function, lognormal, with mean 1 over many functions and seeds.

    Attributes:
        sigma: The standard deviation of the factor's logarithm, 0 or more.
        seed: The seed of the factors.
    """

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
"""The models `none`, `lognormal:SIGMA`, `pareto:ALPHA`, `slow:FUNCTION,FACTOR` and `spread:SIGMA[,SEED]`."""


def _lognormal_factor(sigma: float, unit: float) -> float:
    return round(math.exp(sigma * normal(unit) - sigma * sigma / 2), 9)


def _check_sigma(sigma: float) -> None:
    if not 0 <= sigma < math.inf:
        raise ValueError("sigma must be a number that is not negative")

"""How many optimizer steps to the target, by batch size and staleness: what pilots showed, and between them.

Two effects, each taken from pilots (`lambdaml.cost.pilot`) of this very job:

* **Batch.** Steps fall with the samples of a step, S(B) = S_min (1 + B_noise / B), until the batch exceeds the gradient
  noise scale (McCandlish et al. 2018, arXiv 1812.06162, eq. 2.11). Between pilots on a straight line in (log B, log S);
  above the largest it stays, below the smallest it follows that law with the measured noise scale.
* **Staleness.** A step on a gradient d steps old is worth less. The factor S(d) / S(0), at one update a step, is taken
  on a straight line in (log(1 + d), log factor), for larger groups, too (assumed). From the first delay on at which
  pilots did not reach the target, it is taken never to be reached: nothing is promised beyond what was tried.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

import numpy as np

from lambdaml.cost.profile import PilotRun

LEAST_SIGMA = 0.03
"""Spread that is assumed at least, of the logarithm of the steps."""

ALONE_SIGMA = 0.15
"""Spread that is assumed where no pilot was repeated."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Optimizer steps to the target: a lognormal with this median."""

    median: float
    sigma: float

    def quantile(self, q: float, every: int = 1) -> int:
        """Steps within which the share `q` of runs stop that look every so many steps."""
        steps = self.median * math.exp(self.sigma * NormalDist().inv_cdf(q))
        return max(1, math.ceil(round(steps / every, 9))) * every


class Convergence:
    """What a job's pilots say.

    Args:
        noise_scale_samples: B_noise, for batches below those of the pilots; None if it was not measured.
    """

    def __init__(self, pilots: Sequence[PilotRun], noise_scale_samples: float | None = None) -> None:
        self._noise = noise_scale_samples
        found: defaultdict[tuple[int, int, int], list[PilotRun]] = defaultdict(list)
        for run in pilots:
            found[run.group, run.delay, run.batch].append(run)
        middle = {key: _median(runs) for key, runs in found.items()}
        self.sigma = _spread(found.values())
        sync: defaultdict[int, list[float]] = defaultdict(list)
        for (group, delay, batch), steps in middle.items():
            if delay == 0 and steps is not None:
                sync[group * batch].append(steps)
        self._batches = sorted(sync)
        self._steps = [median(sync[batch]) for batch in self._batches]
        self.tolerance = math.inf
        """Mean staleness from which on the target was not reached; infinite where every pilot did."""
        factors: dict[float, list[float]] = {0: [1.0]}
        for (group, delay, batch), steps in sorted(middle.items()):
            fresh = middle.get((group, 0, batch))
            if delay and fresh is not None:
                if steps is None:
                    self.tolerance = min(self.tolerance, delay)
                else:
                    factors.setdefault(delay, []).append(steps / fresh)
        self._delays = [delay for delay in sorted(factors) if delay < self.tolerance]
        self._factors = [median(factors[delay]) for delay in self._delays]

    def steps(self, samples: float, staleness: float = 0.0) -> Steps | None:
        """Steps of so many samples each, at this mean staleness; None where it is not known to get there.

        With a staleness of d on average, and the next pilot at D not having reached the target, there is a promise up
        to the largest delay that has.
        """
        if not self._batches or staleness > self._delays[-1] * 1.25 + 0.25:
            return None
        factor = _interpolate(1 + staleness, [1 + delay for delay in self._delays], self._factors)
        return Steps(self._at(samples) * factor, self.sigma)

    def _at(self, samples: float) -> float:
        least = self._batches[0]
        if samples < least and self._noise is not None:
            return self._steps[0] * (1 + self._noise / samples) / (1 + self._noise / least)
        return _interpolate(samples, self._batches, self._steps)


def _interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """On straight lines between the logarithms; outside, the nearest."""
    return float(np.exp(np.interp(math.log(x), np.log(xs), np.log(ys))))


def _median(runs: Sequence[PilotRun]) -> float | None:
    """None where half of them or more did not reach the target."""
    reached = [run.steps for run in runs if run.steps is not None]
    return median(reached) if 2 * len(reached) > len(runs) else None


def _spread(groups: Iterable[Sequence[PilotRun]]) -> float:
    """The standard deviation of log steps, pooled over pilots that were repeated."""
    squares, freedom = 0.0, 0
    for runs in groups:
        logs = [math.log(run.steps) for run in runs if run.steps is not None]
        if len(logs) > 1:
            mean = sum(logs) / len(logs)
            squares += sum((value - mean) ** 2 for value in logs)
            freedom += len(logs) - 1
    return max(LEAST_SIGMA, math.sqrt(squares / freedom)) if freedom else ALONE_SIGMA

"""The number of optimizer steps to the target, by batch size and staleness, as pilots showed it.

Two effects are taken from pilots (`lambdaml.cost.planning.pilot`) of the same job:

* **Batch.** Steps fall with the samples of a step, S(B) = S_min (1 + B_noise / B), until the batch exceeds the gradient
  noise scale (McCandlish et al. 2018, arXiv 1812.06162, eq. 2.11). Between pilots, a straight line in (log B, log S) is
  taken. Above the largest batch S stays, and below the smallest it follows that law with the measured noise scale.
* **Staleness.** A step on gradients d steps old is worth less. The factor S(d) / S(0) comes from the pilots with the
  nearest number of updates per step, on a straight line in (log(1 + d), log factor). Nothing is promised beyond the
  delays at which pilots reached the target. If no time was left for pilots with a delay, the worth of a step d late is
  what its coherence says (`lambdaml.training.coherence`), up to the delay that coherence calls tolerable.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

import numpy as np

from lambdaml.cost.planning.pilot import PilotRun
from lambdaml.cost.profiling.facts import CoherenceFacts

LEAST_SIGMA = 0.03
"""The least standard deviation that is assumed for the logarithm of the steps."""

ALONE_SIGMA = 0.15
"""The standard deviation that is assumed if no pilot was repeated."""

LEEWAY = 1.2
"""The factor in 1 + staleness by which estimates exceed the stalest pilot that reached the target."""

LEAST_STALENESS = 0.05
"""The staleness below which an update counts as fresh."""


@dataclass(frozen=True, slots=True)
class StepsToTarget:
    """The optimizer steps to the target, as a lognormal distribution."""

    median: float
    sigma: float

    def quantile(self, q: float, every: int = 1) -> int:
        """Return the steps within which the share `q` of runs stop, if a run checks its target every `every` steps."""
        steps = self.median * math.exp(self.sigma * NormalDist().inv_cdf(q))
        return max(1, math.ceil(round(steps / every, 9))) * every


class Convergence:
    """The number of steps to the target, as a job's pilots showed it.

    Args:
        noise_scale_samples: The B_noise for batches below those of the pilots, or None if it was not measured.
        coherence: The coherence that replaces pilots with a delay, or None if it was not measured.
    """

    def __init__(
        self,
        pilots: Sequence[PilotRun],
        noise_scale_samples: float | None = None,
        coherence: CoherenceFacts | None = None,
    ) -> None:
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
        by_group: defaultdict[int, dict[int, float | None]] = defaultdict(dict)
        for (group, delay, _), steps in middle.items():
            by_group[group][delay] = steps
        self._worth = {
            group: _Worth(steps) for group, steps in by_group.items() if steps.get(0) is not None and len(steps) > 1
        }
        self.by_coherence = coherence is not None and not self._worth
        if coherence is not None and not self._worth:
            self._worth[1] = _Worth(_needs(coherence))

    @property
    def tolerance(self) -> float:
        """The staleness from which pilots did not reach the target, which is infinite if every pilot did."""
        return min((worth.tolerance for worth in self._worth.values()), default=math.inf)

    def steps(self, group: float, samples: float, staleness: float = 0.0) -> StepsToTarget | None:
        """Return the optimizer steps to the target.

        Args:
            group: The average updates of a step.
            samples: The samples of a step.
            staleness: The average staleness of an update.

        Returns:
            The steps, or None for more staleness than pilots tolerated, since the target may then not be reached.
        """
        if not self._batches:
            return None
        factor: float | None = 1.0
        if staleness > LEAST_STALENESS:
            near = min(self._worth, key=lambda size: abs(math.log(size / group)), default=None)
            factor = None if near is None else self._worth[near].factor(staleness)
        return None if factor is None else StepsToTarget(self._at(samples) * factor, self.sigma)

    def _at(self, samples: float) -> float:
        least = self._batches[0]
        if samples < least and self._noise is not None:
            return self._steps[0] * (1 + self._noise / samples) / (1 + self._noise / least)
        return _interpolate(samples, self._batches, self._steps)


def _needs(coherence: CoherenceFacts) -> dict[int, float | None]:
    """Return the steps by staleness, relative to none, or None from the first lag that is not tolerable."""
    needs: dict[int, float | None] = {0: 1.0}
    for lag, cosine in sorted(coherence.cosine.items()):
        tolerable = coherence.tolerance_at_least or lag <= coherence.tolerance_steps
        needs[lag] = 1 / cosine if tolerable else None
    return needs


class _Worth:
    """The factor by which staleness lengthens a training, from pilots with one number of updates per step."""

    def __init__(self, steps: Mapping[int, float | None]) -> None:
        fresh = steps[0]
        assert fresh is not None
        self.tolerance = min((delay for delay, count in steps.items() if count is None), default=math.inf)
        known = {delay: count for delay, count in sorted(steps.items()) if count is not None and delay < self.tolerance}
        self._delays, self._factors = [1.0 + delay for delay in known], [count / fresh for count in known.values()]

    def factor(self, staleness: float) -> float | None:
        """Return the factor at this staleness, or None beyond what pilots tolerated, with some leeway."""
        if 1 + staleness > LEEWAY * self._delays[-1]:
            return None
        return _interpolate(1 + staleness, self._delays, self._factors)


def _interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Interpolate on a straight line between the logarithms. Outside the points, the nearest value is taken."""
    return float(np.exp(np.interp(math.log(x), np.log(xs), np.log(ys))))


def _median(runs: Sequence[PilotRun]) -> float | None:
    """Return the median steps, or None if half of the pilots or more did not reach the target."""
    reached = [run.steps for run in runs if run.steps is not None]
    return median(reached) if 2 * len(reached) > len(runs) else None


def _spread(groups: Iterable[Sequence[PilotRun]]) -> float:
    """Return the standard deviation of log steps, pooled over pilots that were repeated."""
    squares, freedom = 0.0, 0
    for runs in groups:
        logs = [math.log(run.steps) for run in runs if run.steps is not None]
        if len(logs) > 1:
            mean = sum(logs) / len(logs)
            squares += sum((value - mean) ** 2 for value in logs)
            freedom += len(logs) - 1
    return max(LEAST_SIGMA, math.sqrt(squares / freedom)) if freedom else ALONE_SIGMA

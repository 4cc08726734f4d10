"""The number of optimizer steps to the target, by batch size, staleness and codec, as pilots showed it.

Three effects are taken from pilots (`lambdaml.cost.planning.pilot`) of the same job:

* **Batch.** Steps fall with the samples of a step, S(B) = S_min (1 + B_noise / B), until the batch exceeds the gradient
  noise scale (McCandlish et al. 2018, arXiv 1812.06162, eq. 2.11). Between pilots, a straight line in (log B, log S) is
  taken. Above the largest batch S stays, and below the smallest it follows that law with the measured noise scale.
* **Staleness.** A step on gradients d steps old is worth less. The factor S(d) / S(0) comes from the pilots with the
  nearest number of updates per step, on a straight line in (log(1 + d), log factor). Nothing is promised beyond the
  delays at which pilots reached the target. If no time was left for pilots with a delay, the worth of a step d late is
  what its coherence says (`lambdaml.training.coherence`), up to the delay that coherence calls tolerable.
* **Codec.** Updates that leave something out are worth less. The factor is the median ratio of a codec's pilots to
  plain ones of the same seed, and at least 1. Between numbers of updates per step it lies on a straight line in the
  logarithms of both. A codec without pilots is taken to need as many steps as plain updates.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

import numpy as np

from lambdaml.cost.planning.pilot import PLAIN, PilotRun
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
    """The number of steps to the target, as a job's pilots with one algorithm showed it.

    Args:
        pilots: The pilots, with plain updates and with codecs.
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
        self._factors: dict[str, dict[int, float | None]] = {}
        self._pilots = pilots
        found: defaultdict[tuple[int, int, int], list[PilotRun]] = defaultdict(list)
        for run in pilots:
            if run.codec == PLAIN:
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

    def steps(self, group: float, samples: float, staleness: float = 0.0, codec: str = PLAIN) -> StepsToTarget | None:
        """Return the optimizer steps to the target.

        Args:
            group: The average updates of a step.
            samples: The samples of a step.
            staleness: The average staleness of an update.

        Returns:
            The steps, or None for more staleness than pilots tolerated, or a codec with which they did not reach the
            target, since it may then not be reached.
        """
        coded = self.factor(codec, group)
        if not self._batches or coded is None:
            return None
        factor: float | None = 1.0
        if staleness > LEAST_STALENESS:
            near = min(self._worth, key=lambda size: abs(math.log(size / group)), default=None)
            factor = None if near is None else self._worth[near].factor(staleness)
        return None if factor is None else StepsToTarget(self._at(samples) * factor * coded, self.sigma)

    def factor(self, codec: str, group: float) -> float | None:
        """Return the factor by which a codec lengthens a training with this many updates per step, or None if pilots
        did not reach the target with it."""
        factors = self.factors(codec)
        if not factors:
            return 1.0
        near = min(factors, key=lambda size: abs(math.log(size / group)))
        if factors[near] is None:
            return None
        known = {size: factor for size, factor in factors.items() if factor is not None}
        return _interpolate(group, list(known), list(known.values()))

    def factors(self, codec: str) -> dict[int, float | None]:
        """Return such factors by the updates per step that pilots of the codec had, the fewest first."""
        if codec not in self._factors:
            runs = [] if codec == PLAIN else [run for run in self._pilots if run.codec == codec]
            groups = sorted({run.group for run in runs})
            self._factors[codec] = {size: self._ratio([run for run in runs if run.group == size]) for size in groups}
        return self._factors[codec]

    def _ratio(self, runs: Sequence[PilotRun]) -> float | None:
        """Return the factor that a codec's pilots with one number of updates per step show."""
        if _median(runs) is None:
            return None
        fresh = [run for run in self._pilots if (run.codec, run.group, run.delay) == (PLAIN, runs[0].group, 0)]
        plain = {run.seed: run.steps for run in fresh if run.steps is not None}
        ratios = [run.steps / plain[run.seed] for run in runs if run.steps is not None and run.seed in plain]
        return max(1.0, median(ratios)) if ratios else None

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

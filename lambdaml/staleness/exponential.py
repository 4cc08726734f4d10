"""The weight w(tau) = exp(-beta min(tau, T)), beta = ln(T/2 + 1) / (T/2), of AdaSGD.

Source: Damaskinos et al., "FLeet" (arXiv 2006.07273).

The curve meets that of `inverse` at T/2: fresher updates count more than with `inverse`, staler ones less. T is the
staleness below which all updates but those of stragglers stay. It is given as `threshold`, or it is the `percentile` of
the staleness that the log has applied so far. While the log has fewer than 100 / (100 - percentile) updates to estimate
T from, or if T is 0, the weight is that of `inverse`. Beyond T the weight falls no further, since otherwise no boost
could bring an update back.

`boost` divides the weight by the similarity of the update's labels to those of all updates applied before, so that a
class that only stragglers hold is learnt. The similarity is the Bhattacharyya coefficient sum_i sqrt(p_i q_i) of the
two label histograms, or 0.1 if that is more. `outliers` boosts only updates with tau > 1.5 T, as the authors' code
does; `all` boosts every update, as their paper says. The result never exceeds 1.

With a boost, updates carry their label counts in their headers: see `Job.labels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lambdaml.log.records import Entry
from lambdaml.log.state import LogState
from lambdaml.staleness import Rule

_LEAST_SIMILARITY = 0.1
_OUTLIER = 1.5
_BOOSTS = ("none", "outliers", "all")


class Exponential(Rule):
    """AdaSGD's dampening: gentle up to half the usual greatest staleness, strong beyond.

    Args:
        percentile: The percentile of the observed staleness that is T: the percentage of updates not from stragglers.
        threshold: The staleness T in steps; 0 to observe it.
        boost: The updates to boost: `none`, `outliers` or `all`.
    """

    def __init__(self, percentile: float = 99.7, threshold: float = 0.0, boost: str = "none") -> None:
        if not 0 < percentile < 100:
            raise ValueError(f"percentile must lie between 0 and 100, not {percentile}")
        if not 0 <= threshold < math.inf:
            raise ValueError(f"threshold must be 0 or more, not {threshold}")
        if boost not in _BOOSTS:
            raise ValueError(f"boost must be {', '.join(_BOOSTS[:-1])} or {_BOOSTS[-1]}, not {boost!r}")
        self.percentile = percentile
        self.threshold = threshold
        self.boost = boost
        self.labels = boost != "none"

    def weight(self, staleness: int, log_state: LogState) -> float:
        return _dampening(staleness, self._threshold(log_state))

    def judge(self, entry: Entry, log_state: LogState) -> float:
        threshold = self._threshold(log_state)
        weight = _dampening(entry.staleness, threshold)
        outlier = threshold > 0 and entry.staleness > _OUTLIER * threshold
        if self.boost == "all" or (self.boost == "outliers" and outlier):
            return min(1.0, weight / max(_LEAST_SIMILARITY, similarity(entry.labels, log_state.labels)))
        return weight

    def _threshold(self, log_state: LogState) -> float:
        if self.threshold:
            return self.threshold
        total = sum(log_state.staleness.values())
        above = total * (100 - self.percentile) / 100
        if above < 1:
            return 0.0
        for staleness in sorted(log_state.staleness, reverse=True):
            above -= log_state.staleness[staleness]
            if above < 0:
                return float(staleness)
        return 0.0


def similarity(mine: Sequence[int], others: Sequence[int]) -> float:
    """Return the Bhattacharyya coefficient of two label histograms, in [0, 1]; it is 1 if one of them is empty."""
    if not mine or not sum(others):
        return 1.0
    common = math.fsum(math.sqrt(left * right) for left, right in zip(mine, others, strict=False))
    return common / math.sqrt(sum(mine) * sum(others))


def _dampening(staleness: int, threshold: float) -> float:
    if not threshold:
        return 1.0 / (staleness + 1)
    half = threshold / 2
    return math.exp(-math.log(half + 1) / half * min(staleness, threshold))

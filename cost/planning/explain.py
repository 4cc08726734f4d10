"""The sentences of a plan: why it chose its candidate, and why not a neighbour of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from lambdaml.cost.planning.choice import TIE, by_a_tie
from lambdaml.cost.planning.estimate import Estimate
from lambdaml.cost.planning.objective import Objective

NEIGHBOURS = 8
"""The most candidates of the frontier that get a sentence."""


def money(usd: float) -> str:
    """Format an amount of US dollars with two significant figures."""
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.2g}" if usd else "$0"


def rough_duration(seconds: float) -> str:
    """Format a duration with at most three figures: `48 s`, `3.2 min`, `1.5 h`."""
    if not math.isfinite(seconds):
        return "never"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def reason(found: Sequence[Estimate], chosen: int | None, nearest: int | None, objective: Objective) -> str:
    """Explain why the plan made its choice, or why it made none."""
    if nearest is None:
        return f"no candidate is known to reach the target: {found[0].obstacle}"
    best = found[nearest]
    takes = f"{rough_duration(best.seconds)} and {money(best.usd)}"
    p90 = f"{rough_duration(best.p90_seconds)} and {money(best.p90_usd)} in nine of ten runs"
    if chosen is None:
        return f"{_excess(found, objective)}; nearest: {best.candidate}, {takes} ({p90})"
    aim = {"cost": "the cheapest", "time": "the fastest", "balanced": "the least product of time and cost"}
    kept = "".join(
        [", within the deadline"] * math.isfinite(objective.deadline_s)
        + [", within the budget"] * math.isfinite(objective.budget_usd)
    )
    tied = f" but for {TIE:.0%}, and exact" if by_a_tie(found, objective) else ""
    return f"{aim[objective.minimise]} of {len(found)} candidates{tied}{kept}: {takes} ({p90})"


def idleness(estimate: Estimate) -> str:
    """Return the sentence that says what it costs that functions start and wait."""
    share = estimate.idle_s / estimate.function_seconds if estimate.function_seconds else 0.0
    usd = share * estimate.parts_usd.get("functions", 0.0)
    cost = f", {money(usd)} of the {money(estimate.usd)}" if usd else ""
    return f"functions start, or wait for the store and each other, in {share:.0%} of their seconds{cost}"


def _excess(found: Sequence[Estimate], objective: Objective) -> str:
    possible = [estimate for estimate in found if not estimate.obstacle]
    fastest = min(estimate.p90_seconds for estimate in possible)
    cheapest = min(estimate.p90_usd for estimate in possible)
    if fastest > objective.deadline_s:
        return f"no candidate ends within {rough_duration(objective.deadline_s)}: the fastest takes {rough_duration(fastest)}"
    if cheapest > objective.budget_usd:
        return f"no candidate costs {money(objective.budget_usd)} or less: the cheapest costs {money(cheapest)}"
    return "no candidate keeps both deadline and budget"


def explain_choice(
    found: Sequence[Estimate], frontier: Sequence[int], chosen: int | None, objective: Objective
) -> Iterator[str]:
    """Yield a sentence per candidate that differs from the choice in one respect, and for the rest of the frontier."""
    if chosen is None:
        return
    best = found[chosen]
    own = best.candidate.values()
    told: set[str] = set()
    for name in own:
        alike = [one for one in found if one is not best and _differs_only_in(name, one.candidate.values(), own)]
        for estimate in alike[:2]:
            told.add(str(estimate.candidate))
            value = estimate.candidate.values()[name]
            yield f"{name.replace('_', ' ')} {value}: {_against(estimate, best, objective)}"
    for place in frontier[:NEIGHBOURS]:
        estimate = found[place]
        if estimate is not best and str(estimate.candidate) not in told:
            yield f"{estimate.candidate}: {_against(estimate, best, objective)}"


def _differs_only_in(name: str, candidate: dict[str, Any], other: dict[str, Any]) -> bool:
    return {**candidate, name: None} == {**other, name: None}


def _against(estimate: Estimate, best: Estimate, objective: Objective) -> str:
    if estimate.obstacle:
        return estimate.obstacle
    said = f"{_change(estimate.seconds, best.seconds, 'slower', 'faster')}, "
    said += _change(estimate.usd, best.usd, "dearer", "cheaper")
    if estimate.p90_seconds > objective.deadline_s:
        said += "; may miss the deadline"
    if estimate.p90_usd > objective.budget_usd:
        said += "; may exceed the budget"
    return said


def _change(value: float, of: float, more: str, less: str) -> str:
    if not of or abs(value / of - 1) < 0.005:
        return f"no {more}"
    ratio = value / of
    if ratio >= 2:
        return f"{ratio:.1f} times as long" if more == "slower" else f"{ratio:.1f} times the cost"
    return f"{abs(ratio - 1):.0%} {more if ratio > 1 else less}"

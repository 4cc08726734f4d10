"""Sentences: why this candidate, and why not its neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lambdaml.cost.planning.choice import TIE, by_a_tie
from lambdaml.cost.planning.estimate import Estimate

if TYPE_CHECKING:
    from lambdaml.cost.planning.plan import Objective

NEIGHBOURS = 8


def money(usd: float) -> str:
    """Dollars with two figures that say something."""
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.2g}" if usd else "$0"


def rough_duration(seconds: float) -> str:
    """`48 s`, `3.2 min`, `1.5 h`."""
    if not math.isfinite(seconds):
        return "never"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def reason(found: Sequence[Estimate], chosen: int | None, nearest: int | None, wishes: Objective) -> str:
    """Why the choice, or why there is none."""
    if nearest is None:
        return f"no candidate is known to reach the target: {found[0].obstacle}"
    best = found[nearest]
    takes = f"{rough_duration(best.seconds)} and {money(best.usd)}"
    p90 = f"{rough_duration(best.p90_seconds)} and {money(best.p90_usd)} in nine of ten runs"
    if chosen is None:
        return f"{_excess(found, wishes)}; nearest: {best.candidate}, {takes} ({p90})"
    aim = {"cost": "the cheapest", "time": "the fastest", "balanced": "the least product of time and cost"}
    kept = "".join(
        [", within the deadline"] * math.isfinite(wishes.deadline_s)
        + [", within the budget"] * math.isfinite(wishes.budget_usd)
    )
    tied = f" but for {TIE:.0%}, and exact" if by_a_tie(found, wishes) else ""
    return f"{aim[wishes.minimise]} of {len(found)} candidates{tied}{kept}: {takes} ({p90})"


def _excess(found: Sequence[Estimate], wishes: Objective) -> str:
    possible = [estimate for estimate in found if not estimate.obstacle]
    fastest = min(estimate.p90_seconds for estimate in possible)
    cheapest = min(estimate.p90_usd for estimate in possible)
    if fastest > wishes.deadline_s:
        return (
            f"no candidate ends within {rough_duration(wishes.deadline_s)}: the fastest takes {rough_duration(fastest)}"
        )
    if cheapest > wishes.budget_usd:
        return f"no candidate costs {money(wishes.budget_usd)} or less: the cheapest costs {money(cheapest)}"
    return "no candidate keeps both deadline and budget"


def explain_choice(
    found: Sequence[Estimate], frontier: Sequence[int], chosen: int | None, wishes: Objective
) -> Iterator[str]:
    """A sentence for each neighbour: those that differ from the choice in one respect, and the rest of the frontier."""
    if chosen is None:
        return
    best = found[chosen]
    names = ("schedule", "workers", "batch_size", "codec", "channel", "platform")
    told: set[str] = set()
    for name in names:
        rest = [other for other in names if other != name]
        alike = [
            estimate
            for estimate in found
            if estimate is not best
            and all(getattr(estimate.candidate, other) == getattr(best.candidate, other) for other in rest)
        ]
        for estimate in alike[:2]:
            told.add(str(estimate.candidate))
            yield f"{name.replace('_', ' ')} {getattr(estimate.candidate, name)}: {_against(estimate, best, wishes)}"
    for place in frontier[:NEIGHBOURS]:
        estimate = found[place]
        if estimate is not best and str(estimate.candidate) not in told:
            yield f"{estimate.candidate}: {_against(estimate, best, wishes)}"


def _against(estimate: Estimate, best: Estimate, wishes: Objective) -> str:
    if estimate.obstacle:
        return estimate.obstacle
    said = f"{_change(estimate.seconds, best.seconds, 'slower', 'faster')}, "
    said += _change(estimate.usd, best.usd, "dearer", "cheaper")
    if estimate.p90_seconds > wishes.deadline_s:
        said += "; may miss the deadline"
    if estimate.p90_usd > wishes.budget_usd:
        said += "; may exceed the budget"
    return said


def _change(value: float, of: float, more: str, less: str) -> str:
    if not of or abs(value / of - 1) < 0.005:
        return f"no {more}"
    ratio = value / of
    if ratio >= 2:
        return f"{ratio:.1f} times as long" if more == "slower" else f"{ratio:.1f} times the cost"
    return f"{abs(ratio - 1):.0%} {more if ratio > 1 else less}"

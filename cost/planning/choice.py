"""The choice among candidates: what ranks before what, and the frontier of time and cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lambdaml.codecs import CODECS
from lambdaml.cost.planning.estimate import Estimate

if TYPE_CHECKING:
    from lambdaml.cost.planning.plan import Objective

TIE = 0.01
"""Candidates whose values differ by no more than this share are equally good: simulations with other chances differ by
as much."""


def ranked(found: Iterable[Estimate], wishes: Objective) -> list[Estimate]:
    """The best first: those that keep deadline and budget, then those that do not, then those that get nowhere.

    Where a codec that is not exact comes first, and an exact one is as good but for `TIE`, the best of these is first.
    """
    order = sorted(found, key=lambda one: _rank(one, wishes))
    best = order[0]
    if not best.obstacle and not is_exact(best):
        within = (1 + TIE) * _value(best, wishes)
        ties = [one for one in order if one.obstacle == "" and keeps(one, wishes) == keeps(best, wishes)]
        exact = next((one for one in ties if is_exact(one) and _value(one, wishes) <= within), None)
        if exact is not None:
            order.remove(exact)
            order.insert(0, exact)
    return order


def by_a_tie(found: Sequence[Estimate], wishes: Objective) -> bool:
    """Whether the first of those that `ranked` put in order comes before a better one, for its exact codec."""
    return len(found) > 1 and keeps(found[0], wishes) and _rank(found[1], wishes) < _rank(found[0], wishes)


def is_exact(estimate: Estimate) -> bool:
    """Whether the candidate's codec is."""
    return CODECS.make(estimate.candidate.codec).exact


def keeps(estimate: Estimate, wishes: Objective) -> bool:
    """Whether nine of ten runs keep deadline and budget."""
    return not estimate.obstacle and estimate.p90_seconds <= wishes.deadline_s and estimate.p90_usd <= wishes.budget_usd


def frontier(found: Sequence[Estimate]) -> list[int]:
    """Places of those that no other beats in time and cost, the fastest first."""
    order = sorted(
        (place for place, estimate in enumerate(found) if not estimate.obstacle),
        key=lambda place: (found[place].seconds, found[place].usd),
    )
    places: list[int] = []
    for place in order:
        if not places or found[place].usd < found[places[-1]].usd:
            places.append(place)
    return places


def nearest_feasible(found: Sequence[Estimate], wishes: Objective) -> int | None:
    """The place of the one that exceeds deadline and budget by the least factor."""

    def excess(place: int) -> float:
        estimate = found[place]
        late, dear = estimate.p90_seconds / wishes.deadline_s, estimate.p90_usd / wishes.budget_usd
        return max(1.0, late) * max(1.0, dear)

    places = [place for place, estimate in enumerate(found) if not estimate.obstacle]
    return min(places, key=excess, default=None)


def _value(estimate: Estimate, wishes: Objective) -> float:
    """What is to be small."""
    seconds, usd = estimate.seconds, estimate.usd
    return {"cost": usd, "time": seconds, "balanced": seconds * max(usd, 1e-12)}[wishes.minimise]


def _rank(estimate: Estimate, wishes: Objective) -> tuple[Any, ...]:
    other = estimate.usd if wishes.minimise == "time" else estimate.seconds
    value = _value(estimate, wishes)
    return (bool(estimate.obstacle), not keeps(estimate, wishes), value, other, str(estimate.candidate))

"""The choice among candidates: their order, and the frontier of time and cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lambdaml.codecs import CODECS
from lambdaml.cost.planning.estimate import Estimate
from lambdaml.cost.planning.objective import Objective

TIE = 0.01
"""The share by which the values of equally good candidates may differ. Simulations with other seeds differ as much."""


def ranked(found: Iterable[Estimate], objective: Objective) -> list[Estimate]:
    """Rank the estimates: those that keep deadline and budget, then those that do not, then those that get nowhere.

    If a codec that is not exact would come first and an exact one is as good within `TIE`, the best exact one comes
    first.
    """
    order = sorted(found, key=lambda one: _rank(one, objective))
    best = order[0]
    if not best.obstacle and not is_exact(best):
        within = (1 + TIE) * _value(best, objective)
        ties = [one for one in order if one.obstacle == "" and keeps(one, objective) == keeps(best, objective)]
        exact = next((one for one in ties if is_exact(one) and _value(one, objective) <= within), None)
        if exact is not None:
            order.remove(exact)
            order.insert(0, exact)
    return order


def by_a_tie(found: Sequence[Estimate], objective: Objective) -> bool:
    """Return whether the first of the `ranked` estimates precedes a better one because its codec is exact."""
    return len(found) > 1 and keeps(found[0], objective) and _rank(found[1], objective) < _rank(found[0], objective)


def is_exact(estimate: Estimate) -> bool:
    """Return whether the candidate's codec is exact."""
    return CODECS.make(estimate.candidate.codec).exact


def keeps(estimate: Estimate, objective: Objective) -> bool:
    """Return whether nine of ten runs keep to deadline and budget."""
    return (
        not estimate.obstacle
        and estimate.p90_seconds <= objective.deadline_s
        and estimate.p90_usd <= objective.budget_usd
    )


def frontier(found: Sequence[Estimate]) -> list[int]:
    """Return the places of the estimates that no other one beats in both time and cost, the fastest first."""
    order = sorted(
        (place for place, estimate in enumerate(found) if not estimate.obstacle),
        key=lambda place: (found[place].seconds, found[place].usd),
    )
    places: list[int] = []
    for place in order:
        if not places or found[place].usd < found[places[-1]].usd:
            places.append(place)
    return places


def nearest_feasible(found: Sequence[Estimate], objective: Objective) -> int | None:
    """Return the place of the estimate that exceeds deadline and budget by the least factor."""

    def excess(place: int) -> float:
        estimate = found[place]
        late, dear = estimate.p90_seconds / objective.deadline_s, estimate.p90_usd / objective.budget_usd
        return max(1.0, late) * max(1.0, dear)

    places = [place for place, estimate in enumerate(found) if not estimate.obstacle]
    return min(places, key=excess, default=None)


def _value(estimate: Estimate, objective: Objective) -> float:
    """Return the quantity that a plan minimises."""
    seconds, usd = estimate.seconds, estimate.usd
    return {"cost": usd, "time": seconds, "balanced": seconds * max(usd, 1e-12)}[objective.minimise]


def _rank(estimate: Estimate, objective: Objective) -> tuple[Any, ...]:
    other = estimate.usd if objective.minimise == "time" else estimate.seconds
    value = _value(estimate, objective)
    return (bool(estimate.obstacle), not keeps(estimate, objective), value, other, str(estimate.candidate))

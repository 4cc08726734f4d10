"""The choice among candidates: what ranks before what, and the frontier of time and cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lambdaml.codecs import CODECS
from lambdaml.cost.planning.outlook import Outlook

if TYPE_CHECKING:
    from lambdaml.cost.planning.plan import Wishes

TIE = 0.01
"""Candidates whose values differ by no more than this share are equally good: simulations with other chances differ by
as much."""


def ranked(found: Iterable[Outlook], wishes: Wishes) -> list[Outlook]:
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


def by_a_tie(found: Sequence[Outlook], wishes: Wishes) -> bool:
    """Whether the first of those that `ranked` put in order comes before a better one, for its exact codec."""
    return len(found) > 1 and keeps(found[0], wishes) and _rank(found[1], wishes) < _rank(found[0], wishes)


def is_exact(outlook: Outlook) -> bool:
    """Whether the candidate's codec is."""
    return CODECS.make(outlook.candidate.codec).exact


def keeps(outlook: Outlook, wishes: Wishes) -> bool:
    """Whether nine of ten runs keep deadline and budget."""
    return (
        not outlook.obstacle
        and outlook.unlikely_seconds <= wishes.deadline_s
        and outlook.unlikely_usd <= wishes.budget_usd
    )


def frontier(found: Sequence[Outlook]) -> list[int]:
    """Places of those that no other beats in time and cost, the fastest first."""
    order = sorted(
        (place for place, outlook in enumerate(found) if not outlook.obstacle),
        key=lambda place: (found[place].seconds, found[place].usd),
    )
    places: list[int] = []
    for place in order:
        if not places or found[place].usd < found[places[-1]].usd:
            places.append(place)
    return places


def nearest(found: Sequence[Outlook], wishes: Wishes) -> int | None:
    """The place of the one that exceeds deadline and budget by the least factor."""

    def excess(place: int) -> float:
        outlook = found[place]
        late, dear = outlook.unlikely_seconds / wishes.deadline_s, outlook.unlikely_usd / wishes.budget_usd
        return max(1.0, late) * max(1.0, dear)

    places = [place for place, outlook in enumerate(found) if not outlook.obstacle]
    return min(places, key=excess, default=None)


def _value(outlook: Outlook, wishes: Wishes) -> float:
    """What is to be small."""
    seconds, usd = outlook.seconds, outlook.usd
    return {"cost": usd, "time": seconds, "balanced": seconds * max(usd, 1e-12)}[wishes.minimise]


def _rank(outlook: Outlook, wishes: Wishes) -> tuple[Any, ...]:
    other = outlook.usd if wishes.minimise == "time" else outlook.seconds
    value = _value(outlook, wishes)
    return (bool(outlook.obstacle), not keeps(outlook, wishes), value, other, str(outlook.candidate))

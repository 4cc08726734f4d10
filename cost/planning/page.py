"""A plan as one self-contained HTML page: a chart of cost against time, all candidates, and the assumptions.

The page itself is the template `cost/templates/plan.html`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lambdaml.cost.planning.explain import money, rough_duration
from lambdaml.pages import render
from lambdaml.pages.charts import Axis, Chart, point_chart

if TYPE_CHECKING:
    from lambdaml.cost.planning.command import HowTo
    from lambdaml.cost.planning.plan import Plan

_LEAST_USD = 1e-9
"""The cost at which a free candidate is drawn, since the axes are logarithmic."""

_LOOKS = {
    "beaten in time and cost": ("var(--series-8)", "circle", 28),
    "on the frontier": ("var(--series-3)", "diamond", 90),
    "chosen": ("var(--series-2)", "triangle-up", 190),
}

_COLUMNS = {
    "place": "candidate",
    "schedule": "schedule",
    "workers": "workers",
    "batch": "batch",
    "codec": "codec",
    "platform": "platform",
    "store": "store",
    "steps": "steps",
    "staleness": "staleness",
    "seconds": "seconds",
    "p90_seconds": "seconds, 9 of 10",
    "usd": "US dollars",
    "p90_usd": "US dollars, 9 of 10",
    "requests": "requests",
}


def plan_page(plan: Plan, title: str, how: HowTo | None = None) -> str:
    """Return the page, which loads nothing from anywhere.

    Args:
        how: The way to run the choice.

    Raises:
        UserError: If the packages that draw charts are not installed.
    """
    return render(
        "plan.html",
        "lambdaml.cost",
        charts={"candidates": _chart(plan)},
        plan=plan,
        title=title,
        how=how,
        duration=rough_duration,
        money=lambda usd: money(usd) if math.isfinite(usd) else "",
    )


def _chart(plan: Plan) -> Chart | None:
    """Return the chart of all candidates that end, or None if none does."""
    rows = [_row(plan, place) for place, found in enumerate(plan.candidates) if not found.obstacle]
    if not rows:
        return None
    return point_chart(
        "Cost against time of every candidate that ends",
        f"{len(rows)} candidates, with the time to the end across and the cost upwards, both on logarithmic axes.",
        rows,
        Axis("seconds", "time to the end", "s", "log"),
        Axis("usd_shown", "cost", "usd", "log"),
        "kind",
        _LOOKS,
        _COLUMNS,
        path=[kind for kind in _LOOKS if not kind.startswith("beaten")],
        note="Further left is faster, and further down is cheaper. No candidate beats one on the frontier in both.",
    )


def _row(plan: Plan, place: int) -> dict[str, Any]:
    found = plan.candidates[place]
    candidate = found.candidate
    beaten, on_frontier, chosen = _LOOKS
    return {
        "place": place + 1,
        "kind": chosen if place == plan.chosen else on_frontier if place in plan.frontier else beaten,
        "schedule": candidate.schedule,
        "workers": candidate.workers,
        "batch": candidate.batch_size,
        "codec": candidate.codec,
        "platform": candidate.platform.spec,
        "store": candidate.channel.name,
        "steps": found.steps,
        "staleness": found.staleness,
        "seconds": found.seconds,
        "p90_seconds": found.p90_seconds,
        "usd": found.usd,
        "usd_shown": max(found.usd, _LEAST_USD),
        "p90_usd": found.p90_usd,
        "requests": found.requests,
    }

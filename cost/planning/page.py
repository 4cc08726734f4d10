"""A plan as one self-contained HTML page: a chart of cost against time, all candidates, and the assumptions.

The page itself is the template `cost/templates/plan.html`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambdaml.cost.planning.explain import money, rough_duration

if TYPE_CHECKING:
    from lambdaml.cost.planning.command import HowTo
    from lambdaml.cost.planning.plan import Plan

WIDTH, HEIGHT, MARGIN = 860, 460, 64

_LEAST_USD = 1e-9
"""The cost at which a free candidate is drawn, since the axes are logarithmic."""


def plan_page(plan: Plan, title: str, how: HowTo | None = None) -> str:
    """Return the page, which loads nothing from anywhere.

    Args:
        how: The way to run the choice.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lambdaml.cost"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"duration": rough_duration, "money": _money}
    page = environment.get_template("plan.html")
    return page.render(plan=plan, data=plan.to_dict(), title=title, how=how, chart=_chart(plan))


@dataclass(frozen=True, slots=True)
class _Point:
    """A candidate in the chart; `kind` is `beaten`, `frontier` or `chosen`."""

    place: int
    kind: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class _Chart:
    """The chart of all candidates that end, on logarithmic axes.

    Attributes:
        width, height, margin: The sizes of the drawing.
        x_ticks, y_ticks: Positions on the page, with the seconds and the US dollars that they mark.
        points: The candidates. Those that matter most are last, so that they are drawn on top.
        frontier: The positions of the frontier's candidates, as SVG writes them.
    """

    width: int
    height: int
    margin: int
    x_ticks: dict[float, float]
    y_ticks: dict[float, float]
    points: list[_Point]
    frontier: str


def _chart(plan: Plan) -> _Chart | None:
    """Return the chart, or None if no candidate ends."""
    shown = {place: found for place, found in enumerate(plan.candidates) if not found.obstacle}
    if not shown:
        return None
    across = _Axis([found.seconds for found in shown.values()], MARGIN, WIDTH - 20)
    up = _Axis([max(found.usd, _LEAST_USD) for found in shown.values()], HEIGHT - MARGIN, 20)
    points = {
        place: _Point(place, _kind(plan, place), across.at(found.seconds), up.at(max(found.usd, _LEAST_USD)))
        for place, found in shown.items()
    }
    line = " ".join(f"{points[place].x:.1f},{points[place].y:.1f}" for place in plan.frontier)
    on_top = sorted(points.values(), key=lambda point: ("beaten", "frontier", "chosen").index(point.kind))
    return _Chart(WIDTH, HEIGHT, MARGIN, across.ticks(), up.ticks(), on_top, line)


def _kind(plan: Plan, place: int) -> str:
    return "chosen" if place == plan.chosen else "frontier" if place in plan.frontier else "beaten"


class _Axis:
    """A logarithmic axis between two positions on the page."""

    def __init__(self, values: list[float], begin: float, end: float) -> None:
        self._low, self._high = math.log10(min(values) / 1.15), math.log10(max(values) * 1.15)
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._begin + share * (self._end - self._begin)

    def ticks(self) -> dict[float, float]:
        factors = (1, 2, 5) if self._high - self._low < 2 else (1,)
        powers = range(math.floor(self._low), math.ceil(self._high) + 1)
        values = [factor * 10.0**power for power in powers for factor in factors]
        return {self.at(value): value for value in values if self._low <= math.log10(value) <= self._high}


def _money(usd: float) -> str:
    return money(usd) if math.isfinite(usd) else ""

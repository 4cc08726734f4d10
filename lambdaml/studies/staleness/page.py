"""The study as one self-contained HTML page with figures, the theory beside the experiment, and the table.

The page itself is the template `lambdaml/studies/templates/staleness.html`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lambdaml.pages import render
from lambdaml.pages.charts import Axis, Chart, bar_chart, line_chart
from lambdaml.studies.staleness.plan import StudyPlan
from lambdaml.studies.staleness.table import Bar, StudyRow, bars
from lambdaml.studies.staleness.theory import Theorem

_ABOUT_THEORY = (
    "SGD with one stale gradient a step (delay uniform on s values) and the theorem's step size η_k = μ / (s L √k). Its "
    "bound on the least squared gradient norm up to T: (s L (F(x_0) − inf F) / μ² + σ² log T / s) / √T. μ (gradient "
    "coherence), L and σ² are measured along the path, so the bound is an estimate; where μ is not above 0 the theorem says "
    "nothing, and the step takes 0.1 for it. The formulas are recalled from the paper."
)

_RATIO = Axis("slower", "batches to the target, relative to s = 0")
_BAR_COLUMNS = {
    "model": "model",
    "algorithm": "algorithm",
    "workers": "workers",
    "s": "s",
    "slower": "relative",
    "spread": "± std",
    "batches": "batches",
    "met": "seeds that met it",
    "seeds": "seeds",
}


@dataclass(frozen=True, slots=True)
class _Section:
    """A part of the page: a heading, a paragraph, and charts."""

    title: str
    charts: Sequence[Chart]
    about: str = ""


def study_page(plan: StudyPlan, rows: Sequence[StudyRow], theorems: Sequence[Theorem]) -> str:
    """Return the page as HTML.

    Raises:
        UserError: If the packages that draw charts are not installed.
    """
    found = bars(rows)
    charts: dict[str, Chart | None] = {}
    sections = []
    for section in _sections(plan, rows, found, theorems):
        names = [f"chart-{len(charts) + number}" for number in range(len(section.charts))]
        charts |= zip(names, section.charts)
        sections.append({"title": section.title, "about": section.about, "charts": names})
    return render(
        "staleness.html", "lambdaml.studies", charts=charts, setting=_setting(plan), sections=sections, bars=found
    )


def _setting(plan: StudyPlan) -> str:
    workers = ", ".join(map(str, plan.workers))
    return (
        f"{workers} workers, each with its own cache; delays {plan.delays}; {plan.seeds} seeds; data: {plan.data}; given up "
        f"after {plan.longest:g} times the iterations of s = 0."
    )


def _sections(
    plan: StudyPlan, rows: Sequence[StudyRow], found: Sequence[Bar], theorems: Sequence[Theorem]
) -> Iterator[_Section]:
    for workers in plan.workers:
        mine = [bar for bar in found if bar.workers == workers]
        title = f" ({workers} workers)" if len(plan.workers) > 1 else ""
        yield _Section(f"By algorithm{title}", _grouped(mine, "algorithm", "model"))
        yield _Section(f"By model{title}", _grouped(mine, "model", "algorithm"))
    if len(plan.workers) > 1:
        largest = max(bar.staleness for bar in found)
        stale = [bar for bar in found if bar.staleness == largest]
        yield _Section(f"By number of workers, s = {largest}", _by_workers(stale))
    for workers in dict.fromkeys(row.workers for row in rows if row.model == "lda"):
        yield _Section(f"LDA, {workers} workers", [_likelihoods(rows, workers)])
    if theorems:
        models = dict.fromkeys(theorem.model for theorem in theorems)
        charts = [_theory([theorem for theorem in theorems if theorem.model == model]) for model in models]
        yield _Section("The theory beside an experiment", charts, _ABOUT_THEORY)


def _grouped(found: Sequence[Bar], one: str, other: str) -> list[Chart]:
    """Return a chart for each value of one attribute: s is on the axis, and each value of the other has a colour."""
    charts = []
    for value in dict.fromkeys(str(getattr(bar, one)) for bar in found):
        mine = sorted((bar for bar in found if str(getattr(bar, one)) == value), key=lambda bar: bar.staleness)
        charts.append(_bars(value, mine, Axis("s", "s", kind="names"), other))
    return charts


def _by_workers(found: Sequence[Bar]) -> list[Chart]:
    algorithms = dict.fromkeys(bar.algorithm for bar in found)
    axis = Axis("model", "model", kind="names")
    return [_bars(name, [bar for bar in found if bar.algorithm == name], axis, "workers") for name in algorithms]


def _bars(title: str, found: Sequence[Bar], x: Axis, by: str) -> Chart:
    rows: list[dict[str, Any]] = [
        {
            "model": bar.model,
            "algorithm": bar.algorithm,
            "workers": bar.workers,
            "s": str(bar.staleness),
            "slower": bar.slower,
            "spread": bar.spread,
            "batches": bar.batches,
            "met": bar.met,
            "seeds": bar.seeds,
        }
        for bar in found
    ]
    about = f"{title}: batches to the target, relative to those without staleness, for each {by}."
    return bar_chart(title, about, rows, x, _RATIO, by, _BAR_COLUMNS, stacked=False, spread="spread", level=1.0)


def _likelihoods(rows: Sequence[StudyRow], workers: int) -> Chart:
    """Return the log-likelihood curves of LDA for the first seed, as in the paper."""
    points = [
        {"sweeps": float(at) / 10, "quality": float(quality), "s": f"s={row.staleness}"}
        for row in rows
        if row.model == "lda" and row.seed == 0 and row.workers == workers
        for at, quality in json.loads(row.curve)
    ]
    return line_chart(
        "Log-likelihood by sweeps",
        f"The log-likelihood of a token over sweeps through the data, with {workers} workers, for each s.",
        points,
        Axis("sweeps", "sweeps"),
        Axis("quality", "log-likelihood of a token"),
        "s",
        {"s": "s", "sweeps": "sweeps", "quality": "log-likelihood"},
    )


def _theory(mine: Sequence[Theorem]) -> Chart:
    points: list[dict[str, Any]] = []
    for theorem in mine:
        points += [{"T": at, "norm": value, "curve": f"s={theorem.s}"} for at, value in theorem.measured]
        points += [{"T": at, "norm": value, "curve": f"s={theorem.s} (bound)"} for at, value in theorem.bound or ()]
    first = mine[0].measured[0][1]
    points += [{"T": at, "norm": first / at**0.5, "curve": "1/√T (guide)"} for at, _ in mine[0].measured]
    dashed = [name for name in dict.fromkeys(str(point["curve"]) for point in points) if name.endswith(")")]
    measured = "; ".join(
        f"s={theorem.s}: μ {theorem.coherence:.2g}, L {theorem.smoothness:.3g}, σ² {theorem.variance:.3g}"
        for theorem in mine
    )
    return line_chart(
        mine[0].model,
        f"{mine[0].model}: the least squared gradient norm over steps, measured, and its bound by the theorem.",
        [point for point in points if point["norm"] > 0],
        Axis("T", "T, steps", kind="log"),
        Axis("norm", "least |∇F|² up to T", kind="log"),
        "curve",
        {"curve": "curve", "T": "T", "norm": "least squared norm"},
        dashed=dashed,
        note=measured,
    )

"""The report of a run, or of several side by side, as one self-contained HTML page.

The page itself is the template `cost/templates/report.html`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lambdaml.cost.billing.attribution import COST_PHASES
from lambdaml.cost.planning.command import job_word
from lambdaml.cost.planning.explain import money, rough_duration
from lambdaml.cost.reporting.report import CurvePoint, RunReport
from lambdaml.pages import render
from lambdaml.pages.charts import Axis, Chart, Choice, bar_chart, line_chart
from lambdaml.pages.timeline import timeline
from lambdaml.storage.url import as_typed
from lambdaml.traces.attribution import PHASES, PhaseShare
from lambdaml.wording import metric_name, metrics_text

CURVE_POINTS = 500
"""A curve has at most this many points; each is the mean of as many versions as that takes."""

WORKERS = 64
"""The chart of staleness by worker has at most this many workers, those with the stalest updates."""

_CHOICES = (
    Choice("versions", Axis("version", "version, in optimizer steps")),
    Choice("samples", Axis("samples", "samples")),
    Choice("time", Axis("seconds", "time since the beginning", "s")),
    Choice("dollars", Axis("usd", "US dollars spent", "usd")),
)
_PLACE = {"version": "version", "samples": "samples", "seconds": "seconds", "usd": "US dollars"}


def report_page(reports: Sequence[RunReport]) -> str:
    """Return the page of the first report, with the others beside it.

    Raises:
        UserError: If the packages that draw charts are not installed.
    """
    first = reports[0]
    charts: dict[str, Chart | None] = {"loss": _losses(reports)}
    metrics = list(dict.fromkeys(name for each in reports for one in each.evaluations for name in one.metrics))
    charts |= {f"metric-{number}": _metric(reports, name) for number, name in enumerate(metrics)}
    charts |= {"stale-counts": _counts(first), "stale-trend": _trend(first), "stale-workers": _by_worker(first)}
    charts |= {"timeline": timeline(first.functions), "phases": _phases(first), "requests": _requests(first)}
    return render(
        "report.html",
        "lambdaml.cost",
        charts=charts,
        report=first,
        place=as_typed(first.run),
        job=job_word(first.settings.job.spec),
        reports=reports,
        metrics=[f"metric-{number}" for number in range(len(metrics))],
        duration=rough_duration,
        money=money,
        metric_name=metric_name,
        metrics_text=metrics_text,
        settings={name: value for name, value in first.settings.model_dump().items() if _said(name, value)},
    )


def _said(name: str, value: Any) -> bool:
    return name not in ("numerics", "planned", "token", "versions") and value not in (None, "", {})


def _name(report: RunReport, reports: Sequence[RunReport]) -> str:
    """Return the name of a run, which is its URL where names are not enough to tell runs apart."""
    return report.name if [each.name for each in reports].count(report.name) == 1 else report.run


def thinned_curve(curve: Sequence[CurvePoint]) -> Iterator[CurvePoint]:
    """Yield at most `CURVE_POINTS` points: each has the mean loss of as many versions as that takes, at the last of them."""
    size = -(-len(curve) // CURVE_POINTS) or 1
    for start in range(0, len(curve), size):
        some = curve[start : start + size]
        losses = [point.loss for point in some if point.loss is not None]
        last = some[-1]
        loss = sum(losses) / len(losses) if losses else None
        yield CurvePoint(last.version, last.samples, last.seconds, last.usd, loss)


def _at(point: CurvePoint) -> dict[str, Any]:
    return {name: getattr(point, name) for name in _PLACE}


def _choices(rows: Sequence[Mapping[str, Any]]) -> tuple[Choice, ...]:
    """Return the axes on which the rows differ: a run that nobody bills has no dollars."""
    return tuple(choice for choice in _CHOICES if any(row[choice.axis.field] for row in rows))


def _losses(reports: Sequence[RunReport]) -> Chart | None:
    rows = [
        {**_at(point), "loss": point.loss, "run": _name(each, reports)}
        for each in reports
        for point in thinned_curve(each.curve)
        if point.loss is not None
    ]
    if not rows:
        return None
    sizes = {-(-len(each.curve) // CURVE_POINTS) for each in reports}
    note = f"Each point is the mean of {max(sizes)} versions." if max(sizes) > 1 else ""
    return line_chart(
        "Training loss",
        f"The mean loss of updates over {len(rows)} points, from {rows[0]['loss']:.4g} to {rows[-1]['loss']:.4g}.",
        rows,
        _CHOICES[0].axis,
        Axis("loss", "training loss"),
        "run",
        {"run": "run", **_PLACE, "loss": "training loss"},
        choices=_choices(rows),
        note=note,
    )


def _metric(reports: Sequence[RunReport], name: str) -> Chart:
    rows = [
        {**_at(one.point), "value": one.metrics[name], "run": _name(each, reports)}
        for each in reports
        for one in each.evaluations
        if name in one.metrics
    ]
    shown = metric_name(name)
    title = f"{shown[:1].upper()}{shown[1:]}"
    return line_chart(
        title,
        f"{title} at {len(rows)} evaluated versions, {rows[-1]['value']:.4g} at the last of them.",
        rows,
        _CHOICES[0].axis,
        Axis("value", title.lower()),
        "run",
        {"run": "run", **_PLACE, "value": title.lower()},
        choices=_choices(rows),
    )


def _counts(report: RunReport) -> Chart | None:
    counts = report.staleness.counts
    if not counts:
        return None
    width = -(-(max(counts) + 1) // 24)
    rows = []
    for start in range(0, max(counts) + 1, width):
        count = sum(counts.get(value, 0) for value in range(start, start + width))
        name = str(start) if width == 1 else f"{start}–{start + width - 1}"
        rows.append({"staleness": name, "updates": count, "kind": ""})
    columns = {"staleness": "staleness, in steps", "updates": "updates"}
    stale = report.staleness.staleness
    about = f"Staleness {stale.mean:.2f} on average, {stale.p50:.0f} in the median, {stale.max} at most."
    x = Axis("staleness", "staleness, in steps", kind="names")
    return bar_chart("Updates by staleness", about, rows, x, Axis("updates", "updates"), "kind", columns, note=about)


def _parts(parts: Sequence[PhaseShare], name: str, label: str) -> list[dict[str, Any]]:
    return [
        {name: label.format(first=part.first, last=part.last), "cause": phase, "steps": getattr(part.split, phase)}
        for part in parts
        if part.split is not None
        for phase in PHASES
    ]


def _trend(report: RunReport) -> Chart | None:
    rows = _parts(report.staleness.trend, "versions", "{first}–{last}")
    if not rows or not report.staleness.staleness.max:
        return None
    columns = {"versions": "versions", "cause": "came from", "steps": "steps"}
    x, y = Axis("versions", "versions", kind="names"), Axis("steps", "mean staleness, in steps")
    about = "The mean staleness of updates, by what was going on when the steps between were committed, over time."
    note = (
        "storage: fetching the state and uploading; compute: gradient and codec; wait: from the upload to the own step."
    )
    return bar_chart("Staleness by cause, over time", about, rows, x, y, "cause", columns, note=note)


def _by_worker(report: RunReport) -> Chart | None:
    stalest = sorted(report.staleness.workers, key=lambda part: -part.staleness.mean)[:WORKERS]
    rows = _parts(sorted(stalest, key=lambda part: part.first), "worker", "{first}")
    if not rows or not report.staleness.staleness.max:
        return None
    columns = {"worker": "worker", "cause": "came from", "steps": "steps"}
    x, y = Axis("steps", "mean staleness, in steps"), Axis("worker", "worker", kind="names")
    about = "The mean staleness of each worker's updates, by its cause."
    left_out = len(report.staleness.workers) - len(stalest)
    note = (
        f"The {len(stalest)} workers with the stalest updates; {left_out} more had less stale ones." if left_out else ""
    )
    return bar_chart("Staleness by cause and worker", about, rows, x, y, "cause", columns, note=note)


def _phases(report: RunReport) -> Chart | None:
    rows = [
        {
            "phase": item.name,
            "seconds": item.share.seconds,
            "usd": item.usd,
            "what": COST_PHASES[str(item.name)],
            "kind": "",
        }
        for item in report.bill.phases
        if item.share.seconds > 0
    ]
    if not rows:
        return None
    columns = {"phase": "phase", "seconds": "function-seconds", "usd": "US dollars", "what": "what it is"}
    x, y = Axis("seconds", "function-seconds", "s"), Axis("phase", "", kind="names")
    about = f"{report.bill.function_seconds:.1f} function-seconds by what they were used for."
    return bar_chart("What functions did", about, rows, x, y, "kind", columns)


def _requests(report: RunReport) -> Chart | None:
    requests = sorted(report.bill.used.requests.items(), key=lambda item: -item[1])
    rows = [{"kind": kind, "count": count, "all": ""} for kind, count in requests if count]
    if not rows:
        return None
    x, y = Axis("count", "requests"), Axis("kind", "", kind="names")
    about = f"{sum(report.bill.used.requests.values()):,} requests by kind."
    return bar_chart("Requests", about, rows, x, y, "all", {"kind": "kind", "count": "requests"})

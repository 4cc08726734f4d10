"""The influence of a run's clients as one self-contained HTML page: the ranking, and estimates beside the truth.

The page itself is the template `lambdaml/influence/templates/influence.html`.
"""

from __future__ import annotations

from typing import Any

from lambdaml.influence.measure import InfluenceReport
from lambdaml.influence.table import influence_about, influence_heading, influence_verdict, influence_words
from lambdaml.pages import render
from lambdaml.pages.charts import Axis, Chart, point_chart
from lambdaml.wording import metric_name

_LOOKS = {"": ("var(--series-1)", "circle", 60)}


def influence_page(report: InfluenceReport) -> str:
    """Return the page as HTML.

    Raises:
        UserError: If the packages that draw charts are not installed.
    """
    rows = influence_words(report)
    draw = _beside_truth if report.clients[0].truth else _by_size
    return render(
        "influence.html",
        "lambdaml.influence",
        charts={f"metric-{number}": draw(report, name) for number, name in enumerate(report.metrics)},
        verdict=influence_verdict(report),
        about=influence_about(report),
        columns=list(rows[0]),
        rows=rows,
    )


def _points(report: InfluenceReport, metric: str) -> list[dict[str, Any]]:
    return [
        {
            "kind": "",
            "client": str(each.client),
            "samples": each.samples,
            "turns": each.turns,
            "estimate": each.influence[metric],
            "truth": each.truth.get(metric),
        }
        for each in report.clients
    ]


def _beside_truth(report: InfluenceReport, metric: str) -> Chart:
    name, found = influence_heading(metric), report.correlation(metric)
    about = f"The estimated influence of each client on the {metric_name(metric)}, and the one found by training without it."
    return point_chart(
        f"{name}: estimate and truth",
        about,
        _points(report, metric),
        Axis("estimate", f"estimated {name}"),
        Axis("truth", f"{name} by training without the client"),
        "kind",
        _LOOKS,
        {"client": "client", "samples": "samples", "turns": "turns", "estimate": "estimate", "truth": "truth"},
        note=f"Pearson's correlation is {found:.4f}.",
    )


def _by_size(report: InfluenceReport, metric: str) -> Chart:
    name = influence_heading(metric)
    return point_chart(
        f"{name} and samples",
        f"The estimated influence of each client on the {metric_name(metric)}, over the number of its samples.",
        _points(report, metric),
        Axis("samples", "samples of the client", kind="log"),
        Axis("estimate", f"estimated {name}"),
        "kind",
        _LOOKS,
        {"client": "client", "samples": "samples", "turns": "turns", "estimate": name},
    )

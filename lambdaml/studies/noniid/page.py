"""The non-IID study as one self-contained HTML page: accuracy by skew, partition by partition, and the table.

The page itself is the template `lambdaml/studies/templates/noniid.html`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from lambdaml.pages import render
from lambdaml.pages.charts import Axis, Chart, bar_chart, line_chart
from lambdaml.studies.noniid.dealing import BATCH, PARTITIONS_OF_STUDY
from lambdaml.studies.noniid.plan import SkewPlan
from lambdaml.studies.noniid.table import SkewCell, SkewRow, cells

_ABOUT_OWN = (
    "The models that partitions have before they hear of each other, on all test samples, as the mean over the seeds. With "
    "bsp and dgc that is the shared model."
)
_NORM_TITLES = {"batch": "BatchNorm", "group": "GroupNorm", "none": "no normalisation"}
_SKEW = Axis("skew", "label skew, %")
_ACCURACY = Axis("accuracy", "test accuracy, %")


def skew_page(plan: SkewPlan, rows: Sequence[SkewRow]) -> str:
    """Return the page as HTML.

    Raises:
        UserError: If the packages that draw charts are not installed.
    """
    found = cells(rows)
    charts: dict[str, Chart | None] = {}
    sections = []
    for title, about, drawn in _sections(plan, rows, found):
        names = [f"chart-{len(charts) + number}" for number in range(len(drawn))]
        charts |= zip(names, drawn)
        sections.append({"title": title, "about": about, "charts": names})
    return render(
        "noniid.html",
        "lambdaml.studies",
        charts=charts,
        sections=sections,
        cells=found,
        setting=f"{PARTITIONS_OF_STUDY} partitions of scikit-learn's digits, {plan.iterations} batches of {BATCH} each, "
        f"plain SGD; {plan.seeds} seeds.",
    )


def _sections(
    plan: SkewPlan, rows: Sequence[SkewRow], found: Sequence[SkewCell]
) -> Iterator[tuple[str, str, list[Chart]]]:
    for model in plan.models:
        mine = [cell for cell in found if cell.model == model]
        yield (
            f"Accuracy of the shared model: {model}",
            "Means over the seeds, on all test samples.",
            [_by_skew(name, [cell for cell in mine if cell.algorithm == name]) for name in plan.algorithms],
        )
        most = max(plan.degrees())
        yield (
            f"Each partition's own model at {most} % skew: {model}",
            _ABOUT_OWN,
            [
                _by_partition(
                    name, [row for row in rows if (row.model, row.algorithm, row.skew) == (model, name, most)]
                )
                for name in plan.algorithms
            ],
        )


def _by_skew(algorithm: str, found: Sequence[SkewCell]) -> Chart:
    points: list[dict[str, Any]] = [
        {
            "norm": _NORM_TITLES[cell.norm],
            "skew": cell.skew,
            "accuracy": cell.accuracy,
            "spread": cell.spread,
            "own": cell.own,
            "home": cell.home,
            "traffic": cell.traffic,
        }
        for cell in found
    ]
    columns = {
        "norm": "normalisation",
        "skew": "skew, %",
        "accuracy": "accuracy, %",
        "spread": "± std",
        "own": "own models, %",
        "home": "at home, %",
        "traffic": "bytes, % of bsp",
    }
    about = f"{algorithm}: the test accuracy of the shared model over the degree of label skew, for each normalisation."
    return line_chart(algorithm, about, points, _SKEW, _ACCURACY, "norm", columns)


def _by_partition(algorithm: str, rows: Sequence[SkewRow]) -> Chart:
    points = []
    for norm in dict.fromkeys(row.norm for row in rows):
        seeds = [json.loads(row.partitions) for row in rows if row.norm == norm]
        points += [
            {"norm": _NORM_TITLES[norm], "partition": str(number), "accuracy": 100 * fmean(values)}
            for number, values in enumerate(zip(*seeds))
        ]
    columns = {"norm": "normalisation", "partition": "partition", "accuracy": "accuracy, %"}
    about = f"{algorithm}: the test accuracy of each partition's own model, as the mean over the seeds."
    axis = Axis("partition", "partition", kind="names")
    return bar_chart(algorithm, about, points, axis, _ACCURACY, "norm", columns, stacked=False)

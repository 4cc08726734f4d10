"""Influence as rows and words, which the command line, files and pages share."""

from __future__ import annotations

from typing import Any

from lambdaml.influence.measure import ClientInfluence, InfluenceReport
from lambdaml.wording import metric_name

_PAPER = {"loss": "FIL", "accuracy": "FIA"}
"""What the paper calls the influence on a metric."""


def influence_heading(metric: str) -> str:
    """Return the heading of the influence on a metric."""
    return _PAPER.get(metric, f"on {metric}")


def influence_rows(report: InfluenceReport) -> list[dict[str, Any]]:
    """Return a row of plain values for each client, the most valuable first."""
    return [_row(each) for each in report.clients]


def influence_words(report: InfluenceReport) -> list[dict[str, str]]:
    """Return the same rows with formatted values."""
    return [
        {name: f"{value:+.3g}" if isinstance(value, float) else f"{value:,}" for name, value in row.items()}
        | {"distance": f"{row['distance']:.3g}"}
        for row in influence_rows(report)
    ]


def influence_verdict(report: InfluenceReport) -> str:
    """Return a sentence about the most and the least valuable client."""
    best, worst = report.clients[0], report.clients[-1]
    return (
        f"Client {best.client} was the most valuable: without it {_change(report, best)}. Client {worst.client} was the "
        + (f"least: without it {_change(report, worst)}.")
    )


def influence_about(report: InfluenceReport) -> str:
    """Return a sentence about how the influence was measured, and on what."""
    how = {
        "fisher": "estimated from the recorded gradients of samples",
        "exact": "estimated with Hessian-vector products",
    }[report.estimator]
    values = ", ".join(f"{metric_name(name)} {value:.4g}" for name, value in report.metrics.items())
    said = f"The influence of {len(report.clients):,} clients on version {report.version:,} ({values}), {how}"
    left_out = ", ".join(map(str, report.left_out))
    return f"{said}; truncated: {report.truncation}." + (f" Left out by then: {left_out}." if left_out else "")


def _change(report: InfluenceReport, client: ClientInfluence) -> str:
    name = report.judged_by
    change = client.influence[name]
    return f"the {metric_name(name)} would be {abs(change):.3g} {'higher' if change > 0 else 'lower'}"


def _row(each: ClientInfluence) -> dict[str, Any]:
    row: dict[str, Any] = {"client": each.client, "samples": each.samples, "turns": each.turns}
    row |= {influence_heading(name): value for name, value in each.influence.items()}
    row |= {f"true {influence_heading(name)}": value for name, value in each.truth.items()}
    return row | {"distance": each.distance}

"""The verb `lambdaml report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambdaml.cli import _format, _options

if TYPE_CHECKING:
    from lambdaml.cost.planning.report import Comparison

_TIMES = ("time", "time of a step")


def report(run: _options.Run, prices: _options.Prices = None, as_json: _options.Json = False) -> int:
    """Compare what a plan expected of a run with what the run took: time, dollars, requests, staleness and steps."""
    import lambdaml

    found = lambdaml.report(run, lambdaml.prices(*([prices] if prices else [])))
    if as_json:
        _format.print_json(found.to_dict())
        return 0
    rows = [
        [
            row.what,
            f"{row.planned:,.4g} {row.unit}".strip(),
            f"{row.actual:,.4g} {row.unit}".strip(),
            _than_planned(row),
        ]
        for row in found.comparisons
    ]
    _format.print_table(["", "planned", "actual", "than planned"], rows, left=["", "than planned"])
    print()
    _format.print_text(f"planned: {found.reason}")
    billed = f"billed as {found.bill.platform} on {found.bill.channel}"
    _format.print_text(f"{billed}: {_format.usd(found.bill.bill.usd)}")
    for note in found.bill.notes:
        _format.print_text(note, "  ")
    return 0


def _than_planned(row: Comparison) -> str:
    """Say in words which side is larger, such as `1.2x slower` or `1.3x less`."""
    if row.planned == row.actual:
        return "the same"
    if not row.planned or not row.actual:
        return "more" if row.actual > row.planned else "less"
    more, less = ("slower", "faster") if row.what in _TIMES else ("more", "less")
    ratio = row.actual / row.planned
    shown = f"{max(ratio, 1 / ratio):.2f}"
    return "about the same" if shown == "1.00" else f"{shown}x {more if ratio > 1 else less}"

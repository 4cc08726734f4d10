"""The verb `lambdaml report`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lambdaml.cli import _format, _options
from lambdaml.errors import UserError

if TYPE_CHECKING:
    from lambdaml.cost.reporting.report import RunReport

_Page = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Write the report as a page with charts to this HTML file."),
]
_Compare = Annotated[
    list[str] | None,
    typer.Option(metavar="RUN", help="Put this run beside it; may be given several times."),
]


def report(
    run: _options.Run,
    out: _Page = None,
    compare: _Compare = None,
    platform: _options.BilledAs = None,
    store_as: _options.StoreAs = None,
    prices: _options.Prices = None,
    as_json: _options.Json = False,
) -> int:
    """Say what came out of a run and what it took: learning, staleness, time, requests, dollars, and its plan.

    A run that was planned is billed as it was planned, and another as it ran, unless you say otherwise.
    """
    import lambdaml
    from lambdaml.cli._progress import Share

    book = lambdaml.prices(*([prices] if prices else []))
    found = []
    for each in dict.fromkeys([run, *(compare or ())]):
        with Share(f"reading {_format.shown(each)} and simulating it again") as share:
            found.append(lambdaml.report(each, book, platform=platform, channel=store_as, progress=share))
    if out is not None:
        _write(out, found)
    if as_json:
        _format.print_json(found[0].to_dict() if len(found) == 1 else [each.to_dict() for each in found])
        return 0
    for number, each in enumerate(found):
        if number:
            print()
        _print(each)
    if out is not None:
        print()
        _format.print_text(f"with charts: {out}")
    return 0


def _write(out: Path, found: list[RunReport]) -> None:
    from lambdaml.cost.reporting.page import report_page

    page = report_page(found)
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error


def _print(found: RunReport) -> None:
    _format.print_text(" ".join(found.verdict))
    print()
    _format.print_pairs(_facts(found))
    print()
    print("train it again:")
    _format.print_command(found.reproduce)
    if found.diagnosis is not None:
        print()
        _format.print_text(found.diagnosis.verdict)
        for lever in found.diagnosis.levers[:3]:
            _format.print_text(f"{lever.change}: {lever.gain_s:,.1f} s less ({lever.hint})", " " * 4, "  - ")
    if found.comparisons:
        print()
        rows = [
            [row.what, *(f"{value:,.4g} {row.unit}".strip() for value in (row.planned, row.actual)), row.than_planned]
            for row in found.comparisons
        ]
        _format.print_table(["", "planned", "actual", "than planned"], rows, left=["", "than planned"])
        _format.print_text(f"planned: {found.reason}")


def _facts(found: RunReport) -> Iterator[tuple[str, str]]:
    billed, used, settings = found.bill, found.bill.used, found.settings
    yield "run", _format.shown(found.run)
    yield "what", f"{settings.schedule}, {settings.algorithm}, {settings.codec}, {_format.workers(settings)}"
    losses = [point.loss for point in found.curve if point.loss is not None]
    if losses:
        yield "training loss", f"{losses[0]:.4g} at first, {losses[-1]:.4g} at last"
    for one in found.evaluations[-1:]:
        yield "evaluated", f"{_format.metrics(one.metrics)} at version {one.point.version:,}"
    yield "updates", f"{found.summary.updates:,} ({_format.counts(found.summary.fates)})"
    yield "staleness", _format.staleness(found.staleness.staleness)
    if found.staleness.split is not None and found.staleness.staleness.max:
        split = found.staleness.split
        yield "made of", f"storage {split.storage:.3g}, compute {split.compute:.3g}, wait {split.wait:.3g} steps"
    died = sum(life.died for life in found.functions)
    yield (
        "functions",
        f"{billed.functions}, {billed.function_seconds:,.1f} s together{f', {died} died' if died else ''}",
    )
    seconds = {item.name: item.share.seconds for item in billed.phases if item.share.seconds}
    whole = sum(seconds.values()) or 1.0
    if seconds:
        shares = sorted(seconds.items(), key=lambda item: -item[1])
        yield "spent on", ", ".join(f"{name} {share / whole:.0%}" for name, share in shares)
    yield "requests", f"{sum(used.requests.values()):,} ({_format.counts(dict(sorted(used.requests.items())))})"
    yield "bytes", f"{_format.size(used.bytes_sent)} sent, {_format.size(used.bytes_received)} received"
    yield "cost", f"{_format.usd(billed.bill.usd)} as {billed.platform} with {billed.channel}"

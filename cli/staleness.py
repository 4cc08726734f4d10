"""The verb `lambdaml staleness`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lambdaml.cli import _format, _options

if TYPE_CHECKING:
    from lambdaml.traces import Trace
    from lambdaml.traces.attribution import Explained, PhaseShare

_BARS = 16
_BAR_WIDTH = 40

_Source = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The run's path or URL, or a trace file that `trace` or `simulate` wrote."),
]


def staleness(run: _Source, as_json: _options.Json = False) -> int:
    """Show how stale updates were, which ones, and why: what was committed while they were on their way."""
    from lambdaml.run import Run
    from lambdaml.traces import Trace
    from lambdaml.traces.attribution import explain

    trace = Trace.load(run) if Path(run).is_file() else Trace.of(Run(run))
    found = explain(trace.rows)
    if as_json:
        _format.print_json({"run": run, "source": trace.source, **asdict(found)})
    else:
        _print(trace, found)
    return 0


def _print(trace: Trace, found: Explained) -> None:
    if not found.applied:
        print("no update has been applied yet")
        return
    _format.print_pairs(_facts(trace, found))
    print()
    _format.print_table(["staleness", "updates", ""], _bars(found), left=[""])
    print()
    _print_parts("worker", found.workers)
    if len(found.trend) > 1:
        print()
        _print_parts("versions", found.trend)


def _facts(trace: Trace, found: Explained) -> Iterator[tuple[str, str]]:
    schedule = f"{trace.settings.schedule}, " if trace.settings else ""
    yield "trace", f"{trace.source}, {schedule}{trace.workers} workers, {found.applied:,} updates applied"
    yield "staleness", _format.staleness(found.staleness)
    yield "effective", f"{found.effective:.1f}: the constant staleness that is as hard to stand"
    if found.ages_s is not None:
        yield "age", ", ".join(f"{name} {_format.duration(value)}" for name, value in found.ages_s.items())
    if found.split is not None:
        yield "made of", ", ".join(f"{name} {value:.3g}" for name, value in asdict(found.split).items())
    if found.store is not None:
        yield "store", f"{found.store:.0%} of it came while the store moved log and updates"
    if found.uncertain:
        yield (
            "clocks",
            f"{found.clock_s or 0:.3f} s apart at most, which leaves the phase of {found.uncertain:.0%} open",
        )
    if lost := found.applied - found.attributed:
        yield "unexplained", f"{lost:,} updates, whose functions measured nothing or were killed"


def _bars(found: Explained) -> Iterator[list[str]]:
    width = -(-(found.staleness.max + 1) // _BARS)
    counts = [
        sum(count for value, count in found.counts.items() if start <= value < start + width)
        for start in range(0, found.staleness.max + 1, width)
    ]
    for number, count in enumerate(counts):
        first, last = number * width, number * width + width - 1
        yield [_span(first, last), f"{count:,}", "#" * round(_BAR_WIDTH * count / max(counts))]


def _print_parts(heading: str, parts: Sequence[PhaseShare]) -> None:
    phases = ["storage", "compute", "wait"]
    rows = []
    for part in parts:
        stale, split = part.staleness, asdict(part.split) if part.split else {}
        age = "-" if part.age_s is None else f"{1e3 * part.age_s:.1f}"
        numbers = [f"{part.updates:,}", f"{stale.mean:.2f}", f"{stale.p95:.0f}", str(stale.max), age]
        shares = [f"{split[phase]:.2f}" if split else "-" for phase in phases]
        rows.append([_span(part.first, part.last), *numbers, *shares])
    _format.print_table([heading, "updates", "mean", "p95", "max", "age ms", *phases], rows)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"

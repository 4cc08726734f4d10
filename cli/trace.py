"""The verb `lambdaml trace`."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lambdaml.cli import _format, _options

if TYPE_CHECKING:
    from lambdaml.traces import Trace

_PHASES = ("download", "compute", "encode", "upload", "wait", "apply")

_SHOWN = 10

_MORE = ("batches", "memory")

_Row = dict[str, Any]

_Csv = Annotated[
    str | None, typer.Option("--csv", metavar="FILE", help="Write all rows as CSV to this file; `-` is stdout.")
]
Parquet = Annotated[
    Path | None,
    typer.Option(
        "--parquet", metavar="FILE", help="Write the trace to this Parquet file, from which it can be replayed."
    ),
]


def trace(run: _options.Run, to_csv: _Csv = None, to_parquet: Parquet = None, as_json: _options.Json = False) -> int:
    """Show what became of each update: where it started, its fate, its staleness, and how long each phase took.

    This prints the last rows and a summary; --csv, --parquet and --json write all rows instead.
    """
    from lambdaml.run import Run
    from lambdaml.traces import Trace

    found = Trace.of(Run(run))
    if to_csv is not None:
        _format.write_csv(to_csv, [column.name for column in found.columns], found.rows)
    if to_parquet is not None:
        found.save(to_parquet)
    if as_json:
        _format.print_json(found.rows)
    elif to_csv is None and to_parquet is None:
        _print(found)
    return 0


def _print(trace: Trace) -> None:
    from lambdaml.log.controls import describe_control
    from lambdaml.log.records import Control

    rows = trace.rows
    if not rows:
        print("no update has a fate yet")
        return
    headings = ["version", "worker", "seq", "base", "stale", "weight", "fate", "loss", "samples"]
    more = [name for name in _MORE if name in rows[0]]
    shown = [
        [
            *_facts(row),
            *("-" if row[name] is None else str(row[name]) for name in more),
            *(_ms(row[f"{phase}_s"]) for phase in _PHASES),
        ]
        for row in rows[-_SHOWN:]
    ]
    _format.print_table([*headings, *more, *_PHASES], shown, left=["fate"], keys=3)
    print()
    fates = Counter(row["fate"] for row in rows)
    staleness = _format.staleness(trace.staleness)
    _format.print_text(f"{len(rows)} updates ({_format.counts(fates)}); staleness {staleness}")
    for change in trace.meta["controls"]:
        control = Control(change["number"], change["what"], change["value"])
        since = "the log does not have it" if change["commit"] is None else f"from log entry {change['commit']} on"
        _format.print_text(f"{describe_control(control)} ({since})")
    means = {phase: _mean_ms([row[f"{phase}_s"] for row in rows]) for phase in _PHASES}
    _format.print_text("phases in ms, on average: " + ", ".join(f"{phase} {mean}" for phase, mean in means.items()))


def _facts(row: _Row) -> list[str]:
    version = "-" if row["version"] is None else str(row["version"])
    numbers = [version, *(str(row[name]) for name in ("worker", "seq", "base", "staleness"))]
    return [*numbers, f"{row['weight']:.3g}", row["fate"], f"{row['loss']:.4g}", str(row["samples"])]


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"


def _mean_ms(seconds: list[float | None]) -> str:
    known = [value for value in seconds if value is not None]
    return _ms(statistics.fmean(known) if known else None)

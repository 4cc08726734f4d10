"""`lambdaml trace`"""

from __future__ import annotations

import csv
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from lambdaml.cli import _format, _options
from lambdaml.errors import UserError

COLUMNS = tuple(
    "worker seq commit base version fate reason staleness weight samples loss generation function "
    "compute_s encode_s upload_s download_s wait_s apply_s age_s bytes_sent bytes_received gets polls puts".split()
)
"""Columns that every table begins with, in this order; what else a run has measured follows."""

PHASES = ("download", "compute", "encode", "upload", "wait", "apply")

_SHOWN = 20

Row = dict[str, Any]

Csv = Annotated[str | None, typer.Option("--csv", metavar="FILE", help="Write all rows as CSV; `-` is stdout.")]
Parquet = Annotated[
    Path | None, typer.Option("--parquet", metavar="FILE", help="Write all rows as Parquet (needs pyarrow).")
]


def trace(run: _options.Run, to_csv: Csv = None, to_parquet: Parquet = None, as_json: _options.Json = False) -> int:
    """Show what became of each update: where it started, its fate, its staleness, and what took how long.

    Prints the last rows and a summary, or writes all of them with --csv, --parquet or --json.
    """
    from lambdaml.run import Run

    rows = Run(run).trace()
    names = [*COLUMNS, *dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)]
    table = [{name: row.get(name) for name in names} for row in rows]
    if to_csv is not None:
        _write_csv(to_csv, names, table)
    if to_parquet is not None:
        _write_parquet(to_parquet, names, table)
    if as_json:
        _format.print_json(table)
    elif to_csv is None and to_parquet is None:
        _print(table)
    return 0


def _write_csv(target: str, names: list[str], rows: list[Row]) -> None:
    if target == "-":
        _csv_to(sys.stdout, names, rows)
        return
    try:
        with open(target, "w", newline="", encoding="utf-8") as file:
            _csv_to(file, names, rows)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error


def _csv_to(file: IO[str], names: list[str], rows: list[Row]) -> None:
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _write_parquet(target: Path, names: list[str], rows: list[Row]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError("--parquet needs pyarrow: pip install 'lambdaml-runtime[report]'") from None
    try:
        parquet.write_table(pyarrow.table({name: [row[name] for row in rows] for name in names}), target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error


def _print(rows: list[Row]) -> None:
    from lambdaml.run import Staleness

    if not rows:
        print("no update has a fate yet")
        return
    headings = ["version", "worker", "seq", "base", "stale", "weight", "fate", "loss", "samples"]
    shown = [[*_facts(row), *(_ms(row[f"{phase}_s"]) for phase in PHASES)] for row in rows[-_SHOWN:]]
    _format.print_table([*headings, *(f"{phase} ms" for phase in PHASES)], shown, left=["fate"])
    fates = Counter(row["fate"] for row in rows)
    stale = [row["staleness"] for row in rows if row["fate"] == "applied"]
    print(f"{len(rows)} updates ({_format.counts(fates)}); staleness {_format.staleness(Staleness.of(stale))}")
    means = {phase: _mean_ms([row[f"{phase}_s"] for row in rows]) for phase in PHASES}
    print("mean ms: " + ", ".join(f"{phase} {mean}" for phase, mean in means.items()))


def _facts(row: Row) -> list[str]:
    version = "-" if row["version"] is None else str(row["version"])
    numbers = [version, *(str(row[name]) for name in ("worker", "seq", "base", "staleness"))]
    return [*numbers, f"{row['weight']:.3g}", row["fate"], f"{row['loss']:.4g}", str(row["samples"])]


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"


def _mean_ms(seconds: list[float | None]) -> str:
    known = [value for value in seconds if value is not None]
    return _ms(statistics.fmean(known) if known else None)

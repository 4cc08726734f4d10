"""The verb `lambdaml metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lambdaml.cli import _format, _options
from lambdaml.cli._plot import plot
from lambdaml.wording import metric_name

if TYPE_CHECKING:
    from lambdaml.traces.curves import RunCurves, Standing

_HEIGHT = 10
"""The lines of a plot."""

_WIDEST = 100
_POINTS = 60
"""A curve in a plot has at most this many points, which are means of neighbours if it has more."""

_Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="The paths or URLs of one run or several.")]
_Patience = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Say where `train --patience N` would have stopped, by each metric."),
]
_Csv = Annotated[
    str | None, typer.Option("--csv", metavar="FILE", help="Write the points of all curves as CSV; `-` is stdout.")
]


def metrics(runs: _Runs, patience: _Patience = None, to_csv: _Csv = None, as_json: _options.Json = False) -> int:
    """Show the curves of runs: loss, its parts that the job names, and metrics, with the best and the latest values.

    Each curve is over versions. Of a log of more than 1,000 entries, 1,000 are read.
    """
    from lambdaml.log.reader import RunReader
    from lambdaml.traces.curves import RunCurves

    found = [RunCurves.of(RunReader(run), patience) for run in runs]
    if to_csv is not None:
        _write_csv(to_csv, found)
    if as_json:
        _format.print_json([asdict(one) for one in found])
    elif to_csv is None:
        _print(found, patience)
    return 0


def _write_csv(target: str, found: Sequence[RunCurves]) -> None:
    rows = (row for one in found for row in one.rows())
    _format.write_csv(target, ["run", "kind", "name", "version", "value"], rows)


def _print(found: Sequence[RunCurves], patience: int | None) -> None:
    from lambdaml.traces.seen import condensed

    titles = {("training loss", "loss", ""): "less"}
    titles |= {(f"training loss, part {name}", "parts", name): "" for one in found for name in one.parts}
    titles |= {(metric_name(each.name), "metrics", each.name): each.better for one in found for each in one.standings}
    for (title, kind, name), better in titles.items():
        curves = {
            _format.shown(one.run): condensed(curve, _POINTS)
            for one in found
            if (curve := one.loss if kind == "loss" else getattr(one, kind).get(name, ()))
        }
        if curves:
            print(f"{title}{f' ({better} is better)' if better else ''}, by version")
            for line in plot(curves, min(_WIDEST, _format.columns()), _HEIGHT):
                print(line)
            print()
    headings = ["run", "metric", "best", "at version", "latest", "at", "better"]
    stops = ["stops at"] if patience is not None else []
    rows = [row for one in found for row in _rows(one, patience)]
    if rows:
        _format.print_table([*headings, *stops], rows, left=["run", "metric", "better"], keys=2)
    else:
        print("no metrics: the job's evaluate() reports none, or nothing was evaluated yet")


def _rows(one: RunCurves, patience: int | None) -> Iterator[list[str]]:
    for each in one.standings:
        row = [_format.shown(one.run), metric_name(each.name), *_point(each.best), *_point(each.latest), each.better]
        yield row + ([_stop(each)] if patience is not None else [])
    for name, curve in one.parts.items():
        row = [_format.shown(one.run), f"part {name}", "", "", *_point(curve[-1] if curve else None), ""]
        yield row + ([""] if patience is not None else [])


def _stop(each: Standing) -> str:
    return "never" if each.stops is None else f"{each.stops}"


def _point(point: tuple[int, float] | None) -> tuple[str, str]:
    return ("-", "-") if point is None else (f"{point[1]:.4g}", str(point[0]))

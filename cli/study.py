"""The verb `lambdaml study`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lambdaml.cli import _format, _options
from lambdaml.cli._interrupt import raising
from lambdaml.cli._progress import Share
from lambdaml.errors import UserError, nearest

if TYPE_CHECKING:
    from lambdaml.studies.noniid.plan import SkewPlan
    from lambdaml.studies.noniid.table import SkewCell
    from lambdaml.studies.staleness.plan import StudyPlan
    from lambdaml.studies.staleness.table import Bar
    from lambdaml.studies.staleness.theory import Theorem

STUDIES = ("staleness", "noniid")

_ONLY = {
    "staleness": ("staleness", "workers", "delays", "data", "longest", "tune"),
    "noniid": ("norms", "skews", "iterations"),
}
"""The options that only one study has."""

Study = Annotated[str, typer.Argument(metavar="STUDY", help="The study to run: `staleness` or `noniid`.")]
Models = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="The models, separated by commas. `staleness`: `mlr`, `dnn1` to `dnn6` (by their hidden layers), which are "
        "the default, `cnn`, `resnet8`, `vae`, `mf` (matrix factorisation), `lda` (Gibbs sampling). `noniid`: `mlp`, "
        "the default, and `cnn`.",
    ),
]
Algorithms = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="The algorithms, separated by commas; by default all. `staleness`: `sgd`, `momentum`, `adam`, `adagrad`, "
        "`rmsprop`. `noniid`: `bsp`, `gaia`, `fedavg`, `dgc`.",
    ),
]
Values = Annotated[
    str,
    typer.Option(
        "--staleness",
        metavar="NUMBERS",
        help="`staleness`: the values of s, separated by commas; an update is 0 to s iterations late.",
    ),
]
_Workers = Annotated[
    str,
    typer.Option(
        metavar="NUMBERS",
        help="`staleness`: the numbers of workers, separated by commas; each worker has its own cache.",
    ),
]
_Delays = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="`staleness`: the distribution of delays: `categorical` (uniform from 0 to s), `geometric` (with mean s/2), or "
        "`trace:FILE`, "
        "which takes them from a Parquet trace.",
    ),
]
Seeds = Annotated[int, typer.Option(min=1, metavar="N", help="The number of repetitions, each with its own seed.")]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="NAME",
        help="`staleness`: the data: `bundled` (digits and generated data), or `paper` (MNIST, CIFAR-10, MovieLens-1M and 20 "
        "Newsgroups, "
        "which are downloaded).",
    ),
]
Longest = Annotated[
    float,
    typer.Option(
        min=1, metavar="X", help="`staleness`: give up on a setting after X times the batches that s = 0 takes."
    ),
]
Tune = Annotated[
    bool,
    typer.Option(
        "--tune",
        help="`staleness`: find the learning rates first, at s = 0, instead of taking those of the built-in table.",
    ),
]
Norms = Annotated[
    str,
    typer.Option(metavar="NAMES", help="`noniid`: the normalisations, separated by commas: `batch`, `group`, `none`."),
]
Skews = Annotated[
    str,
    typer.Option(
        metavar="PERCENTS",
        help="`noniid`: the degrees of label skew, separated by commas: the percentage of samples dealt by label.",
    ),
]
Iterations = Annotated[int, typer.Option(min=1, metavar="N", help="`noniid`: the number of batches of each partition.")]
_Out = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="The folder for the table and the page; results that it already holds are not computed again.",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="The number of processes, with one thread each; by default the number of cores."
    ),
]


def study(
    context: typer.Context,
    name: Study,
    models: Models = None,
    algorithms: Algorithms = None,
    staleness: Values = "0,4,8,16,32",
    workers: _Workers = "8",
    delays: _Delays = "categorical",
    norms: Norms = "batch,group,none",
    skews: Skews = "0,20,40,60,80,100",
    iterations: Iterations = 800,
    seeds: Seeds = 3,
    data: DataOption = "bundled",
    longest: Longest = 10.0,
    tune: Tune = False,
    out: _Out = Path("study"),
    processes: Processes = None,
    as_json: _options.Json = False,
) -> int:
    """Run an experiment that varies what makes distributed training hard, and write its table and its page.

    `staleness` measures how late updates slow learning: the batches to a target quality, relative to training without
    staleness. It reproduces the ICLR 2019 paper of Dai et al. and writes study.csv, study.parquet and study.html.
    `noniid` measures what skewed labels cost in accuracy, by algorithm and normalisation, after the ICML 2020 paper of
    Hsieh et al. It writes noniid.csv, noniid.parquet and noniid.html.
    Ctrl-C keeps what has been computed; the same command continues from there.
    """
    if name not in STUDIES:
        raise UserError(f"there is no study {name!r}{nearest(name, STUDIES)}")
    _demand_own_options(context, name)
    try:
        if name == "noniid":
            skewed = _skew_plan(models, algorithms, norms, skews, seeds=seeds, iterations=iterations)
            return _noniid(skewed, out, processes, as_json)
        kinds = {"delays": delays, "seeds": seeds, "data": data, "longest": longest, "tune": tune}
        return _staleness(_stale_plan(models, algorithms, staleness, workers, **kinds), out, processes, as_json)
    except KeyboardInterrupt:
        print(f"stopped: what is computed lies in {out}, and the same command goes on from there", file=sys.stderr)
        raise


def _demand_own_options(context: typer.Context, name: str) -> None:
    """Make sure that no option was given that only another study has."""
    for other, options in _ONLY.items():
        for option in options if other != name else ():
            source = context.get_parameter_source(option)
            if source is not None and source.name == "COMMANDLINE":
                raise UserError(f"study {name} has no --{option}, which is for study {other}")


def _stale_plan(models: str | None, algorithms: str | None, staleness: str, workers: str, **options: Any) -> StudyPlan:
    from lambdaml.studies.staleness.plan import StudyPlan

    return StudyPlan(
        **_given(models=models, algorithms=algorithms),
        staleness=_numbers("--staleness", staleness),
        workers=_numbers("--workers", workers),
        **options,
    )


def _skew_plan(models: str | None, algorithms: str | None, norms: str, skews: str, **options: Any) -> SkewPlan:
    from lambdaml.studies.noniid.plan import SkewPlan

    return SkewPlan(
        **_given(models=models, algorithms=algorithms, norms=norms),
        skews=_numbers("--skews", skews),
        **options,
    )


def _staleness(plan: StudyPlan, out: Path, processes: int | None, as_json: bool) -> int:
    from lambdaml.engines.resources import cores
    from lambdaml.studies.staleness.page import study_page
    from lambdaml.studies.staleness.runner import run_study
    from lambdaml.studies.staleness.table import bars

    with Share("study") as share, raising():
        rows = run_study(plan, out, processes or cores(), share)
        theorems = _theorems(plan)
    found = bars(rows)
    place = _write(out / "study.html", study_page(plan, rows, theorems))
    if as_json:
        records = [{**asdict(row), "batches": row.batches} for row in rows]
        for record in records:
            del record["curve"]
        _format.print_json({"page": str(place), "bars": [asdict(bar) for bar in found], "rows": records})
    else:
        _print(found)
        print(f"\nx: batches to the target relative to s = 0. Table and figures: {place}")
    return 0


def _noniid(plan: SkewPlan, out: Path, processes: int | None, as_json: bool) -> int:
    from lambdaml.engines.resources import cores
    from lambdaml.studies.noniid.page import skew_page
    from lambdaml.studies.noniid.runner import run_skew_study
    from lambdaml.studies.noniid.table import cells

    with Share("study") as share, raising():
        rows = run_skew_study(plan, out, processes or cores(), share)
    found = cells(rows)
    place = _write(out / "noniid.html", skew_page(plan, rows))
    if as_json:
        lists = ("partitions", "home", "curve")
        records = [{**asdict(row), **{name: json.loads(getattr(row, name)) for name in lists}} for row in rows]
        _format.print_json({"page": str(place), "cells": [asdict(cell) for cell in found], "rows": records})
    else:
        _print_cells(found)
        print()
        _format.print_text(
            "The columns with degrees of skew have the test accuracy of the shared model, in percent; bytes are those sent "
            f"at {plan.degrees()[-1]} %, relative to bsp. Table and figures, also of each partition's own model: {place}"
        )
    return 0


def _given(**texts: str | None) -> dict[str, Any]:
    """Return the names in each text that was given."""
    return {option: _names(text) for option, text in texts.items() if text is not None}


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in _names(text)))
    except ValueError:
        raise UserError(f"{option} takes whole numbers with commas between, not {text!r}") from None


def _theorems(plan: StudyPlan) -> list[Theorem]:
    """Compute the theory's part of the page, which covers the networks for the digits only."""
    from lambdaml.studies.staleness.theory import theorem

    depths = {"mlr": 0, "dnn1": 1}
    chosen = [depths[model] for model in plan.models if model in depths and plan.data == "bundled"]
    return [theorem(depth, s) for depth in chosen for s in (1, max(2, *plan.values(), 2))]


def _write(place: Path, page: str) -> Path:
    try:
        place.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {place}: {error.strerror}") from error
    return place


def _print(found: list[Bar]) -> None:
    """Print a line for each model and algorithm, with a column for each s."""
    values = sorted({bar.staleness for bar in found})
    lines: dict[tuple[str, str, int], dict[int, Bar]] = {}
    for bar in found:
        lines.setdefault((bar.model, bar.algorithm, bar.workers), {})[bar.staleness] = bar
    rows = []
    for (model, algorithm, workers), line in lines.items():
        base = line[0].batches
        cells = [_cell(line[s]) if s in line else "-" for s in values if s]
        rows.append([model, algorithm, str(workers), "never" if base is None else f"{base:.0f}", *cells])
    headings = ["model", "algorithm", "workers", "batches, s=0", *(f"s={s}" for s in values if s)]
    _format.print_table(headings, rows, left=["model", "algorithm"])


def _cell(bar: Bar) -> str:
    if bar.slower is None:
        return "never"
    some = "" if bar.met == bar.seeds else f" ({bar.met}/{bar.seeds})"
    return f"{bar.slower:.2f}{some}"


def _print_cells(found: list[SkewCell]) -> None:
    """Print a line for each model, algorithm and normalisation, with a column for each degree of skew."""
    degrees = sorted({cell.skew for cell in found})
    lines: dict[tuple[str, str, str], dict[int, SkewCell]] = {}
    for cell in found:
        lines.setdefault((cell.model, cell.algorithm, cell.norm), {})[cell.skew] = cell
    rows = []
    for names, line in lines.items():
        most = line[degrees[-1]]
        rows.append([*names, *(f"{line[skew].accuracy:.1f}" for skew in degrees), f"{most.traffic:.3g} %"])
    headings = ["model", "algorithm", "norm", *(f"{skew} %" for skew in degrees), "bytes"]
    _format.print_table(headings, rows, left=["model", "algorithm", "norm"])

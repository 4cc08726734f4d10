"""The verb `lambdaml study`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lambdaml.cli import _format, _options
from lambdaml.cli._interrupt import raising
from lambdaml.cli._progress import Share
from lambdaml.errors import UserError, nearest

if TYPE_CHECKING:
    from lambdaml.studies.staleness.models import StudyData
    from lambdaml.studies.staleness.plan import StudyPlan
    from lambdaml.studies.staleness.table import Bar, StudyRow
    from lambdaml.studies.staleness.theory import Theorem

STUDIES = ("staleness",)

Study = Annotated[str, typer.Argument(metavar="STUDY", help="The study to run: `staleness`.")]
Models = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="The models, separated by commas: `mlr`, `dnn1` to `dnn6` (by their hidden layers), `cnn`, `resnet8`, "
        "`vae`, `mf` "
        "(matrix factorisation), `lda` (Gibbs sampling).",
    ),
]
Algorithms = Annotated[
    str,
    typer.Option(
        metavar="NAMES", help="The algorithms, separated by commas: `sgd`, `momentum`, `adam`, `adagrad`, `rmsprop`."
    ),
]
Values = Annotated[
    str,
    typer.Option(
        "--staleness",
        metavar="NUMBERS",
        help="The values of s, separated by commas; an update is 0 to s iterations late.",
    ),
]
_Workers = Annotated[
    str,
    typer.Option(metavar="NUMBERS", help="The numbers of workers, separated by commas; each worker has its own cache."),
]
_Delays = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="The distribution of delays: `categorical` (uniform from 0 to s), `geometric` (with mean s/2), or "
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
        help="The data: `bundled` (digits and generated data), or `paper` (MNIST, CIFAR-10, MovieLens-1M and 20 "
        "Newsgroups, "
        "which are downloaded).",
    ),
]
Longest = Annotated[
    float, typer.Option(min=1, metavar="X", help="Give up on a setting after X times the batches that s = 0 takes.")
]
Tune = Annotated[
    bool,
    typer.Option(
        "--tune", help="Find the learning rates first, at s = 0, instead of taking those of the built-in table."
    ),
]
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
    name: Study,
    models: Models = "mlr,dnn1,dnn2,dnn3,dnn4,dnn5,dnn6",
    algorithms: Algorithms = "sgd,momentum,adam,adagrad,rmsprop",
    staleness: Values = "0,4,8,16,32",
    workers: _Workers = "8",
    delays: _Delays = "categorical",
    seeds: Seeds = 3,
    data: DataOption = "bundled",
    longest: Longest = 10.0,
    tune: Tune = False,
    out: _Out = Path("study"),
    processes: Processes = None,
    as_json: _options.Json = False,
) -> int:
    """Measure how staleness slows learning: the batches to a target quality, relative to training without staleness.

    This reproduces the ICLR 2019 paper of Dai et al. and writes study.csv, study.parquet and study.html to a folder.
    Ctrl-C keeps what has been computed; the same command continues from there.
    """
    if name not in STUDIES:
        raise UserError(f"there is no study {name!r}{nearest(name, STUDIES)}")
    from lambdaml.engines.resources import cores
    from lambdaml.studies.staleness.plan import StudyPlan
    from lambdaml.studies.staleness.runner import run_study
    from lambdaml.studies.staleness.table import bars

    plan = StudyPlan(
        _names(models),
        _names(algorithms),
        _numbers("--staleness", staleness),
        _numbers("--workers", workers),
        delays,
        seeds,
        cast("StudyData", data),
        longest,
        tune,
    )
    try:
        with Share("study") as share, raising():
            rows = run_study(plan, out, processes or cores(), share)
            theorems = _theorems(plan)
    except KeyboardInterrupt:
        print(f"stopped: what is computed lies in {out}, and the same command goes on from there", file=sys.stderr)
        raise
    found = bars(rows)
    place = _write_page(plan, rows, theorems, out)
    if as_json:
        records = [{**asdict(row), "batches": row.batches} for row in rows]
        for record in records:
            del record["curve"]
        _format.print_json({"page": str(place), "bars": [asdict(bar) for bar in found], "rows": records})
    else:
        _print(found)
        print(f"\nx: batches to the target relative to s = 0. Table and figures: {place}")
    return 0


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


def _write_page(plan: StudyPlan, rows: list[StudyRow], theorems: list[Theorem], out: Path) -> Path:
    from lambdaml.studies.staleness.page import study_page

    place = out / "study.html"
    try:
        place.write_text(study_page(plan, rows, theorems), encoding="utf-8")
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

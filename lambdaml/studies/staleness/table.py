"""The study's table: one row for each setting and seed, kept as CSV, and as Parquet if pyarrow is installed."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev

from lambdaml.errors import UserError

_POINTS = 60


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A setting and its course.

    Attributes:
        model: The name of the model.
        algorithm: The name of the algorithm.
        workers: The number of workers.
        delays: The kind of delays; see `StudyPlan`.
        data: The data; see `StudyData`.
        staleness: The value of s.
        seed: The seed.
        rate: The rate of each worker's optimizer, or 0 for Gibbs sampling.
        target: The quality to reach.
        limit: The iterations after which it was given up.
        iterations: The iterations until worker 0's cache met the target, or None if it never did. In an iteration, each
            worker computes a batch.
        ran: The iterations that were computed.
        curve: At most 60 pairs [iteration, quality], as JSON.
    """

    model: str
    algorithm: str
    workers: int
    delays: str
    data: str
    staleness: int
    seed: int
    rate: float
    target: float
    limit: int
    iterations: int | None
    ran: int
    curve: str

    @property
    def batches(self) -> int | None:
        """The batches of all workers until the target was met."""
        return None if self.iterations is None else self.iterations * self.workers

    @property
    def key(self) -> tuple[str, str, int, str, str, int, int]:
        """The fields that identify the row."""
        return self.model, self.algorithm, self.workers, self.delays, self.data, self.staleness, self.seed


@dataclass(frozen=True, slots=True)
class Bar:
    """The seeds of a setting together.

    Attributes:
        model: The name of the model.
        algorithm: The name of the algorithm.
        workers: The number of workers.
        staleness: The value of s.
        slower: The batches to the target over those of s = 0 with the same seed, as the mean over the seeds that met
            it, or None if none did.
        spread: The standard deviation of `slower`, or None for fewer than two seeds.
        batches: The mean batches over the same seeds.
        met: The number of seeds that met the target, out of `seeds`.
        seeds: The number of seeds.
    """

    model: str
    algorithm: str
    workers: int
    staleness: int
    slower: float | None
    spread: float | None
    batches: float | None
    met: int
    seeds: int


def thinned(curve: Sequence[tuple[int, float]]) -> str:
    """Return a curve as JSON of at most 60 points, for `StudyRow.curve`."""
    step = -(-len(curve) // _POINTS)
    kept = [*curve[::step], *([curve[-1]] if (len(curve) - 1) % step else [])] if curve else []
    return json.dumps([[iteration, float(f"{quality:.6g}")] for iteration, quality in kept])


def bars(rows: Iterable[StudyRow]) -> list[Bar]:
    """Return a bar for each model, algorithm, number of workers and s, in the order in which they first occur."""
    groups: dict[tuple[str, str, int], dict[int, dict[int, StudyRow]]] = {}
    for row in rows:
        values = groups.setdefault((row.model, row.algorithm, row.workers), {})
        values.setdefault(row.staleness, {})[row.seed] = row
    found = []
    for (model, algorithm, workers), values in groups.items():
        base = {seed: row.iterations for seed, row in values.get(0, {}).items()}
        for s in sorted(values):
            met = [row for row in values[s].values() if row.iterations is not None]
            ratios = [row.iterations / few for row in met if row.iterations and (few := base.get(row.seed))]
            slower = fmean(ratios) if ratios else None
            spread = stdev(ratios) if len(ratios) > 1 else None
            batches = fmean(row.batches or 0 for row in met) if met else None
            found.append(Bar(model, algorithm, workers, s, slower, spread, batches, len(met), len(values[s])))
    return found


def save(folder: Path, rows: Sequence[StudyRow]) -> None:
    """Write `study.csv` and, if pyarrow is installed, `study.parquet`; at any moment, each file is whole.

    Raises:
        UserError: If the folder cannot be written.
    """
    names = [field.name for field in fields(StudyRow)]
    try:
        part = folder / "study.csv.part"
        with open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows(astuple(row) for row in rows)
        os.replace(part, folder / "study.csv")
        _save_parquet(folder, rows)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def _save_parquet(folder: Path, rows: Sequence[StudyRow]) -> None:
    try:
        from pyarrow import Table, int64, parquet, schema, string
        from pyarrow import float64 as number
    except ImportError:
        return
    kinds = {"int": int64(), "int | None": int64(), "float": number(), "str": string()}
    shape = schema([(field.name, kinds[str(field.type)]) for field in fields(StudyRow)])
    parquet.write_table(Table.from_pylist([asdict(row) for row in rows], shape), str(folder / "study.parquet.part"))
    os.replace(folder / "study.parquet.part", folder / "study.parquet")


def load_table(folder: Path) -> list[StudyRow]:
    """Return the rows of a folder's `study.csv`, or none if the file does not exist.

    Raises:
        UserError: If the file cannot be read, or is not a study's table.
    """
    path = folder / "study.csv"
    if not path.exists():
        return []
    whole = {"workers", "staleness", "seed", "limit", "ran"}
    rows = []
    csv.field_size_limit(1_000_000)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for record in csv.DictReader(file):
                values: dict[str, object] = {name: int(record[name]) for name in whole}
                values |= {name: float(record[name]) for name in ("rate", "target")}
                values["iterations"] = int(record["iterations"]) if record["iterations"] else None
                rows.append(StudyRow(**{**record, **values}))  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a study's table: choose another folder with --out") from None
    return rows

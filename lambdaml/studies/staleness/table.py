"""The study's table: one row for each setting and seed, kept as CSV, and as Parquet if pyarrow is installed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from lambdaml.studies.tables import load_rows, save_rows

_NAME = "study"
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
    """Write `study.csv` and `study.parquet`; see `lambdaml.studies.tables.save_rows`."""
    save_rows(folder, _NAME, StudyRow, rows)


def load_table(folder: Path) -> list[StudyRow]:
    """Return the rows of a folder's `study.csv`; see `lambdaml.studies.tables.load_rows`."""
    return load_rows(folder, _NAME, StudyRow)

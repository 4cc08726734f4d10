"""Running a study: processes share the settings, and rows are kept as they come, so a killed study can continue."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from statistics import median

from lambdaml.errors import UserError
from lambdaml.studies.pool import open_pool, submit
from lambdaml.studies.staleness import rates, table
from lambdaml.studies.staleness.engine import Course, train_in_numpy
from lambdaml.studies.staleness.models import make_learner, model_named, problem_of
from lambdaml.studies.staleness.plan import StudyPlan, Unit, make_delays, split
from lambdaml.studies.staleness.rate_table import RATES
from lambdaml.studies.staleness.table import StudyRow
from lambdaml.studies.tables import make_folder

_Progress = Callable[[float], None]
"""A function that is told the share of settings that is done."""

Pair = tuple[str, str, int]


def run_study(plan: StudyPlan, folder: Path, processes: int = 1, progress: _Progress | None = None) -> list[StudyRow]:
    """Compute the rows that are missing in the folder's table, and return the rows of this plan, in its order.

    Args:
        folder: The folder, made if it does not exist; see `lambdaml.studies.staleness.table`. Its `rates.json` keeps
            tuned rates.
        processes: The number of processes, each of which has one thread.

    Raises:
        UserError: If the folder cannot be used, or data cannot be downloaded.
        SettingsError: If no rate of the grid meets a target without staleness (with `tune`).
    """
    make_folder(folder)
    study = _Study(plan, folder, progress or (lambda _share: None))
    if study.missing():
        with open_pool(processes) as pool:
            study.run(pool)
    return study.found()


class _Study:
    def __init__(self, plan: StudyPlan, folder: Path, progress: _Progress) -> None:
        self.plan, self.folder, self.progress = plan, folder, progress
        self.rows = {row.key: row for row in table.load_table(folder)}
        self.rates: dict[Pair, float] = _kept_rates(folder) if plan.tune else {}
        for model, algorithm, workers in plan.pairs():
            if not plan.tune or algorithm == "gibbs":
                self.rates[model, algorithm, workers] = _table_rate(model, algorithm)
        self.futures: dict[Future[list[StudyRow]], tuple[str, Pair]] = {}
        self.tried: dict[Pair, list[StudyRow]] = {}

    def run(self, pool: Executor | None) -> None:
        # The longest go first, so that no process is left alone with them at the end.
        for pair in reversed(self.plan.pairs()):
            stage = self._next(pair)
            if stage:
                self._submit(pool, stage, pair)
        while self.futures:
            for future in wait(self.futures, return_when=FIRST_COMPLETED).done:
                stage, pair = self.futures.pop(future)
                self._take(future.result(), stage, pair)
                if not any(waiting == pair for _, waiting in self.futures.values()) and (stage := self._next(pair)):
                    self._submit(pool, stage, pair)

    def missing(self) -> bool:
        return any(self._next(pair) for pair in self.plan.pairs())

    def found(self) -> list[StudyRow]:
        keys = [self._key(pair, s, seed) for pair in self.plan.pairs() for s in self._all() for seed in self._seeds()]
        return [self.rows[key] for key in keys if key in self.rows]

    def _all(self) -> tuple[int, ...]:
        return 0, *self.plan.values()

    def _seeds(self) -> range:
        return range(self.plan.seeds)

    def _key(self, pair: Pair, s: int, seed: int) -> tuple[str, str, int, str, str, int, int]:
        model, algorithm, workers = pair
        return model, algorithm, workers, self.plan.delays, self.plan.data, s, seed

    def _row(self, pair: Pair, s: int, seed: int) -> StudyRow | None:
        row = self.rows.get(self._key(pair, s, seed))
        return row if row is not None and row.rate == self.rates.get(pair) else None

    def _next(self, pair: Pair) -> str:
        """Return what to do next for a model and algorithm: its rate, then s = 0, then the others, then nothing."""
        if pair not in self.rates:
            return "rate"
        if any(self._row(pair, 0, seed) is None for seed in self._seeds()):
            return "synchronous"
        return "stale" if any(self._row(pair, s, seed) is None for s in self._all() for seed in self._seeds()) else ""

    def _submit(self, pool: Executor | None, stage: str, pair: Pair) -> None:
        model, algorithm, workers = pair
        made = model_named(model)
        target = made.target.get(self.plan.data, math.inf)
        seeds = [seed for seed in self._seeds() if self._row(pair, 0, seed) is None]
        if stage == "rate":
            tried = rates.grid(model, algorithm)
            settings = [(0, seed, rate, made.limit // 2, target) for rate in tried for seed in range(3)]
        elif stage == "synchronous":
            settings = [(0, seed, self.rates[pair], made.limit, target) for seed in seeds]
        else:
            settings = [
                (s, seed, self.rates[pair], limit, goal)
                for s in self.plan.values()
                for seed, (limit, goal) in self._goals(pair).items()
                if self._row(pair, s, seed) is None
            ]
        floats = workers * (problem_of(model, self.plan.data).size if made.make else 2000)
        for chosen in split(settings, floats):
            parts = tuple(settings[place] for place in chosen)
            unit = Unit(model, algorithm, workers, self.plan.delays, self.plan.data, parts)
            self.futures[submit(pool, run_unit, unit)] = stage, pair

    def _goals(self, pair: Pair) -> dict[int, tuple[int, float]]:
        """Return for each seed the limit of iterations and the target under staleness."""
        model = model_named(pair[0])
        base = {seed: row for seed in self._seeds() if (row := self._row(pair, 0, seed)) is not None}
        if model.gain is not None:
            return {seed: (model.limit, row.target) for seed, row in base.items()}
        # Where synchronous training missed the target, it gives no number of iterations to multiply.
        usual = median(row.iterations or row.limit / self.plan.longest for row in base.values())
        return {seed: (math.ceil(self.plan.longest * usual), row.target) for seed, row in base.items()}

    def _take(self, rows: list[StudyRow], stage: str, pair: Pair) -> None:
        if stage == "rate":
            self.tried.setdefault(pair, []).extend(rows)
            if not any(waiting == pair for _, waiting in self.futures.values()):
                found: dict[float, list[int | None]] = {}
                for row in self.tried.pop(pair):
                    found.setdefault(row.rate, []).append(row.iterations)
                self.rates[pair] = rates.choose(found)
                _keep_rates(self.folder, self.rates)
        else:
            self.rows |= {row.key: row for row in rows}
            table.save(self.folder, list(self.rows.values()))
        self.progress(len(self.found()) / (len(self.plan.pairs()) * len(self._all()) * self.plan.seeds))


def run_unit(unit: Unit) -> list[StudyRow]:
    """Compute all settings of a unit at once."""
    values, seeds, tried, limits, targets = (list(column) for column in zip(*unit.settings))
    model = model_named(unit.model)
    learner = make_learner(unit.model, unit.algorithm, tried, seeds, unit.workers, unit.data)
    begin: list[float] = []
    if model.gain is not None:
        begin = learner.quality(learner.start()[:: unit.workers]).tolist()
    delays = [make_delays(unit.delays, s) for s in values]
    courses = train_in_numpy(learner, delays, seeds, unit.workers, targets, limits)
    rows = []
    for place, course in enumerate(courses):
        target = targets[place]
        if model.gain is not None and values[place] == 0:
            target = begin[place] + model.gain * (course.curve[-1][1] - begin[place])
            course = Course(next(at for at, quality in course.curve if quality >= target), course.ran, course.curve)
        rows.append(
            StudyRow(
                unit.model,
                unit.algorithm,
                unit.workers,
                unit.delays,
                unit.data,
                values[place],
                seeds[place],
                tried[place],
                target,
                limits[place],
                course.iterations,
                course.ran,
                table.thinned(course.curve),
            )
        )
    return rows


def _table_rate(model: str, algorithm: str) -> float:
    return 0.0 if algorithm == "gibbs" else RATES[model][algorithm]


def _keep_rates(folder: Path, found: dict[Pair, float]) -> None:
    records = [[*pair, rate] for pair, rate in sorted(found.items())]
    (folder / "rates.json").write_text(json.dumps(records, indent=1))


def _kept_rates(folder: Path) -> dict[Pair, float]:
    try:
        records: Sequence[Sequence[str | int | float]] = json.loads((folder / "rates.json").read_text())
        return {(str(model), str(name), int(workers)): float(rate) for model, name, workers, rate in records}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read {folder / 'rates.json'}: {error}") from None

"""Running a non-IID study: processes share the units, and rows are kept as they come, so a killed study can continue."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from lambdaml.studies.noniid.engine import train_under_skew
from lambdaml.studies.noniid.plan import SkewPlan, SkewUnit
from lambdaml.studies.noniid.table import TABLE, SkewRow
from lambdaml.studies.pool import as_computed, open_pool
from lambdaml.studies.tables import load_rows, make_folder, save_rows

_Key = tuple[str, str, str, int, int, int]


def run_skew_study(
    plan: SkewPlan, folder: Path, processes: int = 1, progress: Callable[[float], None] = lambda _share: None
) -> list[SkewRow]:
    """Compute the rows that are missing in the folder's table, and return the rows of this plan, in its order.

    Args:
        folder: The folder, made if it does not exist.
        processes: The number of processes, each of which has one thread.
        progress: A function that is told the share of settings that is done.

    Raises:
        UserError: If the folder cannot be used, or scikit-learn, which has the data, is not installed.
    """
    make_folder(folder)
    rows = {row.key: row for row in load_rows(folder, TABLE, SkewRow)}
    wanted = [key for unit in plan.units() for key in _keys(unit)]
    missing = [unit for unit in (_missing(unit, rows) for unit in plan.units()) if unit.settings]
    if missing:
        with open_pool(processes) as pool:
            for found in as_computed(pool, run_skew_unit, missing):
                rows |= {row.key: row for row in found}
                save_rows(folder, TABLE, SkewRow, list(rows.values()))
                progress(sum(key in rows for key in wanted) / len(wanted))
    return [rows[key] for key in wanted]


def run_skew_unit(unit: SkewUnit) -> list[SkewRow]:
    """Compute all settings of a unit at once."""
    courses = train_under_skew(unit.model, unit.norm, unit.algorithm, list(unit.settings), unit.iterations)
    return [
        SkewRow(
            unit.model,
            unit.algorithm,
            unit.norm,
            skew,
            seed,
            unit.iterations,
            course.accuracy,
            _rounded(course.partitions),
            _rounded(course.home),
            course.traffic,
            json.dumps([[at, round(accuracy, 6)] for at, accuracy in course.curve]),
        )
        for (skew, seed), course in zip(unit.settings, courses)
    ]


def _keys(unit: SkewUnit) -> list[_Key]:
    return [(unit.model, unit.algorithm, unit.norm, unit.iterations, skew, seed) for skew, seed in unit.settings]


def _missing(unit: SkewUnit, rows: dict[_Key, SkewRow]) -> SkewUnit:
    left = tuple(setting for setting, key in zip(unit.settings, _keys(unit)) if key not in rows)
    return dataclasses.replace(unit, settings=left)


def _rounded(values: list[float]) -> str:
    return json.dumps([round(value, 6) for value in values])

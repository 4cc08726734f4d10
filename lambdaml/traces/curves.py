"""The curves of a run: its training loss, the parts of that which its job names, and its metrics, by version."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import read_many
from lambdaml.log.records import Commit
from lambdaml.traces.seen import Curve
from lambdaml.training.gains import Yardstick

ENTRIES = 1000
"""At most this many entries of the log are read, evenly spread."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The best and the latest value of a metric.

    Attributes:
        name: The name of the metric.
        better: The word `less` or `more`, whichever is better.
        best: The version and the value of the best evaluation; None if no value is finite.
        latest: The version and the value of the latest evaluation that has a finite value.
        stops: The version at which a run of this patience would have stopped; None if it would not, or nobody asked.
    """

    name: str
    better: str
    best: tuple[int, float] | None
    latest: tuple[int, float] | None
    stops: int | None = None


@dataclass(frozen=True, slots=True)
class RunCurves:
    """The curves of a run.

    Attributes:
        run: The URL of the run.
        loss: The mean loss of the updates that made a version.
        parts: The curve of each part of the loss that the job names.
        metrics: The curve of each metric that the job reports, in the job's order.
        standings: The best and the latest value of each metric.
    """

    run: str
    loss: Curve
    parts: dict[str, Curve]
    metrics: dict[str, Curve]
    standings: tuple[Standing, ...]

    @staticmethod
    def of(run: RunReader, patience: int | None = None) -> RunCurves:
        """Read the curves of a run.

        Args:
            run: The run.
            patience: A number of evaluations. If it is given, each metric's standing says where it would have ended a run.

        Raises:
            BadObject: If an object of the run is damaged.
        """
        metrics = run.metrics()
        names = dict.fromkeys(name for values in metrics.values() for name in values)
        loss, parts = _losses(run)
        return RunCurves(
            run=run.url,
            loss=loss,
            parts=parts,
            metrics={name: _finite({v: values.get(name, math.nan) for v, values in metrics.items()}) for name in names},
            standings=tuple(_standing(Yardstick.of(name, run.settings.target), metrics, patience) for name in names),
        )

    def rows(self) -> Iterable[dict[str, Any]]:
        """Yield the points of all curves as the rows of one table."""
        for kind, curves in (("loss", {"loss": self.loss}), ("part", self.parts), ("metric", self.metrics)):
            for name, curve in curves.items():
                for version, value in curve:
                    yield {"run": self.run, "kind": kind, "name": name, "version": version, "value": value}


def _losses(run: RunReader) -> tuple[Curve, dict[str, Curve]]:
    """Return the curve of the loss and those of its parts."""
    commits = run.tail()[0]
    step = -(-commits // ENTRIES) or 1
    wanted = [keys.log(number) for number in range((commits - 1) % step, commits, step)]  # the last one is among them
    losses: defaultdict[int, list[float]] = defaultdict(list)
    versions: dict[tuple[int, int], int] = {}
    for commit in read_many(run.store, wanted, Commit.read):
        for version, entries in enumerate(commit.steps if commit else (), commit.version + 1 if commit else 0):
            losses[version] += [entry.loss for entry in entries]
            versions |= {(entry.worker, entry.seq): version for entry in entries}
    parts: defaultdict[str, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _, _, row in run.trace_rows("update"):
        made = versions.get((row["worker"], row["seq"]))
        if made is not None:
            for name, value in json.loads(row.get("parts", "{}")).items():
                parts[name][made].append(math.nan if value is None else value)
    return _means(losses), {name: _means(values) for name, values in parts.items()}


def _means(values: Mapping[int, list[float]]) -> Curve:
    return _finite({version: math.fsum(all_) / len(all_) for version, all_ in values.items()})


def _finite(values: Mapping[int, float]) -> Curve:
    return tuple((version, value) for version, value in sorted(values.items()) if math.isfinite(value))


def _standing(yardstick: Yardstick, metrics: Mapping[int, Mapping[str, float]], patience: int | None) -> Standing:
    curve = _finite({version: values.get(yardstick.name, math.nan) for version, values in metrics.items()})
    return Standing(
        name=yardstick.name,
        better=yardstick.better,
        best=yardstick.best(metrics),
        latest=curve[-1] if curve else None,
        stops=yardstick.runs_out(metrics, patience) if patience is not None else None,
    )

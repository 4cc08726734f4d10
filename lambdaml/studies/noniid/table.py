"""The rows of the non-IID study, one for each setting and seed, and their means over the seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

TABLE = "noniid"
"""The name of the table's files, without their endings."""


@dataclass(frozen=True, slots=True)
class SkewRow:
    """A setting and its course. The accuracies are shares of test samples, from 0 to 1.

    Attributes:
        model: The name of the model.
        algorithm: The name of the algorithm.
        norm: The normalisation.
        skew: The degree of label skew, in percent.
        seed: The seed.
        iterations: The number of batches of each partition.
        accuracy: The accuracy of the shared model at the end.
        partitions: The accuracy of each partition's own model on all test samples, as a JSON list.
        home: The accuracy of each partition's own model on test samples with its own shares of classes, as a JSON list.
        traffic: The bytes that partitions sent, relative to `bsp`.
        curve: Pairs [batches of a partition, accuracy of the shared model], as JSON.
    """

    model: str
    algorithm: str
    norm: str
    skew: int
    seed: int
    iterations: int
    accuracy: float
    partitions: str
    home: str
    traffic: float
    curve: str

    @property
    def key(self) -> tuple[str, str, str, int, int, int]:
        """The fields that identify the row."""
        return self.model, self.algorithm, self.norm, self.iterations, self.skew, self.seed


@dataclass(frozen=True, slots=True)
class SkewCell:
    """The seeds of a setting together. Accuracies and drops are means over the seeds, in percent and in points.

    Attributes:
        model: The name of the model.
        algorithm: The name of the algorithm.
        norm: The normalisation.
        skew: The degree of label skew, in percent.
        seeds: The number of seeds.
        accuracy: The accuracy of the shared model.
        spread: The standard deviation of `accuracy`, or None for a single seed.
        drop: The accuracy at skew 0 less that at this skew, for the same seeds.
        own: The accuracy of the partitions' own models on all test samples, as the mean over the partitions.
        worst: The accuracy of the worst of the partitions' own models on all test samples.
        home: The accuracy of the partitions' own models on test samples as they have themselves.
        traffic: The bytes that partitions sent, in percent of `bsp`.
    """

    model: str
    algorithm: str
    norm: str
    skew: int
    seeds: int
    accuracy: float
    spread: float | None
    drop: float
    own: float
    worst: float
    home: float
    traffic: float


def cells(rows: Iterable[SkewRow]) -> list[SkewCell]:
    """Return a cell for each model, algorithm, normalisation and degree of skew, in the order in which they first occur.
    Rows with skew 0 must be among them."""
    groups: dict[tuple[str, str, str], dict[int, dict[int, SkewRow]]] = {}
    for row in rows:
        degrees = groups.setdefault((row.model, row.algorithm, row.norm), {})
        degrees.setdefault(row.skew, {})[row.seed] = row
    return [_cell(list(degrees[skew].values()), degrees[0]) for degrees in groups.values() for skew in sorted(degrees)]


def _cell(rows: Sequence[SkewRow], base: dict[int, SkewRow]) -> SkewCell:
    first, accuracies = rows[0], [100 * row.accuracy for row in rows]
    partitions: list[list[float]] = [json.loads(row.partitions) for row in rows]
    return SkewCell(
        first.model,
        first.algorithm,
        first.norm,
        first.skew,
        len(rows),
        fmean(accuracies),
        stdev(accuracies) if len(rows) > 1 else None,
        100 * fmean(base[row.seed].accuracy - row.accuracy for row in rows),
        100 * fmean(map(fmean, partitions)),
        100 * fmean(map(min, partitions)),
        100 * fmean(fmean(json.loads(row.home)) for row in rows),
        100 * fmean(row.traffic for row in rows),
    )

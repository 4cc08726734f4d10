"""A table with a gradient of every worker: Ringleader ASGD (Maranjyan and Richtárik, arXiv 2509.22860).

This rule is for workers that hold different data. Each step is along the mean of all workers' gradients,
(1/n) sum_i mean(G_i), so that no worker counts for more because it is faster, and none is left out because it is slow.
The rule goes by rounds:

1. Updates are collected, G_i of worker i, and change no parameter until every worker has at least one.
2. Each worker's next update joins its G_i and makes a step; the update that completed the table makes the first. A
   second update of a worker is kept for the next round. When all workers have made their step, the round is over.

So every worker makes exactly one step in each round, and a gradient in the table is at most 2n - 2 steps old. The
theory's step size is min(1 / (8 n L), epsilon B / (10 L sigma^2)), where B is the harmonic mean of the table's counts.
If each commit is a step over all workers, this is Malenia SGD (Tyurin and Richtárik 2023) with one update for each
worker, which is `bsp`.

Here versions count all updates, including collected ones: a collected update makes a version of equal parameters. A
replica keeps up to two vectors for each worker, and each snapshot holds them. Means over workers are weighted by
their samples, as in any step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lambdaml.algorithms import GRADIENT
from lambdaml.codecs import Vector
from lambdaml.log.records import Entry
from lambdaml.staleness import Rule, Terms, Transform


class Ringleader(Rule):
    """Lets every worker count the same, whatever its speed."""

    needs = frozenset({GRADIENT})

    def transform(self, workers: int, batch_size: int) -> Transform:
        return _Rounds(workers, batch_size)


class _Table:
    """A table of each worker's sum of gradients, with the numbers of gradients and of samples in it."""

    def __init__(self, workers: int) -> None:
        self.sums: dict[int, Vector] = {}
        self.counts = np.zeros((workers, 2), np.int64)

    def add(self, entry: Entry, gradient: Vector) -> None:
        worker = entry.worker
        self.sums[worker] = self.sums[worker] + gradient if worker in self.sums else gradient.copy()
        self.counts[worker] += (1, entry.samples)

    @property
    def full(self) -> bool:
        return len(self.sums) == len(self.counts)

    def mean(self, batch_size: int) -> Terms:
        updates, samples = self.counts.T
        shares = (samples / updates).tolist()
        terms = [
            (self.sums[worker] / updates[worker].astype(self.sums[worker].dtype), shares[worker] / batch_size)
            for worker in sorted(self.sums)
        ]
        return terms, sum(shares) / batch_size


class _Rounds:
    """Keeps the tables of this round and the next, and the workers that have made their step. While these are none,
    updates are being collected."""

    def __init__(self, workers: int, batch_size: int) -> None:
        self._workers, self._batch_size = workers, batch_size
        self._tables = _Table(workers), _Table(workers)
        self._stepped: set[int] = set()

    def begin(self, version: int, parameters: Callable[[], Vector]) -> None:
        pass

    def terms(
        self, entries: Sequence[Entry], gradients: Sequence[Vector], divisor: float, parameters: Callable[[], Vector]
    ) -> Terms:
        now, later = self._tables
        workers = {entry.worker for entry in entries}
        collecting = not self._stepped
        for entry, gradient in zip(entries, gradients, strict=True):
            (later if entry.worker in self._stepped else now).add(entry, gradient)
        if not now.full or (not collecting and workers <= self._stepped):
            return [], 1.0
        terms = now.mean(self._batch_size)
        self._stepped |= workers
        if len(self._stepped) == self._workers:
            self._stepped = set()
            self._tables = later, _Table(self._workers)
        return terms

    def state(self) -> dict[str, Vector]:
        state: dict[str, Vector] = {"stepped": np.array(sorted(self._stepped), np.int64)}
        for name, table in zip(("now", "later"), self._tables, strict=True):
            state[f"{name}-counts"] = table.counts.copy()
            state |= {f"{name}-{worker}": vector.copy() for worker, vector in table.sums.items()}
        return state

    def load(self, state: Mapping[str, Vector]) -> None:
        self._stepped = set(state["stepped"].tolist())
        for name, table in zip(("now", "later"), self._tables, strict=True):
            table.counts = state[f"{name}-counts"].copy()
            table.sums = {w: state[f"{name}-{w}"] for w in np.flatnonzero(table.counts[:, 0]).tolist()}

"""Checks what functions took over from each other (`reduced/`) against a replay of the log: sums, slices and models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lambdaml.log import keys
from lambdaml.log.blocks import load_vector
from lambdaml.log.partial import Partial
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import demand_present, read_now
from lambdaml.log.records import Body, Commit, Update
from lambdaml.training.step_sum import SUM, StepParts
from lambdaml.worker.machine import Folded

if TYPE_CHECKING:
    from lambdaml.training.replica import Replica


class SharedSums:
    """The objects of one run that hold sums and models, by the commit that they belong to.

    Args:
        run: The run.
        replica: The replica that replays it.

    Attributes:
        checked: The number of objects that were compared.
    """

    def __init__(self, run: RunReader, replica: Replica) -> None:
        self.checked = 0
        self._run, self._replica = run, replica
        self._keys: defaultdict[int, list[str]] = defaultdict(list)
        for info in run.store.list(keys.REDUCED):
            self._keys[keys.reduced_commit(info.key)].append(info.key)

    def before(self, commit: Commit, updates: Mapping[tuple[int, int], Update]) -> list[str]:
        """Check the sums of a commit that is about to be applied. Return a sentence about each that differs."""
        names = [key for key in self._keys[commit.commit] if not key.endswith("/fold")]
        slices = self._replica.slices
        if slices is not None:  # of two attempts, the later one counts
            last = max((key.rpartition(".")[2] for key in names), default="")
            names = [key for key in names if key.endswith(f".{last}")]
        differ = []
        for key in names:
            partial = demand_present(read_now(self._run.store, key, Partial.read), key)
            if slices is not None and slices.slicing.apart:
                at = keys.vector(commit.commit, key.rpartition("/")[2])
                partial.sum = read_now(self._run.store, at, load_vector) or {}
            covered = {update.id for update in partial.updates} if slices is None else None
            due = self._sum(commit, updates, covered)
            if due and slices is not None:
                due = {SUM: due[SUM][slices.slicing.span(int(key.rpartition("/")[2].partition(".")[0]))]}
            self.checked += 1
            if not _same(partial.sum, due):
                differ.append(f"{key} is not the sum of the updates that the log applies")
        return differ

    def after(self, commit: Commit) -> list[str]:
        """Check the model of a commit that was just applied. Return a sentence if it differs."""
        differ = []
        for key in [key for key in self._keys.pop(commit.commit, []) if key.endswith("/fold")]:
            replica = self._replica
            folded = demand_present(
                read_now(self._run.store, key, lambda data, key: Folded.read(replica, data, key)), key
            )
            self.checked += 1
            entry = str(folded.state.meta["entry"])
            if folded.commit.same(commit) and folded.state.digest() == replica.alone(entry).digest():
                continue
            differ.append(f"{key} is not the model that the log makes")
        return differ

    def _sum(
        self, commit: Commit, updates: Mapping[tuple[int, int], Update], covered: set[tuple[int, int]] | None
    ) -> Body:
        """Return the sum of the updates that the commit applies, or of those of them that are covered."""
        replica = self._replica
        applied = [entry for entry in commit.applied if covered is None or (entry.worker, entry.seq) in covered]
        layout = replica.flat.layout
        total = StepParts(replica.local, replica.rows, replica.parts, np.empty(layout.size, layout.dtype))
        for entry in applied:
            total.add(entry, updates[entry.worker, entry.seq])
        return total.finish()


def _same(one: Body, other: Body) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)

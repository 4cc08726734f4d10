"""A deep check of a run whose workers have models of their own: it computes a sample of the updates again.

Nothing but a worker's memory ties its rounds together. Each update is computed from the mean of its worker's group in the
round before, which is read anew.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lambdaml.errors import BadObject, RunFailed
from lambdaml.log import keys
from lambdaml.log.memory import Memory
from lambdaml.log.own_models import OwnModel
from lambdaml.log.reader import RunReader
from lambdaml.log.records import DAMAGED, Update
from lambdaml.seeds import derive_seed
from lambdaml.storage.blocking import run_now
from lambdaml.training.deep import Findings, Told, stretches, whole_memory
from lambdaml.training.own_replay import source_in, update_of
from lambdaml.worker.averages import Source, model_before
from lambdaml.worker.recomputing import Made, comes_out

if TYPE_CHECKING:
    from lambdaml.training.replica import Replica


class AloneCheck:
    """Computes a sample of the updates of such a run again, and compares them and the memories that stand.

    A unit of the sample is a stretch of one worker's life, from one memory object to the next, or one update if workers
    remember nothing.

    Args:
        share: The share of the units that is checked, in (0, 1]; at least one is.
        remembers: Whether the run's workers remember something.
    """

    def __init__(self, run: RunReader, share: float, remembers: bool) -> None:
        self._run = run
        published = [keys.update_id(info.key) for info in run.store.list(keys.UPDATES)]
        if remembers:
            units = [(each.worker, each.start, each.end, each.written) for each in stretches(run, published)]
        else:
            units = [(worker, seq, seq + 1, False) for worker, seq in published]
        draw = random.Random(derive_seed("deep", run.settings.token))
        self._units = sorted(draw.sample(units, min(len(units), max(1, round(share * len(units))))))
        self._there, self._remembers = set(published), remembers

    def note(self, updates: Iterable[Update]) -> None:
        """Do nothing: the check reads updates itself."""

    def check(self, replica: Replica, decided: Sequence[int], told: Told) -> Findings:
        """Compute the chosen updates again."""
        findings, total = Findings(), sum(end - start for _, start, end, _ in self._units)
        source = source_in(self._run, replica)
        for worker, start, end, written in self._units:
            memory = whole_memory(self._run, worker, start) if written else Memory(worker, start)
            if memory is None or (start and not written and self._remembers):
                findings.unchecked += end - start
                continue
            replica.memories.host(memory, replica.log_state)
            for seq in range(start, end):
                if not self._again(replica, source, worker, seq, findings):
                    break
                told(findings.recomputed, total)
            else:
                self._compare(replica, worker, end, findings)
            replica.memories.drop(worker)
        return findings

    def _again(self, replica: Replica, source: Source, worker: int, seq: int, findings: Findings) -> bool:
        """Compute an update again, and return whether that was possible and it is the one in the bucket."""
        assert replica.own is not None
        if (worker, seq) not in self._there:
            return False
        try:
            model: OwnModel = run_now(model_before(source, replica, worker, seq))
        except (RunFailed, BadObject):
            findings.unchecked += 1
            return False
        update = run_now(update_of(source, worker, seq))
        if update.fault == DAMAGED:
            findings.unchecked += 1
            return False
        replica.own.take(worker, model)
        findings.recomputed += 1
        if comes_out(replica, Made.of(update), self._run.settings):
            return True
        findings.differ.append(f"{keys.update(worker, seq)} is not what is computed again")
        return False

    def _compare(self, replica: Replica, worker: int, seq: int, findings: Findings) -> None:
        memory = whole_memory(self._run, worker, seq)
        if memory is not None and replica.memories.holds(worker, seq):
            findings.memories += 1
            if memory.digest() != replica.memories.of(worker, seq).digest():
                findings.differ.append(f"{keys.memory(worker, seq)} is not what its worker remembered")

"""Rebuilds models of workers that have models of their own, and computes their updates again."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lambdaml.errors import BadObject, RunFailed, SettingsError
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.blocks import read_update
from lambdaml.log.memory import Memory
from lambdaml.log.own_models import OwnModel
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import demand_present, read_now
from lambdaml.log.records import DAMAGED, Body, Update, damaged
from lambdaml.log.retention import snapshots_kept
from lambdaml.log.snapshot import State, read_state
from lambdaml.schedules.groups import Groups
from lambdaml.seeds import derive_seed
from lambdaml.storage.blocking import blocking, run_now
from lambdaml.training import numerics
from lambdaml.training.deep import Findings, Told, stretches
from lambdaml.training.one_thread import OneThread
from lambdaml.training.replay import replica_at
from lambdaml.worker.averages import Source, model_before
from lambdaml.worker.recomputing import Made, comes_out

if TYPE_CHECKING:
    from lambdaml.training.replica import Replica


def own_model(run: RunReader, worker: int, version: int | None = None, job: Job | None = None) -> State:
    """Return the model that a worker has at a version, by default the last one.

    Raises:
        SettingsError: If the workers share one model, there is no such worker or version, or objects that are needed were
            deleted.
    """
    numerics.prepare_for(run.settings.numerics)
    with OneThread() as compute:
        return compute.submit(_own_model, run, worker, version, job).result()


def _own_model(run: RunReader, worker: int, version: int | None, job: Job | None) -> State:
    replica = replica_at(run, max(keys.number(info.key) for info in snapshots_kept(run.store)), job)
    if replica.own is None:
        raise SettingsError(f"the workers of {run.url} share one model: leave out its worker")
    if not 0 <= worker < run.settings.workers:
        raise SettingsError(f"worker {worker} of {run.settings.workers}: workers are numbered from 0")
    last = max((commit.last_version for commit in run.log(replica.log_state.commit)), default=replica.version)
    version = last if version is None else version
    if not 0 <= version <= last:
        raise SettingsError(f"this run has no version {version} yet: the last is {last}")
    schedule, source = replica.parts.schedule, source_in(run, replica)
    assert isinstance(schedule, Groups)
    try:
        if schedule.after or not version:
            body = run_now(model_before(source, replica, worker, version)).body
        else:
            body = run_now(_update(source, worker, version - 1)).body
    except RunFailed as error:
        raise SettingsError(f"worker {worker}'s model at version {version} cannot be rebuilt: {error}") from error
    replica.rounds.put(body)
    replica.version = version
    return replica.alone("")


def source_in(run: RunReader, replica: Replica) -> Source:
    """Return the way in which a reader of a run finds models of workers."""

    def fetch(worker: int, seq: int) -> Update:
        key = keys.update(worker, seq)
        try:
            update = read_update(run.store, key)
        except BadObject:
            return damaged(worker, seq, 0)
        if update is None:
            raise RunFailed(f"{key} is not there any more")
        update.fault = replica.check(update)
        return update

    def first() -> Body:
        side, key = replica.twin(), keys.snapshot(0)
        side.load(demand_present(read_state(run.store, key), key))
        assert side.own is not None
        return side.own.loaded[0]

    return Source(blocking(fetch), blocking(first), blocking(lambda work: work()))


async def _update(source: Source, worker: int, seq: int) -> Update:
    return await source.fetch(worker, seq)


class AloneCheck:
    """Computes a sample of the updates of such a run again, and compares them and the memories that stand.

    A unit of the sample is a stretch of one worker's life, from one memory object to the next, or as long as a log entry if
    workers remember nothing. Each update is computed from the mean of its worker's group in the round before.

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
            memory = self._memory(worker, start) if written else Memory(worker, start)
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
        update = run_now(_update(source, worker, seq))
        if update.fault == DAMAGED:
            findings.unchecked += 1
            return False
        replica.own.take(worker, model)
        findings.recomputed += 1
        if comes_out(replica, Made.of(update), self._run.settings.codec):
            return True
        findings.differ.append(f"{keys.update(worker, seq)} is not what is computed again")
        return False

    def _memory(self, worker: int, seq: int) -> Memory | None:
        try:
            return read_now(self._run.store, keys.memory(worker, seq), Memory.read)
        except BadObject:
            return None

    def _compare(self, replica: Replica, worker: int, seq: int, findings: Findings) -> None:
        memory = self._memory(worker, seq)
        if memory is not None and replica.memories.holds(worker, seq):
            findings.memories += 1
            if memory.digest() != replica.memories.of(worker, seq).digest():
                findings.differ.append(f"{keys.memory(worker, seq)} is not what its worker remembered")

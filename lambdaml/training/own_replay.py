"""Rebuilds the models of workers that have models of their own, from the updates of their groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambdaml.errors import BadObject, RunFailed, SettingsError
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.blocks import read_update
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import demand_present
from lambdaml.log.records import Body, Update, damaged
from lambdaml.log.retention import snapshots_kept
from lambdaml.log.snapshot import State, read_state
from lambdaml.schedules.groups import Groups
from lambdaml.storage.blocking import blocking, run_now
from lambdaml.training.replay import replica_at
from lambdaml.worker.averages import Source, model_before

if TYPE_CHECKING:
    from lambdaml.training.replica import Replica


def own_model(run: RunReader, worker: int, version: int | None, job: Job | None) -> State:
    """Return the model that a worker has at a version, by default the last one. Call it from the thread that computes.

    Raises:
        SettingsError: If there is no such version, or objects that are needed were deleted.
    """
    replica = replica_at(run, max(keys.number(info.key) for info in snapshots_kept(run.store)), job)
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
            body = run_now(update_of(source, worker, version - 1)).body
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


async def update_of(source: Source, worker: int, seq: int) -> Update:
    """Return an update that exists."""
    return await source.fetch(worker, seq)

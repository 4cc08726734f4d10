"""A worker's own model: the shared one with what the worker has made and that it does not hold yet.

Workers of an algorithm that is `ahead` (Gaia) compute from such models, so these differ between workers. Nobody writes them:
the worker's memory is followed through the log, as a deep check follows it, and says what is unsent. If workers have nothing
but models of their own (`lambdaml.schedules.groups`), `lambdaml.training.own_replay` finds these.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING

from lambdaml.codecs import Vector
from lambdaml.errors import BadObject, SettingsError
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.blocks import read_update
from lambdaml.log.memory import Memory
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import demand_present, read_now
from lambdaml.log.retention import snapshots_kept
from lambdaml.log.snapshot import State, meta_of
from lambdaml.schedules import SCHEDULES, rounds_at_once
from lambdaml.training import numerics
from lambdaml.training.one_thread import OneThread
from lambdaml.training.own_replay import own_model
from lambdaml.training.replay import commits_from, rebuild, replica_at
from lambdaml.worker.recomputing import Made, comes_out

if TYPE_CHECKING:
    from lambdaml.training.replica import Replica


def own_state(run: RunReader, worker: int, version: int | None = None, job: Job | None = None) -> State:
    """Rebuild the state at a version with a worker's own model in place of the shared one.

    What counts as the worker's own are its updates that were computed from earlier versions. If workers compute from the
    shared model itself, this is the state at that version.

    Args:
        run: The run. Updates since the worker's memory before that version must still be there (`--keep`).
        version: The version; by default the last one.
        job: The run's job, if it was given as an instance and cannot be imported.

    Raises:
        SettingsError: If there is no such worker or version, or other workers take turns with this one.
        BadObject: If an update is missing, damaged, or not what comes out when it is computed again.
    """
    if not 0 <= worker < run.settings.workers:
        raise SettingsError(f"there is no worker {worker}: this run has {run.settings.workers}, from 0 on")
    if run.settings.takes_turns:
        raise SettingsError("workers of this run take turns, so none has a model of its own")
    numerics.prepare_for(run.settings.numerics)
    alone = rounds_at_once(SCHEDULES.make(run.settings.schedule)) > 0
    if not (alone or run.settings.error_feedback):
        return rebuild(run, version, job)
    with OneThread() as compute:
        if alone:
            return compute.submit(own_model, run, worker, version, job).result()
        return compute.submit(_own_state, run, worker, version, job).result()


def own_values(replica: Replica, worker: int, seq: int) -> Vector:
    """Return the trained parameters of a worker's own model after `seq` updates, which a replica remembers."""
    values, unsent = replica.local.values(), None
    if replica.algorithm.ahead and replica.feedback is not None:
        unsent = replica.feedback.unsent(replica.memories.of(worker, seq))
    return values if unsent is None else values + unsent


def _own_state(run: RunReader, worker: int, version: int | None, job: Job | None) -> State:
    end = _commits_at(run, version)
    memory, due = _before(run, worker, end)
    first = min(due, default=end)
    metas = ((info.key, meta_of(run.store, info.key)["log_state"]["commit"]) for info in snapshots_kept(run.store))
    usable = [keys.number(key) for key, commit in metas if commit <= first]
    if not usable:
        raise SettingsError(
            f"the own model of worker {worker} cannot be rebuilt: no snapshot is left below its updates"
        )
    replica = replica_at(run, usable[-1], job)
    entries = commits_from(run, replica.log_state.commit)
    while True:
        if replica.log_state.commit == first:
            replica.memories.host(memory, replica.log_state)
        for made in due[replica.log_state.commit]:
            if not comes_out(replica, made, run.settings):
                raise BadObject(f"{keys.update(worker, made.assignment.seq)} is not what is computed again")
        if replica.log_state.commit == end:
            break
        replica.apply(*demand_present(next(entries, None), keys.log(replica.log_state.commit)))
    replica.local.restore(own_values(replica, worker, memory.seq))
    return replica.state()


def _commits_at(run: RunReader, version: int | None) -> int:
    """Return the number of commits after which a version was first reached; for None, that of all commits."""
    if version is None:
        return run.tail()[0]
    if version == 0:
        return 0
    for commit in run.log():
        if commit.last_version == version:
            return commit.commit + 1
        if commit.last_version > version >= 0:
            raise SettingsError(
                f"version {version} lies within commit {commit.commit}, and workers compute from versions "
                f"{commit.version} and {commit.last_version}"
            )
    raise SettingsError(f"this run has no version {version} yet")


def _before(run: RunReader, worker: int, end: int) -> tuple[Memory, defaultdict[int, list[Made]]]:
    """Return the newest memory that served a base before commit `end`, and the updates since by the commits at their bases."""
    infos = list(run.store.list(keys.memories(worker)))
    for number in [*(keys.number(info.key) for info in reversed(infos)), 0]:
        memory = read_now(run.store, keys.memory(worker, number), Memory.read) if number else Memory(worker)
        following = _made(run, worker, number)
        base = end if following is None else following.base_commit
        if memory is not None and memory.ready_commit <= base <= end:
            break
    else:
        raise SettingsError(f"no memory of worker {worker} is left from before commit {end}")
    due: defaultdict[int, list[Made]] = defaultdict(list)
    for seq in count(memory.seq):
        made = _made(run, worker, seq)
        if made is None or made.base_commit >= end:
            return memory, due
        due[made.base_commit].append(made)
    raise AssertionError


def _made(run: RunReader, worker: int, seq: int) -> Made | None:
    update = read_update(run.store, keys.update(worker, seq))
    return None if update is None else Made.of(update)

"""Replay rebuilds any version of a run, and its model, bit for bit, from a snapshot, the log and the updates."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lambdaml.errors import BadObject, RunNotFound, SettingsError
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.blocks import read_update
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import demand_present, read_twice
from lambdaml.log.records import Commit, Update, damaged
from lambdaml.log.retention import horizon_of, snapshots_kept
from lambdaml.log.snapshot import State, read_model, read_state
from lambdaml.training import numerics
from lambdaml.training.loading import load_run_job
from lambdaml.training.one_thread import OneThread

if TYPE_CHECKING:
    from torch import nn

    from lambdaml.training.replica import Replica

AHEAD, AHEAD_BYTES = 16, 256 * 2**20
"""The updates of at most this many commits are read ahead, and they may take at most this many bytes of memory."""


def replay(run: RunReader, version: int | None = None, job: Job | None = None) -> State:
    """Rebuild the state at a version from the nearest earlier snapshot and the log, with the bits that it had.

    Args:
        run: The run.
        version: The version; by default the last one.
        job: The run's job, if it was given as an instance and cannot be imported.

    Raises:
        OtherNumerics: If the run promises bits, and this process would compute others.
        SettingsError: If the run has no such version, or objects that are needed to rebuild it were deleted.
        JobError: If the job cannot be imported, or its code has changed.
    """
    numerics.prepare_for(run.settings.numerics)
    numerics.demand(run.settings.numerics)
    return rebuild(run, version, job)


def rebuild(run: RunReader, version: int | None = None, job: Job | None = None) -> State:
    """Do the same as `replay` in this process's own numerics class, whichever it is; the last bits may differ."""
    with OneThread() as compute:
        return compute.submit(_rebuild, run, version, job).result()


def keep_newest(run: RunReader, job: Job | None = None) -> int:
    """Write a snapshot of the newest committed version if none exists, and return that version."""
    newest = run.newest_snapshot()
    state = replay(run, job=job)
    if state.version != newest:
        run.store.create(keys.snapshot(state.version), state.dump())
    return state.version


def trained_model(run: RunReader, version: int | None = None, job: Job | None = None) -> nn.Module:
    """Return the job's model with the run's result in it, or with the weights of any version, in `eval()` mode.

    In a process of another numerics class than the run's, the last bits of those weights may differ.

    Raises:
        RunNotFound: If the run has no result yet, and no version was asked for.
    """
    from lambdaml.training.streaming import load_into

    module = (job or load_run_job(run.settings)).model()
    if version is None:
        data = read_twice(run.store, keys.MODEL)
        if data is None:
            raise RunNotFound(f"{run.url} has no result yet; ask for a version, or resume the run")
        load_into(module, read_model(data))
    else:
        load_into(module, rebuild(run, version, job))
    return module.eval()


def _rebuild(run: RunReader, version: int | None, job: Job | None) -> State:
    versions = [keys.number(info.key) for info in snapshots_kept(run.store)]
    usable = [v for v in versions if version is None or v <= version]
    if not usable or (version is not None and version < 0):
        first = f"the earliest kept is {versions[0]}" if versions else "it has no snapshot"
        raise SettingsError(f"version {version} of this run cannot be rebuilt: {first}")
    replica = replica_at(run, usable[-1], job)
    for commit, updates in commits_from(run, replica.log_state.commit):
        if replica.version == version:
            break
        replica.apply(commit, updates, until=version)
    if version is not None and replica.version != version:
        raise SettingsError(f"this run has no version {version} yet: the last is {replica.version}")
    return replica.state()


def _deleted(run: RunReader, commit: Commit) -> str:
    """Return the message about a missing update that was deleted meanwhile."""
    horizon = horizon_of(run.store)
    if horizon is None or horizon.commit <= commit.commit:
        return ""
    return f": the run goes on, and its history now begins at version {horizon.version}; try again, or pin a version"


def replica_at(run: RunReader, version: int, job: Job | None = None) -> Replica:
    """Make a replica that has just loaded the snapshot of this version."""
    from lambdaml.training.replica import Replica

    key = keys.snapshot(version)
    state = demand_present(read_state(run.store, key), key)
    replica = Replica(job or load_run_job(run.settings), run.settings)
    replica.load(state)
    return replica


def commits_from(run: RunReader, start: int) -> Iterator[tuple[Commit, dict[tuple[int, int], Update]]]:
    """Yield the log's entries from number `start` on, each with its updates, including refused ones. The next updates
    are fetched meanwhile."""

    def fetch(commit: Commit) -> dict[tuple[int, int], Update]:
        found = {}
        for entry in commit.entries:
            key = keys.update(entry.worker, entry.seq)
            data = run.store.get(key)
            if data is None:
                raise BadObject(f"{key} is in the log but not in the bucket{_deleted(run, commit)}")
            try:
                update = demand_present(read_update(run.store, key, data), key)
            except BadObject:
                if entry.fate == "applied":
                    raise
                update = damaged(entry.worker, entry.seq, len(data))
            found[update.id] = update
        return found

    commit_bytes = 4 * run.settings.parameters * run.settings.workers
    ahead = max(1, min(AHEAD, AHEAD_BYTES // max(1, commit_bytes)))
    with ThreadPoolExecutor(ahead) as pool:
        waiting = []
        for commit in run.log(start):
            waiting.append((commit, pool.submit(fetch, commit)))
            if len(waiting) == ahead:
                first, updates = waiting.pop(0)
                yield first, updates.result()
        for first, updates in waiting:
            yield first, updates.result()

"""Replay: rebuild any version of a run, bit for bit, from a snapshot, the log and the updates."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lambdaml.errors import BadObject, SettingsError
from lambdaml.log import keys
from lambdaml.log.reads import demand_present, read_now
from lambdaml.log.records import Commit, Update, damaged
from lambdaml.log.retention import horizon_of, snapshots_kept
from lambdaml.log.snapshot import State, read_state

if TYPE_CHECKING:
    from lambdaml.log.run import Run
    from lambdaml.training.replica import Replica


AHEAD, AHEAD_BYTES = 16, 256 * 2**20
"""Commits whose updates are read ahead at most, and the memory that they may take."""


def replay(run: Run, version: int | None = None) -> State:
    """The state at `version`; at the last one in the log for None. Computed with one thread, as functions do.

    Raises:
        SettingsError: the run has no such version, or what is needed to rebuild it was deleted.
    """
    from lambdaml.engines.live import OneThread

    with OneThread() as compute:
        return compute.submit(_replay, run, version).result()


def _replay(run: Run, version: int | None) -> State:
    versions = [keys.number(info.key) for info in snapshots_kept(run.store)]
    usable = [v for v in versions if version is None or v <= version]
    if not usable or (version is not None and version < 0):
        first = f"the earliest kept is {versions[0]}" if versions else "it has no snapshot"
        raise SettingsError(f"version {version} of this run cannot be rebuilt: {first}")
    replica = replica_at(run, usable[-1])
    for commit, updates in commits_from(run, replica.log_state.commit):
        if replica.version == version:
            break
        replica.apply(commit, updates, until=version)
    if version is not None and replica.version != version:
        raise SettingsError(f"this run has no version {version} yet: the last is {replica.version}")
    return replica.state()


def _deleted(run: Run, commit: Commit) -> str:
    """What to say of a missing update that was deleted meanwhile."""
    horizon = horizon_of(run.store)
    if horizon is None or horizon.commit <= commit.commit:
        return ""
    return f": the run goes on, and its history now begins at version {horizon.version}; try again, or pin a version"


def replica_at(run: Run, version: int) -> Replica:
    """A replica that has just loaded the snapshot of this version."""
    from lambdaml.training.replica import Replica

    key = keys.snapshot(version)
    state = demand_present(read_state(run.store, key), key)
    replica = Replica(run.job(), run.settings)
    replica.load(state)
    return replica


def commits_from(run: Run, start: int) -> Iterator[tuple[Commit, dict[tuple[int, int], Update]]]:
    """The log from entry `start` on, each with its updates, refused ones included; the next are fetched meanwhile."""

    def fetch(commit: Commit) -> dict[tuple[int, int], Update]:
        found = {}
        for entry in commit.entries:
            key = keys.update(entry.worker, entry.seq)
            data = run.store.get(key)
            if data is None:
                raise BadObject(f"{key} is in the log but not in the bucket{_deleted(run, commit)}")
            try:
                update = demand_present(read_now(run.store, key, Update.read, data), key)
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

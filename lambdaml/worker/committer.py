"""Writes the log, snapshots and the result, in the function that holds worker 0.

No leader is elected. Log entries are created, never replaced. If two functions believe that they hold worker 0, the
loser of each entry finds the winner's in its place and follows it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from lambdaml.errors import ReplicaDiverged
from lambdaml.events import CommitEvent, SnapshotEvent
from lambdaml.log import keys
from lambdaml.log.reads import demand_present
from lambdaml.log.records import Commit, Digest
from lambdaml.patterns import Exchange
from lambdaml.training.rejections import describe
from lambdaml.training.sampling import Sampler
from lambdaml.worker.machine import MachineState
from lambdaml.worker.reading import read
from lambdaml.worker.restoring import read_machine_state
from lambdaml.worker.retention import Retention
from lambdaml.worker.shared import Shared
from lambdaml.worker.stop_watcher import LEAD, StopWatcher

_MAX_UNWRITTEN = 16
"""A deterministic schedule may be at most this many commits ahead of its log."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that waits to be written.

    Attributes:
        version: The version of the state, in optimizer steps.
        meta: The values of the state that are not tensors.
        data: The bytes of the snapshot.
    """

    version: int
    meta: dict[str, Any]
    data: bytes


class Committer:
    """Writes the log, snapshots and the result on behalf of all. It is idle in functions that do not hold worker 0.

    Attributes:
        digest: The digest of the newest state, if it is not in the log yet.
        making_bytes: The bytes that a snapshot will take that is about to be made.
    """

    def __init__(self, shared: Shared, exchange: Exchange, stops: StopWatcher, retention: Retention) -> None:
        self.digest: Digest | None = None
        self.making_bytes = 0
        self._unwritten: deque[Commit] = deque()
        self._snapshots: deque[Snapshot] = deque()
        shared.window.claims = lambda: self._waiting_bytes
        self._written = -1  # version of the newest snapshot that this function wrote or found
        self._shared = shared
        self._exchange = exchange
        self._stops = stops
        self._retention = retention

    def note(self, commit: Commit) -> None:
        """Note a commit of a deterministic schedule that must be written. Functions that do not write the log keep the
        newest ones, since they may have to go on where the writer died."""
        self._unwritten.append(commit)
        if not self._shared.writes_log and len(self._unwritten) > _MAX_UNWRITTEN + 1:
            self._unwritten.popleft()

    @property
    def behind(self) -> bool:
        """Whether commits are made faster than the log is written, or than snapshots are evaluated for a target."""
        waiting = len(self._due) + len(self._stops.unjudged) if self._stops.judging else 0
        return self._shared.writes_log and (len(self._unwritten) >= _MAX_UNWRITTEN or waiting > LEAD)

    @property
    def _waiting_bytes(self) -> int:
        """The bytes of the snapshots that are being made or wait to be written. Those that wait for updates do not count,
        or else these might wait for them."""
        return self.making_bytes + sum(len(each.data) for each in self._due) if self._shared.writes_log else 0

    @property
    def _due(self) -> list[Snapshot]:
        """The snapshots that wait to be written and need not wait for updates: all updates exist that are computed from
        earlier states."""
        known, delay = self._shared.known, self._shared.replica.parts.delay
        over = known.stop is not None
        return [each for each in self._snapshots if over or each.meta["log_state"]["commit"] + delay <= known.commit]

    async def take_snapshot(self, state: MachineState, sha256: str) -> None:
        """Have a state with this digest written. The state may change once this has returned."""
        data = await self._shared.world.background(lambda: state.dump(sha256))
        self._snapshots.append(Snapshot(state.version, state.meta, data))
        self.making_bytes = 0
        self._shared.changed()

    async def append(self, commit: Commit) -> Commit:
        """Write the log entry, or find that another function did, and return the entry that the log then holds."""
        shared = self._shared
        forecast_s = 0.0 if shared.schedule.deterministic else self._exchange.forecast_s(commit)
        entry = replace(commit, digest=self.digest, function=shared.name, time_s=shared.world.now(), next_s=forecast_s)
        key = keys.log(commit.commit)
        standing = await shared.world.store.create(key, entry.pack())
        if standing is None:
            self.digest = None
            return entry
        return demand_present(await read(shared.world, key, Commit.read, standing), key)

    def tell(self, commit: Commit) -> None:
        """Emit the event of a commit that was applied."""
        shared = self._shared
        sampler = shared.replica.sampler if commit.refused else None  # it has dealt them, so it is at hand
        shared.world.emit(commit_event(commit, shared.replica.log_state.progress, sampler))

    async def keep_log(self) -> None:
        """Write the commits of a deterministic schedule, in order, while the workers go on."""
        shared = self._shared
        while True:
            await shared.until(lambda: bool(self._unwritten) and shared.writes_log)
            await shared.world.sleep(0)  # work that workers wait for goes first
            commit = self._unwritten[0]
            standing = commit if commit.commit < shared.tail else await self.append(commit)
            if not standing.same(commit):
                raise ReplicaDiverged(f"{keys.log(commit.commit)} by {standing.function} differs from ours")
            self._unwritten.popleft()
            shared.changed()

    async def keep_snapshots(self) -> None:
        """Write snapshots, in order, while the workers go on. Each is written after the log entries that it rests on, and
        what others need to follow these, since a function that starts from it will write neither. It is also written after
        all updates that are computed from earlier states, since such a function cannot compute them."""
        shared = self._shared

        def ready() -> bool:
            if not self._due or not shared.writes_log:
                return False
            commits = self._snapshots[0].meta["log_state"]["commit"]
            logged = not self._unwritten or self._unwritten[0].commit >= commits
            return logged and self._exchange.delivered(commits)

        while True:
            await shared.until(ready)
            await self._write_snapshot(self._snapshots[0])
            self._stops.wrote(self._snapshots.popleft().version)  # its bytes get no name, so that they are freed
            shared.changed()

    async def _write_snapshot(self, snapshot: Snapshot) -> None:
        world = self._shared.world
        data = snapshot.data
        if await world.store.create(keys.snapshot(snapshot.version), data) is None:
            self._retention.wrote(snapshot.meta["log_state"], len(data))
        self._written = snapshot.version
        world.emit(SnapshotEvent(version=snapshot.version, size_bytes=len(data)))

    async def finish(self) -> None:
        """Write the rest of the log and snapshots of a run that has ended, and the result, unless another function did.

        Functions that never held worker 0 do this too if they found the run at its end: its writer may have died.
        """
        shared, world = self._shared, self._shared.world
        stop = shared.known.stop
        assert stop is not None
        if shared.writes_log:
            await shared.until(lambda: not shared.writes_log or not (self._unwritten or self._snapshots))
        elif await world.store.head(keys.MODEL) is not None:
            return
        for commit in list(self._unwritten):
            if commit.commit >= shared.tail:
                await self.append(commit)
        state = await world.compute(shared.replica.shared_state)
        if state.version != self._written:
            data = await world.background(state.dump)
            await self._write_snapshot(Snapshot(state.version, state.meta, data))
            del data
        if stop.reason == "diverged":
            return
        if stop.version is not None and stop.version != state.version:
            found = await read_machine_state(world, shared.replica, keys.snapshot(stop.version))
            if found is None:
                raise ReplicaDiverged(f"{keys.snapshot(stop.version)} is the result but does not exist")
            state = found
        await world.store.create(keys.MODEL, state.dump_model())


def commit_event(commit: Commit, progress: int, sampler: Sampler | None) -> CommitEvent:
    """Return the event that tells of a commit.

    Args:
        progress: The number of updates with a fate after it, over all workers.
        sampler: The run's sampler, to name the samples of rejected updates.
    """
    applied = commit.applied
    rejected = [entry for entry in commit.refused if entry.fate == "rejected"]
    return CommitEvent(
        commit=commit.commit,
        version=commit.last_version,
        progress=progress,
        fraction=commit.progress,
        updates=len(commit.entries),
        refused=[f"{entry.fate}: {entry.reason}" for entry in commit.refused],
        rejected=[describe(entry, sampler) for entry in rejected],
        training_loss=sum(entry.loss for entry in applied) / len(applied) if applied else None,
        staleness=[entry.staleness for entry in applied],
    )

"""What the function that holds worker 0 does besides: write the log, take snapshots, end the run.

There is no leader to elect. Log entries are created, never replaced; should two functions believe that they hold
worker 0, the loser of each entry finds the winner's in its place and follows it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from lambdaml import keys, wire
from lambdaml.errors import ReplicaDiverged
from lambdaml.machine import State
from lambdaml.records import Commit, Digest, Stop

if TYPE_CHECKING:
    from lambdaml.function import Function

STOP_POLL_S = 1.0
"""Seconds between looks for stop.json."""

MAX_UNWRITTEN = 16
"""Commits that an agreed schedule may be ahead of its log."""


class Committer:
    """Writes on behalf of all. Idle in functions that do not hold worker 0.

    Attributes:
        wish: a stop that was asked for and is not in the log yet.
        digest: of the newest state whose digest is not in the log yet.
    """

    def __init__(self, function: Function) -> None:
        self.wish: Stop | None = None
        self.digest: Digest | None = None
        self.unwritten: deque[Commit] = deque()
        self.snapshots: deque[State] = deque()
        self._function = function

    @property
    def active(self) -> bool:
        return 0 in self._function.leases.held

    def note(self, commit: Commit) -> None:
        """A commit of an agreed schedule is to be written. Functions that do not write keep the newest ones, since
        they may have to go on where the writer died."""
        self.unwritten.append(commit)
        if not self.active and len(self.unwritten) > MAX_UNWRITTEN + 1:
            self.unwritten.popleft()

    @property
    def behind(self) -> bool:
        """Whether commits are made faster than the log is written."""
        return self.active and len(self.unwritten) >= MAX_UNWRITTEN

    async def append(self, commit: Commit) -> Commit:
        """Write the log entry, or find out that somebody else did: returns the one that stands."""
        function = self._function
        forecast_s = 0.0 if function.schedule.agreed else function.channel.forecast_s(commit)
        entry = replace(
            commit,
            digest=self.digest,
            function=function.name,
            time_s=function.world.now(),
            next_s=forecast_s,
        )
        standing = await function.world.store.create(keys.log(commit.commit), entry.pack())
        if standing is None:
            self.digest = None
            return entry
        return Commit.unpack(standing, commit.commit)

    async def keep_log(self) -> None:
        """Write the commits of an agreed schedule, in order, while the workers go on."""
        function = self._function
        while True:
            await function.until(lambda: bool(self.unwritten) and self.active)
            await function.world.sleep(0)  # what workers wait for goes first
            commit = self.unwritten[0]
            standing = commit if commit.commit < function.tail else await self.append(commit)
            if not standing.same(commit):
                raise ReplicaDiverged(f"{keys.log(commit.commit)} by {standing.function} differs from ours")
            self.unwritten.popleft()
            function.changed.set()

    async def keep_snapshots(self) -> None:
        """Write snapshots, in order, while the workers go on; each after the log that it rests on, for whoever starts
        from it will write none of that."""
        function = self._function

        def ready() -> bool:
            if not self.snapshots or not self.active:
                return False
            return not self.unwritten or self.unwritten[0].commit >= self.snapshots[0].meta["view"]["commit"]

        while True:
            await function.until(ready)
            await self.write_snapshot(self.snapshots[0])
            self.snapshots.popleft()
            function.changed.set()

    async def write_snapshot(self, state: State) -> None:
        world = self._function.world
        data = await world.background(state.dump)
        await world.store.create(keys.snapshot(state.version), data)
        world.emit("snapshot", version=state.version, size_bytes=len(data))

    async def watch_for_stop(self) -> None:
        """Look for stop.json now and then."""
        function = self._function
        while self.wish is None:
            await function.world.sleep(STOP_POLL_S)
            if self.active and (data := await function.world.store.get(keys.STOP)) is not None:
                record = wire.load_json(data, keys.STOP)
                self.wish = Stop(record["reason"], record["version"])
                function.changed.set()

    async def finish(self) -> None:
        """Write what is still to be written of a run that has ended, and the result; whoever is first.

        Functions that never held worker 0 do this too if they found the run at its end: its writer may have died.
        """
        function = self._function
        stop = function.head.stop
        assert stop is not None
        if self.active:
            await function.until(lambda: not self.active or not (self.unwritten or self.snapshots))
        elif await function.world.store.head(keys.MODEL) is not None:
            return
        for commit in list(self.unwritten):
            if commit.commit >= function.tail:
                await self.append(commit)
        state = await function.world.compute(function.replica.state)
        await self.write_snapshot(state)
        if stop.reason == "diverged":
            return
        if stop.version is not None and stop.version != state.version:
            data = await function.world.store.get(keys.snapshot(stop.version))
            if data is None:
                raise ReplicaDiverged(f"{keys.snapshot(stop.version)} is the result but does not exist")
            state = function.replica.read(data, keys.snapshot(stop.version))
        await function.world.store.create(keys.MODEL, state.dump_model())

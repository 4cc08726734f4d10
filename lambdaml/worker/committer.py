"""What the function that holds worker 0 does besides: write the log, take snapshots, end the run.

There is no leader to elect. Log entries are created, never replaced; should two functions believe that they hold
worker 0, the loser of each entry finds the winner's in its place and follows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lambdaml.errors import ReplicaDiverged, RunFailed
from lambdaml.events import CommitEvent, SnapshotEvent
from lambdaml.log import keys, wire
from lambdaml.log.reads import demand_present
from lambdaml.log.records import Commit, Digest, Stop
from lambdaml.training.rejections import describe, sampler_of
from lambdaml.worker.machine import MachineState
from lambdaml.worker.reading import read
from lambdaml.worker.restoring import read_machine_state
from lambdaml.worker.retention import Retention

if TYPE_CHECKING:
    from lambdaml.worker.function import Function

STOP_POLL_S = 1.0
"""Seconds between looks for stop.json. With a target there is one more for each snapshot."""

RUN_POLL = 5
"""Each look of this number is for run.json instead: whoever deleted it wants the run to end, too."""

LEAD = 3
"""Snapshots without an evaluation that a run with a target may be ahead of. Evaluation goes through them in order, so
it always has work; and as the run ends when it gets to the target, the wait takes no time from the run."""

FIRST_LOOK_S, MOST_LOOK_S = 0.005, 1.0
"""Seconds between looks for an evaluation that the run waits for: at first, and in the end."""

EVALUATION_S = 60.0
"""That a run waits for one evaluation at most."""

MAX_UNWRITTEN = 16
"""Commits that an deterministic schedule may be ahead of its log."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that is to be written: its version, the values of its state, and its bytes."""

    version: int
    meta: dict[str, Any]
    data: bytes


class Committer:
    """Writes on behalf of all. Idle in functions that do not hold worker 0.

    Attributes:
        wish: a stop that was asked for and is not in the log yet.
        digest: of the newest state whose digest is not in the log yet.
        making_bytes: what a snapshot will take that is about to be made.
        unjudged: versions of the snapshots written here whose evaluations were not seen, in a run with a target.
        retention: deletes what is too much.
    """

    def __init__(self, function: Function) -> None:
        self.wish: Stop | None = None
        self.digest: Digest | None = None
        self.unwritten: deque[Commit] = deque()
        self.snapshots: deque[Snapshot] = deque()
        self.making_bytes = 0
        self.unjudged: deque[int] = deque()
        self.retention = Retention(function)
        self._judged = function.settings.target is not None
        self._must_look = False
        self._written = -1  # version of the newest snapshot that stands here
        self._function = function

    @property
    def active(self) -> bool:
        return 0 in self._function.leases.held

    def note(self, commit: Commit) -> None:
        """A commit of an deterministic schedule is to be written. Functions that do not write keep the newest ones, since
        they may have to go on where the writer died."""
        self.unwritten.append(commit)
        if not self.active and len(self.unwritten) > MAX_UNWRITTEN + 1:
            self.unwritten.popleft()

    @property
    def behind(self) -> bool:
        """Whether commits are made faster than the log is written, or than snapshots are looked at for a target."""
        waiting = len(self.snapshots) + len(self.unjudged) if self._judged and self.wish is None else 0
        return self.active and (len(self.unwritten) >= MAX_UNWRITTEN or waiting > LEAD)

    @property
    def waiting_bytes(self) -> int:
        """What the snapshots take that are being made, or written now or next."""
        return self.making_bytes + sum(len(each.data) for each in self.snapshots) if self.active else 0

    async def take_snapshot(self, state: MachineState, sha256: str) -> None:
        """Have a state with this digest written; it may change when this has returned."""
        data = await self._function.world.background(lambda: state.dump(sha256))
        self.snapshots.append(Snapshot(state.version, state.meta, data))
        self.making_bytes = 0
        self._function.changed.set()

    async def append(self, commit: Commit) -> Commit:
        """Write the log entry, or find out that somebody else did: returns the one that stands."""
        function = self._function
        forecast_s = 0.0 if function.schedule.deterministic else function.channel.forecast_s(commit)
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
        key = keys.log(commit.commit)
        return demand_present(await read(function.world, key, Commit.read, standing), key)

    def duties(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What is to go on beside the workers for as long as the function lives."""
        return self.keep_log(), self.keep_snapshots(), self.keep_lead(), self.watch_for_stop(), self.retention.keep()

    def tell(self, commit: Commit) -> None:
        """Emit the event of a commit that was applied."""
        function, applied = self._function, commit.applied
        rejected = [entry for entry in commit.refused if entry.fate == "rejected"]
        told = CommitEvent(
            commit=commit.commit,
            version=commit.last_version,
            progress=function.replica.log_state.progress,
            fraction=commit.progress,
            updates=len(commit.entries),
            refused=[f"{entry.fate}: {entry.reason}" for entry in commit.refused],
            rejected=[describe(entry, sampler_of(function.settings)) for entry in rejected],
            training_loss=sum(entry.loss for entry in applied) / len(applied) if applied else None,
            staleness=[entry.staleness for entry in applied],
        )
        function.world.emit(told)

    async def keep_log(self) -> None:
        """Write the commits of an deterministic schedule, in order, while the workers go on."""
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
            return not self.unwritten or self.unwritten[0].commit >= self.snapshots[0].meta["log_state"]["commit"]

        while True:
            await function.until(ready)
            await self.write_snapshot(self.snapshots[0])
            version = self.snapshots.popleft().version  # no name for its bytes, which are to be freed
            if self._judged:
                self.unjudged.append(version)
                self._must_look = len(self.unjudged) < LEAD  # from then on, `keep_lead` looks as often
            function.changed.set()

    async def write_snapshot(self, snapshot: Snapshot) -> None:
        world = self._function.world
        data = snapshot.data
        if await world.store.create(keys.snapshot(snapshot.version), data) is None:
            self.retention.wrote(snapshot.meta["log_state"], len(data))
        self._written = snapshot.version
        world.emit(SnapshotEvent(version=snapshot.version, size_bytes=len(data)))

    async def keep_lead(self) -> None:
        """In a run with a target, see to it that evaluation keeps up: note which snapshots have been evaluated, and
        look for the stop that each may have asked for."""
        function = self._function
        while self._judged and self.wish is None:
            await function.until(lambda: self.active and len(self.unjudged) >= LEAD)
            await self._evaluation(self.unjudged[0])
            await self._look_for_stop()
            self.unjudged.popleft()
            function.changed.set()

    async def _evaluation(self, version: int) -> None:
        """Wait until a snapshot has been evaluated, but not for ever: perhaps nobody evaluates."""
        world, patience_s = self._function.world, self._function.settings.patience_s
        end_s, pause_s = world.now() + min(EVALUATION_S, patience_s / 2), FIRST_LOOK_S
        while self.wish is None and world.now() < end_s:
            if await world.store.head(keys.metrics(version)) is not None:
                return
            await world.sleep(pause_s * world.uniform(1.0, 1.5))
            pause_s = min(1.5 * pause_s, MOST_LOOK_S)

    async def watch_for_stop(self) -> None:
        """Look for stop.json now and then, and whenever a snapshot of a run with a target was written."""
        function = self._function
        due_s, looks = function.world.now() + STOP_POLL_S, 0
        while self.wish is None:
            asked = await function.until(lambda: self._must_look, max(0.0, due_s - function.world.now()))
            if not asked:
                due_s, looks = function.world.now() + STOP_POLL_S, looks + 1
            self._must_look = False
            if self.active and (asked or looks % RUN_POLL):
                await self._look_for_stop()
            elif self.active:
                await self._demand_run()

    async def _demand_run(self) -> None:
        """Raises RunFailed where run.json is gone."""
        if await self._function.world.store.head(keys.RUN) is None:
            raise RunFailed(f"{keys.RUN} is not there any more: was the run deleted while it went on?")

    async def _look_for_stop(self) -> None:
        function = self._function
        if (record := await read(function.world, keys.STOP, wire.load_json)) is not None:
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
        state = await function.world.compute(function.replica.shared_state)
        if state.version != self._written:
            data = await function.world.background(state.dump)
            await self.write_snapshot(Snapshot(state.version, state.meta, data))
            del data
        if stop.reason == "diverged":
            return
        if stop.version is not None and stop.version != state.version:
            found = await read_machine_state(function.world, function.replica, keys.snapshot(stop.version))
            if found is None:
                raise ReplicaDiverged(f"{keys.snapshot(stop.version)} is the result but does not exist")
            state = found
        await function.world.store.create(keys.MODEL, state.dump_model())

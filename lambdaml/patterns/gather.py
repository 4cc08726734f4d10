"""Gather: every function reads every update. N puts and N(N-1) gets a round, no list, no delete.

An update's key is computable, so nobody has to be told that it exists: a reader looks when the writer's pace says
that it should be there (`lambdaml.pace`). A store answers a look that finds the update with the update itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from lambdaml import keys
from lambdaml.errors import BadObject, LeaseLost, RunFailed
from lambdaml.pace import Backoff, Pace
from lambdaml.reads import read
from lambdaml.records import Commit, Update, damaged
from lambdaml.retention import passed
from lambdaml.storage.protocol import Bytes
from lambdaml.worlds import Task

if TYPE_CHECKING:
    from lambdaml.function import Function

LOOKAHEAD = 8
"""Rounds that a replica which is behind reads ahead of those it has applied."""

_FIRST_LOOK_S = 2.0
"""How long a function that knows nobody's pace yet waits for an update of its own before it looks for others'."""

SMALL_BYTES = 2**20
"""An update of more than this is checked in a thread of its own."""


class Gather:
    """The updates that this function knows and that have no fate yet, and the tasks that look for more."""

    def __init__(self, function: Function) -> None:
        self.arrived: dict[tuple[int, int], Update] = {}
        self.news = 0
        self.latency_s = 0.01
        self.gets = 0
        self.polls = 0
        self.bytes_received = 0
        self._get_s = 0.0
        self._function = function
        self._tasks: dict[int, Task] = {}
        self._paces: dict[int, Pace] = {}

    def look_for(self, workers: Collection[int]) -> None:
        """Look for the updates of exactly these workers from now on."""
        for worker in set(self._tasks) - set(workers):
            self._tasks.pop(worker).cancel()
        for worker in set(workers) - set(self._tasks):
            self._tasks[worker] = self._function.spawn(self._watch(worker))

    def add(self, update: Update) -> None:
        """An update became known: looked up, or published here."""
        if update.seq >= self._function.head.fated[update.worker] and update.id not in self.arrived:
            self.arrived[update.id] = update
            update.arrived_s = self._function.world.now()
            if update.upload_s is not None:
                self._pace(update.worker).said(update.ready_s + update.upload_s)
            self.news += 1
            self._function.heard(update.worker)
            self._function.changed.set()

    def take(self, commit: Commit) -> dict[tuple[int, int], Update]:
        """Hand over what is known of the updates that get their fate in this commit, and forget them."""
        taken = [self.arrived.pop((entry.worker, entry.seq), None) for entry in commit.entries]
        return {update.id: update for update in taken if update is not None}

    async def load(self, commit: Commit, known: dict[tuple[int, int], Update]) -> dict[tuple[int, int], Update]:
        """All updates that the commit applies; those not known yet are read, all at once."""
        missing = [entry for entry in commit.applied if (entry.worker, entry.seq) not in known]
        for update in await self._function.world.gather(*[self._read(e.worker, e.seq) for e in missing]):
            known[update.id] = update
        return known

    def forecast_s(self, commit: Commit) -> float:
        """Seconds from now until enough updates for another commit after this one will have been read."""
        function, now = self._function, self._function.world.now()
        fated = {entry.worker for entry in commit.entries}
        ready = []
        for worker in range(function.settings.workers):
            start = now if worker in fated else function.fated_at[worker]
            ready.append(max(0.0, start + (self._pace(worker).delay_s() or 0.0) - now))
        return sorted(ready)[function.schedule.needs(len(ready)) - 1] + self.latency_s

    def _pace(self, worker: int) -> Pace:
        return self._paces.setdefault(worker, Pace())

    async def recover(self, worker: int) -> int:
        """Find what earlier functions published for a worker that is ours now; the sequence number to go on with."""
        function = self._function
        if not function.schedule.agreed:
            await function.until(lambda: function.queued.commit >= function.tail)
        seq = function.head.fated[worker]
        generation = function.leases.held.get(worker)
        if generation is None:
            raise LeaseLost(f"worker {worker} was taken over before it could begin")
        if generation == 1:
            return seq
        while True:
            await function.until(lambda: seq < function.head.fated[worker] + LOOKAHEAD)
            seq = max(seq, function.head.fated[worker])
            data = await self._get(worker, seq)
            if data is None and seq >= function.head.fated[worker]:
                return seq
            if data is not None:
                self.add(await self.unpack(data, worker, seq))
                function.warm = True
                seq += 1

    async def _watch(self, worker: int) -> None:
        function, pace = self._function, self._pace(worker)
        seq, base = function.head.fated[worker], -1
        while True:
            seq = max(seq, function.head.fated[worker])
            if (worker, seq) not in self.arrived:
                await function.until(self._may_exist(worker, seq, base))
                update = await self._look(worker, seq, pace) if seq >= function.head.fated[worker] else None
                if update is None:
                    continue
                self.add(update)
                base = update.base
            seq += 1

    def _may_exist(self, worker: int, seq: int, base: int) -> Callable[[], bool]:
        """Whether the update may stand in the bucket. It certainly did if it has its fate: a function that reads the
        log takes in many commits at once, so what holds after one of them need not hold when we look."""
        function = self._function

        def check() -> bool:
            if seq < function.head.fated[worker]:
                return True
            ahead = function.schedule.agreed and seq < min(function.tail, function.head.fated[worker] + LOOKAHEAD)
            return ahead or function.schedule.may_start(function.head, worker, seq, base)

        return check

    async def _look(self, worker: int, seq: int, pace: Pace) -> Update | None:
        """Wait for an update; None if it got its fate meanwhile."""
        function, world = self._function, self._function.world
        since = world.now()
        behind = function.schedule.agreed and seq < function.tail
        if not behind:
            delay_s = pace.delay_s()
            if delay_s is None:
                await function.until(lambda: function.warm, timeout_s=_FIRST_LOOK_S)
            elif delay_s > 0:
                await world.sleep(delay_s)
        backoff = Backoff(pace.scale_s(self.latency_s))
        first = world.now()
        missed = False
        while seq >= function.head.fated[worker]:
            looked = world.now()
            data = await self._get(worker, seq)
            if data is not None:
                if not behind:
                    pace.looked(looked - first if missed else None, self.latency_s)
                update = await self.unpack(data, worker, seq)
                update.download_s = self._get_s
                return update
            missed = True
            if function.waits_for(worker, since) and await passed(world, function.queued.commit):
                raise _missing(worker, seq)
            await world.sleep(backoff.next_s(world.uniform(0, 1)))
        return None

    async def _read(self, worker: int, seq: int) -> Update:
        """An update that the log says exists."""
        data = await self._get(worker, seq)
        if data is None:
            raise _missing(worker, seq)
        return await self.unpack(data, worker, seq)

    async def _get(self, worker: int, seq: int) -> Bytes | None:
        world = self._function.world
        start = world.now()
        data = await world.store.get(keys.update(worker, seq))
        elapsed_s = world.now() - start
        if data is None:
            self.polls += 1
            self.latency_s += 0.2 * (elapsed_s - self.latency_s)
        else:
            self._get_s = elapsed_s
            self.gets += 1
            self.bytes_received += len(data)
        return data

    async def unpack(self, data: Bytes, worker: int, seq: int) -> Update:
        """Read and check an update. One that stays damaged is returned with its fault, so that it is rejected."""
        world, check = self._function.world, self._function.replica.check
        try:
            update = await read(world, keys.update(worker, seq), Update.read, data)
        except BadObject:
            update = None
        if update is None:
            return damaged(worker, seq, len(data))
        found, small = update, update.size_bytes <= SMALL_BYTES
        found.fault = check(found) if small else await world.background(lambda: check(found))
        return found


def _missing(worker: int, seq: int) -> RunFailed:
    """Ends the run, unless a horizon has passed this function; see `lambdaml.retention`."""
    return RunFailed(f"{keys.update(worker, seq)} is in the log but not in the bucket: was it deleted?")

"""Gather: every function reads every update. N puts and N(N-1) gets a round, no list, no delete.

An update's key is computable, so nobody has to be told that it exists: a reader looks when the writer's pace says
that it should be there (`lambdaml.worker.poll_timer`). A store answers a look that finds the update with the update itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from lambdaml.errors import BadObject, LeaseLost, RunFailed
from lambdaml.log import keys
from lambdaml.log.records import Commit, Update, damaged
from lambdaml.storage.protocol import Bytes
from lambdaml.worker.poll_timer import Backoff, PollTimer
from lambdaml.worker.reading import read
from lambdaml.worker.retention import passed
from lambdaml.worker.window import Id, Window
from lambdaml.worker.world import Task

if TYPE_CHECKING:
    from lambdaml.worker.function import Function

LOOKAHEAD = 8
"""Rounds that a function which is behind reads ahead of those that it has decided, if they fit into its window."""

_FIRST_LOOK_S = 2.0
"""How long a function that knows nobody's pace yet waits for an update of its own before it looks for others'."""

_SMALL_BYTES = 2**20
"""An update of more than this is checked in a thread of its own."""


class Gather:
    """The updates that this function knows and that have no fate yet, and the tasks that look for more.

    Attributes:
        window: what updates take in this function's memory, those that are decided included.
    """

    def __init__(self, function: Function) -> None:
        self.window = Window(function.replica.update_bytes, lambda: function.committer.waiting_bytes)
        self.arrived: dict[tuple[int, int], Update] = {}
        self.news = 0
        self.latency_s = 0.01
        self.gets = 0
        self.polls = 0
        self.bytes_received = 0
        self._get_s = 0.0
        self._function = function
        self._tasks: dict[int, Task] = {}
        self._paces: dict[int, PollTimer] = {}

    def look_for(self, workers: Collection[int]) -> None:
        """Look for the updates of exactly these workers from now on."""
        for worker in set(self._tasks) - set(workers):
            self._tasks.pop(worker).cancel()
        for worker in set(workers) - set(self._tasks):
            self._tasks[worker] = self._function.spawn(self._watch(worker))

    def add(self, update: Update) -> None:
        """An update became known: looked up, or published here."""
        if update.seq >= self._function.head.next_seq[update.worker] and update.id not in self.arrived:
            self.window.hold(update, self._function.replica.held_bytes(update))
            self.arrived[update.id] = update
            update.arrived_s = self._function.world.now()
            if update.upload_s is not None:
                self._pace(update.worker).said(update.ready_s + update.upload_s)
            self.news += 1
            self._function.heard(update.worker)
            self._function.changed.set()
        else:
            self.release(update.id)
            update.let_go()

    def take(self, commit: Commit) -> dict[tuple[int, int], Update]:
        """Hand over what is known of the updates that get their fate in this commit, and forget them."""
        taken = [self.arrived.pop((entry.worker, entry.seq), None) for entry in commit.entries]
        return {update.id: update for update in taken if update is not None}

    def forecast_s(self, commit: Commit) -> float:
        """Seconds from now until enough updates for another commit after this one will have been read."""
        function, now = self._function, self._function.world.now()
        decided = {entry.worker for entry in commit.entries}
        ready = []
        for worker in range(function.settings.workers):
            start = now if worker in decided else function.decided_at[worker]
            ready.append(max(0.0, start + (self._pace(worker).delay_s() or 0.0) - now))
        return sorted(ready)[function.schedule.needs(len(ready)) - 1] + self.latency_s

    def _pace(self, worker: int) -> PollTimer:
        return self._paces.setdefault(worker, PollTimer())

    async def recover(self, worker: int) -> int:
        """Find what earlier functions published for a worker that is ours now; the sequence number to go on with."""
        function = self._function
        if not function.schedule.deterministic:
            await function.until(lambda: function.queued.commit >= function.tail)
        seq = function.head.next_seq[worker]
        generation = function.leases.held.get(worker)
        if generation is None:
            raise LeaseLost(f"worker {worker} was taken over before it could begin")
        if generation == 1:
            return seq
        while True:
            await function.until(lambda: seq < function.head.next_seq[worker] + LOOKAHEAD)
            seq = max(seq, function.head.next_seq[worker])
            if not await self._room(worker, seq):
                continue
            update = await self._fetch(worker, seq)
            if update is None and seq >= function.head.next_seq[worker]:
                if await passed(function.world, function.head.commit):  # it may have been deleted
                    raise _missing(worker, seq)
                return seq
            if update is not None:
                self.add(update)
                function.warm = True
                seq += 1

    async def _watch(self, worker: int) -> None:
        function, pace = self._function, self._pace(worker)
        seq, base = function.head.next_seq[worker], -1
        while True:
            seq = max(seq, function.head.next_seq[worker])
            if (worker, seq) not in self.arrived:
                await function.until(self._may_exist(worker, seq, base))
                update = await self._look(worker, seq, pace) if seq >= function.head.next_seq[worker] else None
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
            if seq < function.head.next_seq[worker]:
                return True
            ahead = function.schedule.deterministic and seq < min(
                function.tail, function.head.next_seq[worker] + self._ahead()
            )
            return ahead or function.schedule.may_start(function.head, worker, seq, base)

        return check

    def _ahead(self) -> int:
        """Rounds that may be read ahead of the decided ones: as many as fit into the window."""
        round_bytes = max(1, self._function.settings.workers * self.window.update_bytes)
        return max(1, min(LOOKAHEAD, self.window.limit_bytes // round_bytes))

    async def _room(self, worker: int, seq: int) -> bool:
        """Wait until an update may be read, and return True; or until it has its fate, and need not be.

        What the next decision may need is read even if others must go, but only when there is nothing left to apply,
        which would make room by itself.
        """
        function = self._function

        def room() -> bool:
            next_seq = function.head.next_seq[worker]
            needed = seq == next_seq or not function.schedule.deterministic
            return seq < next_seq or self.window.fits(over=needed and not function.backlog)

        await function.until(room)
        return seq >= function.head.next_seq[worker]

    async def _fetch(self, worker: int, seq: int) -> Update | None:
        """Read and check an update, if it is there; it has its reservation in the window until it is added."""
        self.window.reserve((worker, seq))
        update = None
        try:
            data = await self._get(worker, seq)
            get_s = self._get_s
            if data is not None:
                update = await self.unpack(data, worker, seq)
                update.download_s = get_s
        finally:
            if update is None:
                self.release((worker, seq))
        return update

    def release(self, update: Id) -> None:
        """Give back the room that was reserved for an update."""
        full = not self.window.fits()
        self.window.release(update)
        if full:
            self._function.changed.set()

    async def _look(self, worker: int, seq: int, pace: PollTimer) -> Update | None:
        """Wait for an update; None if it got its fate meanwhile."""
        function, world = self._function, self._function.world
        since = world.now()
        behind = function.schedule.deterministic and seq < function.tail
        if not behind:
            delay_s = pace.delay_s()
            if delay_s is None:
                await function.until(lambda: function.warm, timeout_s=_FIRST_LOOK_S)
            elif delay_s > 0:
                await world.sleep(delay_s)
        backoff = Backoff(pace.scale_s(self.latency_s))
        first = world.now()
        missed = False
        while seq >= function.head.next_seq[worker]:
            if not await self._room(worker, seq):
                break
            looked = world.now()
            update = await self._fetch(worker, seq)
            if update is not None:
                if not behind:
                    pace.looked(looked - first if missed else None, self.latency_s)
                return update
            missed = True
            if function.waits_for(worker, since) and await passed(world, function.queued.commit):
                raise _missing(worker, seq)
            await world.sleep(backoff.next_s(world.uniform(0, 1)))
        return None

    async def read(self, worker: int, seq: int) -> Update:
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
        found, small = update, update.size_bytes <= _SMALL_BYTES
        found.fault = check(found) if small else await world.background(lambda: check(found))
        return found


def _missing(worker: int, seq: int) -> RunFailed:
    """Ends the run, unless a horizon has passed this function; see `lambdaml.log.retention`."""
    return RunFailed(f"{keys.update(worker, seq)} is in the log but not in the bucket: was it deleted?")

"""Gather: every function reads every update. A round takes N puts and N(N-1) gets, no list and no delete.

An update's key is computable, so nobody has to be told that it exists: a reader looks when the writer's poll timer says
that it should exist (`lambdaml.worker.poll_timer`). A look that finds the update returns the update itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from lambdaml.errors import LeaseLost
from lambdaml.log import keys
from lambdaml.log.records import Commit, Update
from lambdaml.parts import Parts
from lambdaml.patterns import Exchange
from lambdaml.patterns.plain import PlainExchange
from lambdaml.worker.checking import checked_update
from lambdaml.worker.log_reader import LogReader
from lambdaml.worker.looking import Looks, missing
from lambdaml.worker.machine import Total
from lambdaml.worker.poll_timer import FLOATS, PollTimer
from lambdaml.worker.retention import passed
from lambdaml.worker.shared import Shared
from lambdaml.worker.window import Id
from lambdaml.worker.world import Task

LOOKAHEAD = 8
"""A function that is behind reads this many rounds ahead of those that it has decided, if they fit into its window."""


class Gather:
    """Every function reads every update."""

    def bracket(self, workers: int) -> None:
        """Return None: it adds up in any bracket."""

    def slices(self, workers: int) -> int:
        """Return 0: updates are written as a whole."""
        return 0

    def misfit(self, parts: Parts, workers: int) -> str:
        """Return "": it fits every run."""
        return ""

    def exchange(self, shared: Shared) -> Exchange:
        """Return one function's part. Where workers have models of their own, it reads those of their groups alone."""
        if shared.replica.own is None:
            return GatherExchange(shared)
        from lambdaml.patterns.grouped import GroupExchange

        return GroupExchange(shared)


class GatherExchange(PlainExchange):
    """The updates that this function knows and that have no fate yet, and the tasks that look for more."""

    def __init__(self, shared: Shared) -> None:
        self.arrived: dict[Id, Update] = {}
        self.news = 0
        self._shared = shared
        self._looks = Looks(shared)
        self._reader = LogReader(shared)
        self._decided_at = [shared.world.now()] * shared.settings.workers
        self._tasks: dict[int, Task] = {}
        self._paces: dict[int, PollTimer[float]] = {}
        self._first: dict[int, int] = {}

    def attend(self, deciding: bool) -> None:
        """Look for the updates of all workers that this function does not hold, if it must know them to decide."""
        self.look_for(self._shared.others if deciding else ())

    def look_for(self, workers: Collection[int]) -> None:
        """Look for the updates of exactly these workers from now on."""
        for worker in set(self._tasks) - set(workers):
            self._tasks.pop(worker).cancel()
        for worker in set(workers) - set(self._tasks):
            self._tasks[worker] = self._shared.spawn(self._watch(worker))

    def add(self, update: Update) -> None:
        """Note that an update became known: it was read, or published by this function."""
        shared = self._shared
        if update.seq >= shared.known.next_seq[update.worker] and update.id not in self.arrived:
            shared.window.hold(update, shared.replica.held_bytes(update))
            self.arrived[update.id] = update
            update.arrived_s = shared.world.now()
            if update.upload_s is not None:
                self._pace(update.worker).said(update.ready_s + update.upload_s)
            self.news += 1
            shared.leases.heard(update.worker, now=self._fresh(update))
            shared.changed()
        else:
            shared.release(update.id)
            update.let_go()

    def _fresh(self, update: Update) -> bool:
        """Return whether an update was published lately: no commit with it was known before, and it is not the first such one of its worker,
        which may have been there for long."""
        if self._shared.known.commit < self._shared.news_from:
            return False
        return update.seq > self._first.setdefault(update.worker, update.seq)

    def take(self, commit: Commit) -> dict[Id, Update]:
        """Return the known updates that get their fate in this commit, and forget them."""
        now, taken = self._shared.world.now(), {}
        for entry in commit.entries:
            self._decided_at[entry.worker] = now
            if (update := self.arrived.pop((entry.worker, entry.seq), None)) is not None:
                taken[update.id] = update
        return taken

    def total(self, commit: Commit) -> Total | None:
        """Return None: the replica adds up the updates itself."""
        return None

    async def next(self) -> Commit | None:
        """Return the log entry that follows the known ones, or None if it does not exist yet."""
        return await self._reader.next()

    def forecast_s(self, commit: Commit) -> float:
        """Return the seconds from now until enough updates for another commit after this one will have been read."""
        shared, now = self._shared, self._shared.world.now()
        decided = {entry.worker for entry in commit.entries}
        ready = []
        for worker in range(shared.settings.workers):
            start = now if worker in decided else self._decided_at[worker]
            ready.append(max(0.0, start + (self._pace(worker).delay_s() or 0.0) - now))
        return sorted(ready)[shared.schedule.needs(len(ready)) - 1] + shared.latency_s

    def counted(self) -> dict[str, int]:
        """Return the reads since the last call."""
        return self._looks.counted()

    def _pace(self, worker: int) -> PollTimer[float]:
        return self._paces.setdefault(worker, PollTimer(FLOATS))

    async def recover(self, worker: int) -> int:
        """Find the updates that earlier functions published for a worker that this function now holds.

        Returns:
            The sequence number to go on with.
        """
        shared = self._shared
        if not shared.schedule.deterministic:
            await shared.until(lambda: shared.queued.commit >= shared.tail)
        seq = shared.known.next_seq[worker]
        generation = shared.leases.held.get(worker)
        if generation is None:
            raise LeaseLost(f"worker {worker} was taken over before it could begin")
        if generation == 1:
            return seq
        while True:
            await shared.until(lambda: seq < shared.known.next_seq[worker] + LOOKAHEAD)
            seq = max(seq, shared.known.next_seq[worker])
            if not await self._room(worker, seq):
                continue
            update = await self._fetch(worker, seq)
            if update is None and seq >= shared.known.next_seq[worker]:
                if await passed(shared.world, shared.known.commit):  # it may have been deleted
                    raise missing(keys.update(worker, seq))
                return seq
            if update is not None:
                self.add(update)
                shared.warm = True
                seq += 1

    async def _watch(self, worker: int) -> None:
        shared, pace = self._shared, self._pace(worker)
        seq, base, since_s = shared.known.next_seq[worker], -1, math.inf
        while True:
            seq = max(seq, shared.known.next_seq[worker])
            if (worker, seq) not in self.arrived:
                await shared.until(self._may_exist(worker, seq, base))
                since_s = self._begun_s(worker, seq, since_s)
                update = await self._look(worker, seq, pace, since_s) if seq >= shared.known.next_seq[worker] else None
                if update is None:
                    continue
                self.add(update)
                base = update.base
                since_s = shared.world.now() - update.download_s - (update.upload_s or 0.0)
            seq += 1

    def _may_exist(self, worker: int, seq: int, base: int) -> Callable[[], bool]:
        """Return a condition that holds if the update may be in the bucket.

        The update was certainly there if it has its fate: a function that reads the log takes in many commits at once,
        so a condition that held after one of them need not hold when it is evaluated.
        """
        shared = self._shared

        def check() -> bool:
            if seq < shared.known.next_seq[worker]:
                return True
            ahead = shared.schedule.deterministic and seq < min(
                shared.tail, shared.known.next_seq[worker] + self._ahead()
            )
            return ahead or shared.schedule.may_start(shared.known, worker, seq, base)

        return check

    def _ahead(self) -> int:
        """Return the number of rounds that may be read ahead of the decided ones: as many as fit into the window."""
        round_bytes = max(1, self._shared.settings.workers * self._shared.window.update_bytes)
        return max(1, min(LOOKAHEAD, self._shared.window.limit_bytes // round_bytes))

    async def _room(self, worker: int, seq: int) -> bool:
        """Wait until an update may be read, and return True, or until it has its fate and need not be read.

        An update that the next decision may need is read even if others must go, but only when nothing is left to
        apply, which would make room by itself.
        """
        shared = self._shared

        def room() -> bool:
            next_seq = shared.known.next_seq[worker]
            needed = seq == next_seq or not shared.schedule.deterministic
            return seq < next_seq or shared.window.fits(over=needed and not shared.unapplied)

        await shared.until(room)
        return seq >= shared.known.next_seq[worker]

    async def _fetch(self, worker: int, seq: int) -> Update | None:
        """Read and check an update, if it exists. It keeps its reservation in the window until it is added."""
        self._shared.window.reserve((worker, seq))
        update = None
        try:
            data, get_s = await self._looks.get(keys.update(worker, seq))
            if data is not None:
                update = await checked_update(self._shared, data, worker, seq)
                update.download_s = get_s
        finally:
            if update is None:
                self._shared.release((worker, seq))
        return update

    def _begun_s(self, worker: int, seq: int, computed_s: float) -> float:
        """Return the moment at which a worker began to compute an update, if that may have been before now, as far as this
        function can tell: it had computed the one before, and applied the commit that this one rests on."""
        delay = self._shared.replica.parts.delay
        if not delay:
            return math.inf
        rests_on_newest = self._shared.known.next_seq[worker] == seq - delay
        return max(computed_s, self._decided_at[worker]) if rests_on_newest else computed_s

    async def _look(self, worker: int, seq: int, pace: PollTimer[float], since_s: float) -> Update | None:
        """Wait for an update and return it, or None if it got its fate meanwhile."""
        shared = self._shared

        async def fetch() -> Update | None:
            return await self._fetch(worker, seq) if await self._room(worker, seq) else None

        return await self._looks.find(
            keys.update(worker, seq),
            fetch,
            pace,
            lambda: seq >= shared.known.next_seq[worker],
            worker=worker,
            behind=shared.schedule.deterministic and seq < shared.tail,
            since_s=since_s,
        )

    async def read(self, worker: int, seq: int) -> Update:
        """Return an update that exists according to the log."""
        data, _ = await self._looks.get(keys.update(worker, seq))
        if data is None:
            raise missing(keys.update(worker, seq))
        return await checked_update(self._shared, data, worker, seq)

"""The common part of patterns in which some functions add up a round for all: each function gets its sum with the rows of
its updates, from which it makes the commit.

Whoever makes a shared object says in it how long each update had been there when the put began. So a reader can tell
when to look: it counts from when it gave its own update to the round. If it counted from the start of the round, a
function that is late would delay the sum, learn that, and be later in the next round.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from lambdaml.log import keys
from lambdaml.log.partial import Partial
from lambdaml.log.reads import demand_present
from lambdaml.log.records import Commit, Update
from lambdaml.patterns.gather import GatherExchange
from lambdaml.patterns.plain import PlainExchange
from lambdaml.worker.looking import Looks
from lambdaml.worker.machine import Summed
from lambdaml.worker.poll_timer import FLOATS, PollTimer, Timer
from lambdaml.worker.reading import read
from lambdaml.worker.shared import Shared
from lambdaml.worker.window import Id

T = TypeVar("T")


class RoundExchange(PlainExchange):
    """One function's part in rounds that are added up once."""

    def __init__(self, shared: Shared) -> None:
        self.arrived: dict[Id, Update] = {}
        self.news = 0
        self._shared = shared
        self._looks = Looks(shared)
        self._updates = GatherExchange(shared)
        self._own: dict[Id, Update] = {}  # headers of updates that were published here and are added up elsewhere
        self._total: Partial | None = None
        self._paces: dict[str, PollTimer[float]] = {}
        self._uploads_s: dict[str, float] = {}
        self._made: dict[str, Partial] = {}
        self._wrote: dict[str, float] = {}

    def pace(self, name: str) -> Timer:
        """Return the timer of the sum of this name."""
        return self._paces.setdefault(name, PollTimer(FLOATS))

    def makes(self, commit: int, name: str) -> bool:
        """Return whether this function makes the sum of this name in a round."""
        raise NotImplementedError

    def needed(self, worker: int) -> bool:
        """Return whether the vectors of a worker that is held here are added up here."""
        raise NotImplementedError

    def add(self, update: Update) -> None:
        """Note that an update was published by this function."""
        shared = self._shared
        if self.needed(update.worker):
            self._updates.add(update)
        else:
            shared.release(update.id)
            update.let_go()
            self._own[update.id], update.arrived_s = update, shared.world.now()
            shared.changed()

    def take(self, commit: Commit) -> dict[Id, Update]:
        """Return the updates that get their fate in this commit, and forget them."""
        for update in self._updates.take(commit).values():
            self._shared.window.free(update)
        for entry in commit.entries:
            self._own.pop((entry.worker, entry.seq), None)
        taken, self.arrived = self.arrived, {}
        return taken

    def total(self, commit: Commit) -> Summed | None:
        """Return the sum of the updates that this commit applies, and forget it."""
        total, self._total = self._total, None
        return None if total is None else Summed(total)

    async def next(self) -> Commit | None:
        """Return the log entry that follows; nobody asks, since every function makes it."""
        return await self._updates.next()

    async def recover(self, worker: int) -> int:
        """Find the updates that earlier functions published for a worker that this function now holds."""
        return await self._updates.recover(worker)

    async def read(self, worker: int, seq: int) -> Update:
        """Return an update that exists according to the log."""
        return await self._updates.read(worker, seq)

    def forecast_s(self, commit: Commit) -> float:
        """Return 0: nobody waits for the log."""
        return 0.0

    def counted(self) -> dict[str, int]:
        """Return the reads since the last call."""
        updates = self._updates.counted()
        return {name: count + updates[name] for name, count in self._looks.counted().items()}

    def known(self, update: Id) -> bool:
        """Return whether an update was published or read here, and has no fate yet."""
        return update in self._updates.arrived or update in self._own

    async def sum_up(self, work: Callable[[], T]) -> T:
        """Run work on a sum, beside the computation of the next updates if the schedule lets that go on."""
        world = self._shared.world
        return await (world.background if self._shared.replica.parts.delay else world.compute)(work)

    def given_s(self) -> float:
        """Return the moment at which this function gave the last of its updates to the round, and the last of the sums
        that it adds up; infinity if it has not."""
        wrote = [self._wrote_s(self._shared.known.commit, name) for name in self.adds()]
        return max([self._gave_s(), *(math.inf if moment is None else moment for moment in wrote)])

    def _gave_s(self) -> float:
        given = (math.inf if each is None else each.arrived_s or math.inf for each in self._given())
        return max(given, default=math.inf)

    def adds(self) -> list[str]:
        """Return the names of the sums that this function gives to a round besides its updates, if these wait for it."""
        return []

    def _wrote_s(self, commit: int, name: str) -> float | None:
        """Return the moment at which a sum of this round was written here; None if it was not."""
        made = self._made.get(name)
        return self._wrote[name] if made is not None and made.commit == commit else None

    def begun_s(self) -> float:
        """Return the moment at which this function began the last of these updates; infinity if that is not known."""
        return max(
            (math.inf if each is None else (each.arrived_s or math.inf) - _made_s(each) for each in self._given()),
            default=math.inf,
        )

    def _given(self) -> list[Update | None]:
        known, arrived = self._shared.known, self._updates.arrived
        own = [(worker, known.next_seq[worker]) for worker in self._shared.leases.held]
        return [arrived.get(update) or self._own.get(update) for update in own]

    def gave(self, commit: int) -> bool:
        """Return whether this function has given all its updates to the round, or the round is over."""
        known, held = self._shared.known, self._shared.leases.held
        given = all(self.known((worker, known.next_seq[worker])) for worker in held)
        return known.commit > commit or (given and all(self._wrote_s(commit, name) is not None for name in self.adds()))

    def arrive(self, total: Partial) -> None:
        """Note the sum of the present round, and that all its updates are known."""
        shared = self._shared
        if total.commit != shared.known.commit or self._total is not None:
            return
        self._total = total
        for update in total.updates:
            update.arrived_s = shared.world.now()
            self.arrived[update.id] = update
        self.news += 1
        shared.warm = True
        shared.changed()

    async def obtain(self, commit: int, name: str, worker: int, *, since_given: bool) -> Partial | None:
        """Return the sum of this name in a round, made here or elsewhere; None if the round is over before.

        Args:
            worker: The worker whose holder makes it.
            since_given: Whether it rests on what this function gives to the round; see `_find`.
        """
        known = self._shared.known

        def made() -> bool:
            return name in self._made and self._made[name].commit == commit

        while known.commit <= commit:
            if self.makes(commit, name):
                await self._shared.until(lambda: made() or known.commit > commit or not self.makes(commit, name))
                if made():
                    return self._made[name]
            elif (found := await self._find(commit, name, worker, since_given)) is not None:
                return found
        return None

    async def write(self, partial: Partial, name: str, began: float) -> Partial:
        """Create a sum's object, and note and return the one that then exists.

        `waited_s` of the sum has the moments at which its updates were there; `began` is when the round began here.
        """
        world = self._shared.world
        now = world.now()
        partial.waited_s = [now - moment for moment in partial.waited_s]
        partial.ready_s, partial.upload_s = now - began, self._uploads_s.get(name)
        key, data = keys.reduced(partial.commit, name), await world.background(partial.pack)
        standing = await world.store.create(key, data)
        self._uploads_s[name] = world.now() - now
        if standing is not None:
            partial = demand_present(await read(world, key, Partial.read, standing), key)
        self._made[name], self._wrote[name] = partial, world.now()
        self._shared.changed()
        return partial

    async def _find(self, commit: int, name: str, worker: int, since_given: bool) -> Partial | None:
        """Look for another function's sum until it is there; None if the round is over before, or it is made here.

        If the sum rests on what this function gives to the round, its time counts from then, or else from the start.
        """
        shared, key = self._shared, keys.reduced(commit, name)
        pace = self.pace(name)
        behind = commit < shared.tail
        if since_given and not behind:
            await shared.until(lambda: self.gave(commit) or self.makes(commit, name), timeout_s=shared.settings.lease_s)

        given_s, gave_s = (self.given_s(), self._gave_s()) if since_given else (math.inf, math.inf)

        async def fetch() -> Partial | None:
            data, _ = await self._looks.get(key)
            return None if data is None else await read(shared.world, key, Partial.read, data)

        found = await self._looks.find(
            key,
            fetch,
            pace,
            lambda: shared.known.commit <= commit and not self.makes(commit, name),
            worker=worker,
            behind=behind,
            since_s=given_s,
        )
        if found is not None and found.upload_s is not None:
            ready_s = self._least_wait_s(found) + shared.latency_s if since_given else found.ready_s
            if math.isfinite(given_s):
                ready_s = max(0.0, ready_s - (given_s - gave_s))
            pace.said(ready_s + found.upload_s)
        return found

    def _least_wait_s(self, found: Partial) -> float:
        """Return how long the last of this function's updates had been there when the put of the sum began."""
        held = self._shared.leases.held
        pairs = (
            enumerate(found.waited_s)
            if not found.updates
            else zip(map(_worker, found.updates), found.waited_s, strict=True)
        )
        return min((waited_s for worker, waited_s in pairs if worker in held), default=0.0)


def _worker(update: Update) -> int:
    return update.worker


def _made_s(update: Update) -> float:
    """Return the seconds from the start of an update until it existed."""
    return update.ready_s + (update.upload_s or 0.0)

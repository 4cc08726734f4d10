"""Leases decide which function works as which worker, by create-only puts alone.

`leases/{worker}/{generation}` is won by whoever creates the next generation. The generation is the fencing token that
every update carries. A lease holds for `duration_s` after the worker's last sign of life, which is the lease object
itself or the worker's newest update; so a working function pays for no heartbeat. All times are the store's: the first
object that a function writes tells it how far its own clock is off.

While the store is down nobody can renew, so afterwards leases have run out although their holders are well. Each
function notices an outage by its own failed requests. It renews the leases that it holds with the first request that is
answered, and leaves those of others alone for as long as a lease lasts.

A function that takes over a worker meant for another function is its backup, and says so in the lease. The other
function may then take the worker back at any time, and the backup looks for that once a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from lambdaml.errors import LeaseLost
from lambdaml.log import keys
from lambdaml.log.lease import Lease
from lambdaml.worker.reading import read
from lambdaml.worker.world import World


@dataclass(frozen=True, slots=True)
class Before:
    """What a function knew that left, for the one that goes on in its place.

    Attributes:
        commits: The number of commits that it knew.
        silent: The seconds for which it had not heard of workers that it did not hold.
    """

    commits: int = 0
    silent: Mapping[int, float] = field(default_factory=dict)


class Leases:
    """The leases that one function holds.

    Args:
        function: This function's name, unique among all functions that ever work on the run.
        dead: The functions that the engine saw die; their leases are free.

    Attributes:
        runs_out: For each worker whose lease could not be taken, the time at which that lease runs out, by this
            function's clock and as far as its holder's latest sign of life was known.
    """

    def __init__(self, world: World, function: str, duration_s: float, dead: Collection[str] = ()) -> None:
        self.held: dict[int, int] = {}
        self.dead = set(dead)
        self._world = world
        self._function = function
        self._duration_s = duration_s
        self._backups: set[int] = set()
        self._inherited: dict[tuple[str, int], int] = {}  # generations taken from the dead, by function and worker
        self._risen: set[str] = set()
        self._renewed: dict[int, float] = {}
        self._heard: dict[int, float] = {}
        self._refused: Counter[int] = Counter()
        self._lively: set[int] = set()
        self._silent: frozenset[int] = frozenset()
        self._offset_s = 0.0
        self.clock_error_s = 0.0
        self.runs_out: dict[int, float] = {}

    def set_clock(self, before: float, after: float, stored: float) -> None:
        """Learn the store's clock from the date `stored` of an object that was written between `before` and `after`."""
        self._offset_s = stored - (before + after) / 2
        self.clock_error_s = (after - before) / 2 + 1.0

    async def acquire(self, worker: int, next_seq: int, fresh: bool = False, *, backup: bool = False) -> bool:
        """Take the worker's lease if it is free, released or expired.

        Args:
            next_seq: The worker's next sequence number by the log, near which its latest sign of life is sought.
            fresh: Whether the run is new. Then nobody is likely to hold the lease, so it is tried without a look.
            backup: Whether the worker is meant for another function. A worker that is meant for this function is also
                taken from a backup that holds it.
        """
        self._backups = self._backups | {worker} if backup else self._backups - {worker}
        self.runs_out[worker] = self._world.now() + self._duration_s  # in case another function is quicker now
        if fresh and await self._create(worker, 1):
            return True
        found = await self._world.store.list(keys.leases(worker))
        if not found:
            return await self._create(worker, 1)
        generation = keys.number(found[-1].key)
        lease = await read(self._world, found[-1].key, Lease.read)
        if lease is None:
            return False
        dead = self._died(lease.function, worker, generation)
        free = lease.released or dead or (lease.backup and not backup)
        if not free and not await self._expired(worker, next_seq, lease, found[-1].modified):
            self._refused[worker] += 1
            return False
        if dead:
            self._inherited[lease.function, worker] = generation
        return await self._create(worker, generation + 1)

    def _died(self, function: str, worker: int, generation: int) -> bool:
        """Return whether the holder of a lease is dead, as far as the engine saw. One that took a worker back is not:
        two functions that took it from each other all the time would do no work."""
        if self._inherited.get((function, worker), generation) < generation:
            self._risen.add(function)
        return function in self.dead - self._risen

    async def _expired(self, worker: int, next_seq: int, lease: Lease, modified: float) -> bool:
        behind_s = self._offset_s - self.clock_error_s
        now = self._world.now() + behind_s
        seen = modified
        if now >= seen + lease.duration_s:
            before = keys.update(worker, next_seq - 2) if next_seq > 1 else ""
            news = await self._world.store.list(keys.updates(worker), after=before)
            seen = max([seen, *[info.modified for info in news]])
        self.runs_out[worker] = seen + lease.duration_s - behind_s
        if self._recovering(lease.duration_s):
            self.runs_out[worker] = max(self.runs_out[worker], self._world.now() + lease.duration_s)
            return False
        return now >= seen + lease.duration_s

    def _recovering(self, duration_s: float) -> bool:
        """Return whether the store was down so recently that the holder of a lease of this duration may not have
        renewed it yet."""
        patience = self._world.store.patience
        return patience.failing or self._world.now() < patience.recovered_at + duration_s

    async def _create(self, worker: int, generation: int, released: bool = False) -> bool:
        lease = Lease(worker, generation, self._function, self._duration_s, released, worker in self._backups)
        key = keys.lease(worker, generation)
        standing = await self._world.store.create(key, lease.pack())
        if standing is not None and await read(self._world, key, Lease.read, standing) != lease:
            return False
        if not released:
            self.held[worker] = generation
            self.runs_out.pop(worker, None)
            self.alive(worker)
        return True

    def begin(self, workers: int, silent: Mapping[int, float]) -> None:
        """Begin to listen for signs of life of all workers.

        Args:
            silent: The seconds for which workers have been silent already, as far as that is known.
        """
        now, self._silent = self._world.now(), frozenset(silent)
        self._heard = {worker: now - silent.get(worker, 0.0) for worker in range(workers)}

    def silences(self) -> dict[int, float]:
        """Return for each worker that is not held here how many seconds ago it was last heard of."""
        now = self._world.now()
        return {worker: round(now - at, 3) for worker, at in self._heard.items() if worker not in self.held}

    def held_elsewhere(self, worker: int) -> bool:
        """Return whether another function gave a sign of life of this worker since this one began."""
        return worker not in self.held and (worker in self._lively or self._refused[worker] > 1)

    def heard(self, worker: int, now: bool = True) -> None:
        """Note that the worker gave a sign of life, whoever holds it.

        Args:
            now: Whether it is a fresh one, rather than one that was only read now.
        """
        if now:
            self._lively.add(worker)
        elif worker in self._silent:  # what is known of it is better
            return
        self._heard[worker] = self._world.now()

    def silent(self, worker: int) -> bool:
        """Return whether nothing was heard of the worker for as long as a lease lasts."""
        return self._world.now() - self._heard[worker] > self._duration_s

    def may_be_free(self, worker: int, assigned: bool) -> bool:
        """Return whether to ask for the worker's lease.

        The function that the worker is meant for asks when the lease runs out by the store's dates. The others ask so
        much later that it goes first.
        """
        now, runs_out = self._world.now(), self.runs_out.get(worker)
        if assigned and runs_out is not None:
            return now >= runs_out
        silent = now - self._heard[worker] > self._duration_s * (1 + self._world.uniform(0, 0.5))
        return silent and (runs_out is None or now > runs_out + self._duration_s / 4)

    def alive(self, worker: int) -> None:
        """Note that a worker held here just gave a sign of life, so that its lease counts from now."""
        self._renewed[worker] = self._world.now()

    async def renew(self) -> None:
        """Renew each lease whose worker was silent for half the duration, by creating the next generation. For a worker
        that is held as a backup, look whether its own function took it back.

        Raises:
            LeaseLost: If another function created that generation; the worker is no longer held.
        """
        lost: list[int] = []
        for worker, generation in list(self.held.items()):
            quiet_s = self._world.now() - self._renewed[worker]
            if quiet_s > self._duration_s / 2:
                kept = await self._create(worker, generation + 1)
            else:
                following = keys.lease(worker, generation + 1)
                kept = worker not in self._backups or await self._world.store.head(following) is None
            if not kept:
                lost.append(worker)
        for worker in lost:  # all at once, since an update that is computed meanwhile carries the generation
            self.held.pop(worker, None)
        if lost:
            raise LeaseLost(f"workers {lost} were taken over by another function")

    async def release(self, worker: int) -> None:
        """Release the worker's lease, so that the next function need not wait.

        A renewal that was cancelled when its request was under way may have taken the next generation.
        """
        generation = self.held.pop(worker, None)
        if generation is None or await self._create(worker, generation + 1, released=True):
            return
        lease = await read(self._world, keys.lease(worker, generation + 1), Lease.read)
        if lease is not None and lease.function == self._function:
            await self._create(worker, generation + 2, released=True)

"""Leases: which function works as which worker, by create-only puts alone.

`leases/{worker}/{generation}` is won by whoever creates the next generation. The generation is the fencing token that
every update carries. A lease holds for `duration_s` after the worker last gave a sign of life: the lease object
itself, or its newest update; so a working function pays for no heartbeat. All times are the store's: a function
learns the difference to its own clock from the first object it writes.

While the store is down nobody can renew, so afterwards leases have run out although their holders are well. Each
function knows an outage from its own failed requests. What it holds it renews with the first request that is answered;
what others hold it leaves alone for as long as a lease lasts.

Who takes over a worker that is meant for another function stands in for it, and says so in the lease. The other one
may then take it at any time, and whoever stands in looks for that once a second.
"""

from __future__ import annotations

from collections.abc import Collection

from lambdaml.errors import LeaseLost
from lambdaml.log import keys
from lambdaml.log.records import Lease
from lambdaml.worker.reading import read
from lambdaml.worker.world import World


class Leases:
    """The leases that one function holds.

    Args:
        function: this function's name, unique among all functions that ever work on the run.
        dead: functions that the engine saw die; their leases are free.

    Attributes:
        runs_out: for each worker that could not be had, the moment of this function's clock at which its lease runs out,
            as far as its holder's latest sign of life was known.
    """

    def __init__(self, world: World, function: str, duration_s: float, dead: Collection[str] = ()) -> None:
        self.held: dict[int, int] = {}
        self.dead = set(dead)
        self._world = world
        self._function = function
        self._duration_s = duration_s
        self._backups: set[int] = set()
        self._renewed: dict[int, float] = {}
        self._heard: dict[int, float] = {}
        self._offset_s = 0.0
        self.clock_error_s = 0.0
        self.runs_out: dict[int, float] = {}

    def set_clock(self, before: float, after: float, stored: float) -> None:
        """Learn the store's clock: an object written between two readings of ours was dated `stored`."""
        self._offset_s = stored - (before + after) / 2
        self.clock_error_s = (after - before) / 2 + 1.0

    async def acquire(self, worker: int, next_seq: int, fresh: bool = False, *, backup: bool = False) -> bool:
        """Take the worker's lease if it is free, released or expired.

        Args:
            next_seq: the worker's next sequence number according to the log, where its latest sign of life is sought.
            fresh: the run is new, so that nobody is likely to hold it: try without looking first.
            backup: the worker is meant for another function. One that is meant for this one is also taken from
                whoever stands in.
        """
        self._backups = self._backups | {worker} if backup else self._backups - {worker}
        self.runs_out[worker] = self._world.now() + self._duration_s  # if somebody else is quicker now
        if fresh and await self._create(worker, 1):
            return True
        found = await self._world.store.list(keys.leases(worker))
        if not found:
            return await self._create(worker, 1)
        generation = keys.number(found[-1].key)
        lease = await read(self._world, found[-1].key, Lease.read)
        if lease is None:
            return False
        free = lease.released or lease.function in self.dead or (lease.backup and not backup)
        if not free and not await self._expired(worker, next_seq, lease, found[-1].modified):
            return False
        return await self._create(worker, generation + 1)

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
        """Whether the store was down so lately that the holder of a lease that long may not have renewed it yet."""
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

    def heard(self, worker: int) -> None:
        """The worker, whoever holds it, gave a sign of life."""
        self._heard[worker] = self._world.now()

    def may_be_free(self, worker: int, assigned: bool) -> bool:
        """Whether to ask for the worker's lease: at the moment at which the store's dates have it run out for whom the
        worker is meant for, and so much later for the others that he goes first."""
        now, runs_out = self._world.now(), self.runs_out.get(worker)
        if assigned and runs_out is not None:
            return now >= runs_out
        silent = now - self._heard[worker] > self._duration_s * (1 + self._world.uniform(0, 0.5))
        return silent and (runs_out is None or now > runs_out + self._duration_s / 4)

    def alive(self, worker: int) -> None:
        """The worker just gave a sign of life: its lease counts from now."""
        self._renewed[worker] = self._world.now()

    async def renew(self) -> None:
        """Renew what was silent for half its time, by creating the next generation, and look for those for whom this
        function stands in.

        Raises:
            LeaseLost: somebody else created it; the worker is no longer held.
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
                self.held.pop(worker, None)
                lost.append(worker)
        if lost:
            raise LeaseLost(f"workers {lost} were taken over by another function")

    async def release(self, worker: int) -> None:
        """Give the worker back, so that the next function need not wait."""
        generation = self.held.pop(worker, None)
        if generation is not None:
            await self._create(worker, generation + 1, released=True)

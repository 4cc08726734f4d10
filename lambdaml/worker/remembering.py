"""Takes care of the memories of the workers that a function works as: it finds them, writes them, and drops void ones.

A memory is void if the function cannot show that it is the one from which the next update must be computed. Nothing is
computed from a void memory (`lambdaml.log.memory.Memories.of`).
"""

from __future__ import annotations

import math
from collections import defaultdict

from lambdaml.errors import BadObject, RunFailed
from lambdaml.events import MemoryEvent
from lambdaml.log import keys
from lambdaml.log.memory import Memory
from lambdaml.log.reads import demand_present
from lambdaml.log.records import Update
from lambdaml.schedules.cohort import Turns
from lambdaml.settings import RECOVER_S
from lambdaml.worker.reading import read
from lambdaml.worker.recovery import Recovered, recover, resets
from lambdaml.worker.recovery_alone import recover_alone
from lambdaml.worker.shared import Shared

HISTORY_SHARE = 4
"""In a run that keeps a bounded history, a memory is written when the updates since the last one may have taken more
than the bound divided by this."""


def updates_per_memory(update_s: float, recover_s: float = RECOVER_S, rounds_kept: float = math.inf) -> float:
    """Return the number of updates that a worker makes for each memory that it writes while it works.

    Args:
        update_s: The seconds of compute of an update.
        recover_s: The setting of the run.
        rounds_kept: The number of rounds of history that the run keeps.
    """
    by_time = recover_s / update_s if update_s else math.inf
    return 1 + min(by_time, rounds_kept / HISTORY_SHARE) // 1


class Remembering:
    """The care for one function's memories. In a run without memory it does nothing."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._memories = shared.replica.memories
        remembers, turns = shared.replica.parts.remembers, shared.settings.takes_turns
        self._on, self._in_turns = remembers and not turns, remembers and turns
        self._turns = Turns(shared.settings)
        self._expected: set[int] = set()  # workers that will ask for their memory soon
        self._waiting: dict[int, int] = {}
        self._recovering = False
        self._spent_s: defaultdict[int, float] = defaultdict(float)  # of compute since the last written memory
        self._history: defaultdict[int, float] = defaultdict(float)  # the share of it since that memory

    def expect(self, worker: int) -> None:
        """Note that this worker will need its memory soon. Workers that start together recover together."""
        if self._on:
            self._expected.add(worker)

    def gave_up(self, worker: int) -> None:
        """Note that this function no longer works as this worker."""
        self._expected.discard(worker)
        self._waiting.pop(worker, None)
        self._memories.drop(worker)
        self._shared.changed()

    def holds(self, worker: int, seq: int) -> bool:
        """Return whether update `seq` of a worker may be computed here."""
        return not self._on or self._memories.holds(worker, seq)

    async def restore(self, worker: int, seq: int) -> None:
        """Wait until the worker's memory after `seq` updates is here; find it or recover it, if need be.

        Nothing comes of it if this function must leave, the run ends, the worker has nothing left to compute, or another
        function works as this worker, so that more of its updates exist.

        Raises:
            RunFailed: If it cannot be recovered.
        """
        shared = self._shared
        self._expected.discard(worker)
        shared.changed()

        def settled() -> bool:
            finished = shared.ending or shared.schedule.leaves(shared.queued, worker, seq)
            return self.holds(worker, seq) or finished or shared.known.next_seq[worker] > seq

        def may_act() -> bool:
            busy = self._expected or self._recovering or self._memories.unready(worker, seq)
            return settled() or not busy

        while not settled():
            self._waiting[worker] = seq
            await shared.until(may_act)
            if not settled():
                await self._restore(dict(self._waiting))
        self._waiting.pop(worker, None)
        shared.changed()

    async def begin_turn(self, worker: int, seq: int) -> None:
        """In a run of cohorts, read the memory of the one who takes this slot for update `seq`, from where it left it.

        Raises:
            RunFailed: If it is not there, or damaged.
        """
        if not self._in_turns:
            return
        shared = self._shared
        latest, memory = self._turns.latest(worker, seq), Memory(worker)
        if latest is not None:
            key = keys.memory(latest[0], latest[1] + 1)
            try:
                memory = demand_present(await read(shared.world, key, Memory.read), key)
            except BadObject as error:
                raise RunFailed(f"{key} is damaged, and with it what a worker remembers: {error}") from error
        await shared.world.compute(lambda: self._memories.begin_turn(memory, worker, seq, shared.replica.log_state))

    async def end_turn(self, update: Update) -> None:
        """In a run of cohorts, write the memory after an update that was just made, before the update itself is created."""
        if not self._in_turns:
            return
        shared, (worker, seq) = self._shared, update.id
        commits = shared.replica.log_state.commit
        data = await shared.world.compute(lambda: self._memories.end_turn(worker, seq + 1, commits))
        await shared.world.store.create(keys.memory(worker, seq + 1), data)
        shared.world.emit(MemoryEvent(worker=worker, updates=seq + 1, size_bytes=len(data), function=shared.name))

    async def _restore(self, wanted: dict[int, int]) -> None:
        shared, world = self._shared, self._shared.world
        self._recovering = True
        try:
            found = await world.gather(*[self._written(worker, seq) for worker, seq in wanted.items()])
            missing = {worker: seq for (worker, seq), one in zip(wanted.items(), found, strict=True) if one is None}
            again = recover if shared.replica.own is None else recover_alone
            recovered = await again(shared, missing) if missing else []
            for one in [*(Recovered(memory) for memory in found if memory is not None), *recovered]:
                await world.compute(lambda memory=one.memory: self._take(memory))  # type: ignore[misc]
                self._spent_s[one.memory.worker] = one.compute_s
                self._history[one.memory.worker] = one.history
        finally:
            self._recovering = False
            shared.changed()

    def _take(self, memory: Memory) -> None:
        """Take a worker's memory, unless the replica is past the base of its next update: another function works as
        this worker."""
        log_state = self._shared.replica.log_state
        if memory.worker in self._waiting and log_state.next_seq[memory.worker] <= memory.seq:
            self._memories.host(memory, log_state)

    async def _written(self, worker: int, seq: int) -> Memory | None:
        """Return the memory after `seq` updates if it is written, or if there is nothing to remember yet."""
        if not seq or seq in await resets(self._shared, worker):
            return Memory(worker, seq, begun=seq)
        try:
            return await read(self._shared.world, keys.memory(worker, seq), Memory.read)
        except BadObject:
            return None

    def differs(self, update: Update, made: Update) -> bool:
        """Return whether an update that another function published differs from the one that was made here. Then the
        memory here is void, and must be given up and restored."""
        return self._on and update.fingerprint() != made.fingerprint()

    def due(self, update: Update) -> bool:
        """Count an update that was made. Return whether to write its worker's memory, because computing it again would take
        long by now, or because history is kept for it."""
        if not self._on:
            return False
        worker, settings = update.worker, self._shared.settings
        read_s = (
            0.0 if self._shared.replica.own is None else self._shared.latency_s
        )  # whoever recovers it reads its group
        self._spent_s[worker] += update.compute_s + update.encode_s + read_s
        self._history[worker] += 1 / settings.rounds_kept(update.size_bytes * settings.workers)
        return self._history[worker] * HISTORY_SHARE > 1 or self._spent_s[worker] > settings.recover_s

    async def leave(self, worker: int, seq: int) -> None:
        """Write the worker's memory for a successor, if this function leaves before the run has ended."""
        leaves = self._on and self._shared.leaving and self._shared.known.stop is None
        if leaves and seq and self._spent_s[worker]:
            await self.write(worker, seq)

    async def write(self, worker: int, seq: int) -> None:
        """Write a worker's memory after `seq` updates, unless it is void."""
        shared, world = self._shared, self._shared.world

        def dumped() -> bytes | None:
            if not self._memories.holds(worker, seq):
                return None
            commits = shared.replica.log_state.commit if shared.replica.own is None else 0  # else it needs none
            return self._memories.of(worker, seq).dump(commits)

        data = await world.compute(dumped)
        if data is not None:
            await world.store.create(keys.memory(worker, seq), data)
            self._spent_s[worker] = self._history[worker] = 0.0
            world.emit(MemoryEvent(worker=worker, updates=seq, size_bytes=len(data), function=shared.name))

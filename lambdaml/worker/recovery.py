"""Recovers the memories of workers after a crash: it computes their latest updates again, each at its own base.

One replica beside the function's own follows the log from a snapshot below all these bases. Each update that it computes
is compared with the one in the bucket, payload and memory digest. If all are the same, so are the memories.

An update whose object is damaged cannot be computed again, and neither can those that were computed before its fate was
known. With that fate the memory begins anew (`lambdaml.log.memory`).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from lambdaml.errors import BadObject, RunFailed
from lambdaml.events import RememberedEvent
from lambdaml.log import keys, wire
from lambdaml.log.controls import lost_memories, read_control
from lambdaml.log.memory import Memory
from lambdaml.log.reads import demand_present
from lambdaml.log.records import LOST_MEMORY, Commit, Update
from lambdaml.worker.machine import Machine
from lambdaml.worker.poll_timer import FLOATS, Backoff
from lambdaml.worker.reading import read
from lambdaml.worker.recomputing import Made, comes_out
from lambdaml.worker.restoring import read_machine_state
from lambdaml.worker.shared import Shared
from lambdaml.worker.window import WINDOW_BYTES

_AT_ONCE = 16
"""So many updates or log entries are read at once."""


@dataclass(slots=True)
class Recovered:
    """A memory that was found or recovered, and what the updates since the newest written one cost, all in all.

    Attributes:
        memory: The memory.
        compute_s: The seconds of compute that these updates took.
        history: The share of the history that the run keeps which rounds of such updates make up.
    """

    memory: Memory
    compute_s: float = 0.0
    history: float = 0.0


async def recover(shared: Shared, wanted: Mapping[int, int]) -> list[Recovered]:
    """Return the memories of these workers after as many updates as `wanted` says, all of which exist. Return none if
    the run ends or this function must leave meanwhile.

    Raises:
        RunFailed: If an update turns out different from the one in the bucket, unless the run's settings allow it.
    """
    return await _Recovery(shared, wanted).run()


async def newest_written(
    shared: Shared, worker: int, after: int, seq: int, serves: Callable[[Memory], Awaitable[bool]] | None = None
) -> Memory | None:
    """Return the newest written memory of a worker after more than `after` updates and at most `seq` that is not damaged
    and serves, or None if there is none."""
    world = shared.world
    for info in reversed(await world.store.list(keys.memories(worker))):
        if after < keys.number(info.key) <= seq:
            try:
                memory = await read(world, info.key, Memory.read)
            except BadObject:
                continue
            if memory is not None and (serves is None or await serves(memory)):
                return memory
    return None


def lost(worker: int, seq: int, advice: str = "") -> RunFailed:
    """Return the error that ends a run because an update comes out different."""
    return RunFailed(
        f"{keys.update(worker, seq)} comes out different when it is computed again, so what worker {worker} remembered is "
        f"lost: does the job compute from anything but weights, batch and seeds, or did another kind of processor compute it?{advice}"
    )


async def resets(shared: Shared, worker: int) -> list[int]:
    """Return the numbers of the updates before which a worker's memory began anew."""
    if shared.settings.lost_memory != "reset":
        return []
    world = shared.world
    found = [await read(world, info.key, read_control) for info in await world.store.list(keys.CONTROLS)]
    return [seq for owner, seq in lost_memories(filter(None, found)) if owner == worker]


class _Recovery:
    def __init__(self, shared: Shared, wanted: Mapping[int, int]) -> None:
        self._shared = shared
        self._wanted = wanted
        self._found: dict[int, Recovered] = {}
        self._damaged: defaultdict[int, set[int]] = defaultdict(set)
        self._due: defaultdict[int, list[Made]] = defaultdict(list)  # by base commit
        self._first: Made | None = None
        self._ahead: deque[tuple[Commit, dict[tuple[int, int], Update] | None]] = deque()
        self._computed = 0

    async def run(self) -> list[Recovered]:
        world, start = self._shared.world, self._shared.world.now()
        await world.gather(*[self._find(worker, seq) for worker, seq in self._wanted.items()])
        for worker in self._wanted:
            self._pass_damaged(worker)
        if self._first is not None:
            if not await self._compute_again(await self._side(self._first)):
                return []
            took_s = world.now() - start
            workers = sorted(self._wanted)
            world.emit(RememberedEvent(workers=workers, updates=self._computed, seconds=round(took_s, 3)))
        return list(self._found.values())

    async def _find(self, worker: int, seq: int) -> None:
        """Find the newest memory of a worker, and the updates that it has made since."""
        world, settings = self._shared.world, self._shared.settings
        found = self._found[worker] = Recovered(await self._newest(worker, seq))
        for start in range(found.memory.seq, seq, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, seq))
            headers = await world.gather(*[self._header(worker, number) for number in numbers])
            for number, made in zip(numbers, headers, strict=True):
                if made is None:
                    self._damaged[worker].add(number)
                    continue
                found.compute_s += made.compute_s
                found.history += 1 / settings.rounds_kept(made.size_bytes * settings.workers)
                self._due[made.base_commit].append(made)
                if self._first is None or made.base_commit < self._first.base_commit:
                    self._first = made

    async def _header(self, worker: int, number: int) -> Made | None:
        """Return what is needed to compute an update again; None if its object is damaged."""
        key = keys.update(worker, number)
        try:
            update = await read(self._shared.world, key, Update.read)
        except BadObject:
            return None
        if update is None:
            raise RunFailed(f"{key} is needed to recover the memory of worker {worker}: was it deleted?")
        return Made.of(update)

    async def _newest(self, worker: int, seq: int) -> Memory:
        """Return the newest memory of a worker after at most `seq` updates, from which all later ones were computed."""
        begun = max((begun for begun in await resets(self._shared, worker) if begun <= seq), default=0)
        found = await newest_written(self._shared, worker, begun, seq, lambda memory: self._precedes(memory, seq))
        return found or Memory(worker, begun, begun=begun)

    async def _precedes(self, memory: Memory, seq: int) -> bool:
        """Return whether the update after a memory can have been computed from it. If two functions worked as this
        worker at once, the one that computed the update may have known less of the log than the memory says."""
        following = await self._header(memory.worker, memory.seq) if memory.seq < seq else None
        return following is None or memory.ready_commit <= following.base_commit

    async def _side(self, first: Made) -> Machine:
        """Return a replica from the newest snapshot at or below the base of this update."""
        shared, world = self._shared, self._shared.world
        for info in reversed(await world.store.list(keys.SNAPSHOTS)):
            if keys.number(info.key) > first.base:
                continue
            state = await read_machine_state(world, shared.replica, info.key)
            if state is not None and state.meta["log_state"]["commit"] <= first.base_commit:
                side = await world.compute(shared.replica.twin)
                await world.compute(lambda: side.load(state))
                return side
        raise RunFailed(f"no snapshot is left from which to recover the memory of worker {first.assignment.worker}")

    async def _compute_again(self, side: Machine) -> bool:
        """Compute the updates again, and return whether that was done before this function must leave or the run
        ended."""
        shared, world, last = self._shared, self._shared.world, max(self._due)
        for found in self._found.values():
            side.memories.host(found.memory, side.log_state)
        while not shared.ending:
            for made in sorted(self._due[side.log_state.commit], key=lambda made: made.assignment.seq):
                if not shared.ending:
                    await self._again(side, made)
            self._let_go(side)
            if side.log_state.commit == last:
                break
            if not self._ahead and not await self._read_ahead(side.log_state.commit, last):
                break
            commit, updates = self._ahead.popleft()
            if updates is None:
                await self._add_up(side, commit)
            else:
                await world.compute(lambda commit=commit, updates=updates: side.apply(commit, updates))  # type: ignore[misc]
            shared.waits.progress()
            await world.sleep(0)
        return not shared.ending

    def _let_go(self, side: Machine) -> None:
        """Let go of the memories that are recovered. What follows in the log is only for those of workers which have
        computed from later bases."""
        for worker, found in self._found.items():
            memory = found.memory
            if memory.seq == self._wanted[worker] and side.memories.holds(worker, memory.seq):
                memory.ready_commit = max(memory.ready_commit, side.log_state.commit)
                side.memories.drop(worker)

    def _pass_damaged(self, worker: int) -> None:
        """Count the updates that come next if they are damaged, so that the memory lacks them."""
        memory = self._found[worker].memory
        while memory.seq in self._damaged[worker]:
            memory.lacks = memory.seq
            memory.seq += 1

    async def _again(self, side: Machine, made: Made) -> None:
        """Compute an update again, compare it with the one in the bucket, and let its worker remember it."""
        worker, seq, settings = made.assignment.worker, made.assignment.seq, self._shared.settings
        memory = self._found[worker].memory
        if memory.seq > seq:  # its memory began anew
            return
        if memory.lacks is not None:  # the fate of a damaged update was not known when this one was computed
            memory.seq += 1
            self._pass_damaged(worker)
            return
        self._shared.computing += 1
        try:
            same = await self._shared.world.compute(lambda: comes_out(side, made, settings))
        finally:
            self._shared.computing -= 1
        self._computed += 1
        self._pass_damaged(worker)
        if not same:
            await self._lost(side, worker, seq)

    async def _lost(self, side: Machine, worker: int, seq: int) -> None:
        """End the run, or begin a worker's memory anew, since it cannot be recovered."""
        shared = self._shared
        if shared.settings.lost_memory == "stop":
            raise lost(worker, seq, " A run that was started with --lost-memory reset goes on without that memory")
        wanted = self._wanted[worker]
        memory = self._found[worker].memory = Memory(worker, wanted, begun=wanted)
        side.memories.host(memory, side.log_state)
        record = wire.dump_json({"what": LOST_MEMORY, "value": [worker, memory.seq]})
        number = len(await shared.world.store.list(keys.CONTROLS))
        while await shared.world.store.create(keys.control(number), record) is not None:
            number += 1

    async def _read_ahead(self, start: int, last: int) -> bool:
        """Read the next log entries with their updates, as many as fit into the window. If the first is not written yet,
        wait for it; return whether it was, before this function must leave or the run ended."""
        shared, world, since = self._shared, self._shared.world, self._shared.world.now()
        names = [keys.log(commit) for commit in range(start, min(start + _AT_ONCE, last))]
        backoff = Backoff(FLOATS, shared.latency_s)
        while (found := await world.store.get_many(names))[0] is None:
            if shared.ending:
                return False
            shared.waits.report(0, since)
            await world.sleep(backoff.next_s(world.uniform(0, 1)))
            names = names[:1]
        commits: list[Commit] = []
        room = WINDOW_BYTES // max(1, shared.window.update_bytes)
        for name, data in zip(names, found, strict=True):
            if data is None or room < 0:
                break
            commits.append(demand_present(await read(world, name, Commit.read, data), name))
            room -= len(commits[-1].applied)
        if room < 0 and len(commits) == 1:
            self._ahead.append((commits[0], None))
            return True
        if room < 0:
            commits.pop()
        wanted = [(entry.worker, entry.seq) for commit in commits for entry in commit.applied]
        updates = {each.id: each for each in await world.gather(*[self._read(*one) for one in wanted])}
        self._ahead += [(commit, updates) for commit in commits]
        return True

    async def _add_up(self, side: Machine, commit: Commit) -> None:
        """Apply a commit whose updates do not fit into the window, one after the other."""
        world = self._shared.world
        await world.compute(lambda: side.begin(commit))
        for step in commit.steps:
            for entry in step:
                update = await self._read(entry.worker, entry.seq)
                await world.compute(lambda entry=entry, update=update: side.add(entry, update))  # type: ignore[misc]
            await world.compute(lambda step=step: side.step(step))  # type: ignore[misc]
        await world.compute(lambda: side.end(commit))

    async def _read(self, worker: int, seq: int) -> Update:
        key = keys.update(worker, seq)
        return demand_present(await read(self._shared.world, key, Update.read), key)

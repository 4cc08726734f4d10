"""Scatter with slices that are objects of their own, for updates which are larger than what a function can hold of them.

A function never has a whole update or a whole sum in memory beside its own vector. It puts its slices one after the
other, adds up its own slices one after the other, and when a round is decided it reads the sums of all slices into its
vector. All of that takes room that is bounded by bytes (`lambdaml.worker.room`). A piece is two objects: the vector, and
then its rows and verdicts, by which the round is decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lambdaml.errors import BadObject
from lambdaml.log import keys
from lambdaml.log.blocks import dump_vector, load_vector
from lambdaml.log.partial import Partial
from lambdaml.log.reads import demand_present
from lambdaml.log.records import Body, Commit, Update
from lambdaml.log.slices import Block
from lambdaml.patterns.scattering import ScatterExchange, Slice, piece_name
from lambdaml.storage.protocol import Bytes
from lambdaml.worker.checking import checked_update
from lambdaml.worker.machine import Machine, Summed
from lambdaml.worker.poll_timer import Timer
from lambdaml.worker.reading import read
from lambdaml.worker.room import ROOM_BYTES, Exclusive
from lambdaml.worker.shared import Shared
from lambdaml.worker.world import World

BYTES_PER_S = 1e8
"""Slices are looked for as if they came with this bandwidth."""

EARLY = 0.75
"""The first look for an object comes after this share of the time after which it was found in the round before. One that
came later would confirm its own lateness."""

AT_ONCE = 2
"""So many slices are read at once, at least one while another is put or added."""


class BlocksExchange(ScatterExchange):
    """One function's part. It keeps no update that it has published: it reads its own slices as it reads others'."""

    def __init__(self, shared: Shared, count: int) -> None:
        super().__init__(shared, count)
        largest = max(self.slices.size_bytes(index) for index in range(count))
        shared.room.limit_bytes = max(ROOM_BYTES, (AT_ONCE + 1) * largest)
        self._turn = Exclusive(shared.tasks)
        self._began = shared.world.now()
        self._usual_s: dict[str, float] = {}  # when an object existed in the round before, from the start of the round

    def needed(self, worker: int) -> bool:
        """Return False: slices are read from the bucket."""
        return False

    def take(self, commit: Commit) -> dict[tuple[int, int], Update]:
        """Return the updates that get their fate in this commit, and forget them."""
        self._began = self._shared.world.now()
        return super().take(commit)

    async def make(self, commit: int, index: int, attempt: int, left_out: dict[int, str] | None, began: float) -> bool:
        """Put the piece of a slice. One is made at a time."""
        async with self._turn:
            try:
                return await super().make(commit, index, attempt, left_out, began)
            finally:
                self._shared.room.give(index)

    def at_once(self, index: int) -> int:
        """Return how many updates' slices of this number are read at once: room for one stays with those that are put."""
        size_bytes = self.slices.size_bytes(index)
        return max(1, self._shared.room.limit_bytes // size_bytes - 1)

    def added(self, index: int) -> None:
        """Give back the room of the slices that were added."""
        self._shared.room.give(index)

    async def own_slice(self, worker: int, seq: int, index: int) -> Slice:
        """Return a slice of an update that was published here, or by an earlier holder of its worker."""
        header = None
        if index == self.count - 1:
            header = self._header(await self.read(worker, seq))
        return await self._block(worker, seq, index, header)

    async def look(self, commit: int, worker: int, seq: int, index: int) -> Slice | None:
        """Look for a slice of another function's update; None if the round is over before, or the worker is held here.
        The last slice waits for the update's header, which says that all slices exist."""
        shared = self._shared

        def wanted() -> bool:
            return shared.known.commit <= commit and worker not in shared.leases.held

        if index < self.count - 1:

            async def fetch() -> Slice | None:
                return await self._fetch(worker, seq, index, None)

            key, usual = keys.block(worker, seq, index), f"first of {worker}"
            found = await self._looks.find(key, fetch, self._timer(usual), wanted, worker=worker, behind=False)
            if found is not None and found.block is not None:
                self._usual_s[usual] = found.block.made_s
            return found

        async def fetch_header() -> Update | None:
            data, _ = await self._looks.get(keys.update(worker, seq))
            return None if data is None else await checked_update(shared, data, worker, seq)

        key, usual = keys.update(worker, seq), f"header of {worker}"
        header = await self._looks.find(key, fetch_header, self._timer(usual), wanted, worker=worker, behind=False)
        if header is None:
            return None
        self._note(usual)
        return await self._block(worker, seq, index, self._header(header))

    def pace(self, name: str) -> Timer:
        """Return the timer of the piece of this name."""
        return self._timer("pieces")

    async def _pieces(self, commit: int, attempt: int) -> list[Partial] | None:
        """Return the pieces of an attempt in order; None if the round is over before. The last is waited for first, so that
        not all are looked for again and again."""
        last = self.count - 1
        name, maker = piece_name(last, attempt), self._reducer(last)
        if await self.obtain(commit, name, maker, since_given=True) is None:
            return None
        if not attempt:
            self._note("pieces")
        return await super()._pieces(commit, attempt)

    def _timer(self, usual: str) -> Timer:
        due = self._began + EARLY * self._usual_s.get(usual, 0.0)
        return _SliceTimer(self._shared.world.now, due, self.slices.size_bytes(0) / BYTES_PER_S)

    def _note(self, usual: str) -> None:
        self._usual_s[usual] = self._shared.world.now() - self._began

    def _header(self, update: Update) -> Update:
        fault = update.fault
        headed = self.headed(replace(update, apart=None))
        headed.fault = headed.fault or fault
        return headed

    async def _block(self, worker: int, seq: int, index: int, header: Update | None) -> Slice:
        """Return a slice that exists."""
        found = await self._fetch(worker, seq, index, header)
        return found or Slice(None, header, self._shared.world.now())

    async def _fetch(self, worker: int, seq: int, index: int, header: Update | None) -> Slice | None:
        """Return a slice, if it exists. It then takes room until it was added."""
        shared, slicing, key = self._shared, self.slices.slicing, keys.block(worker, seq, index)

        def unpack(data: Bytes, key: str) -> Block:
            return slicing.read_of((worker, seq), data, index, key)

        looking = "look", worker, index
        await shared.room.take(looking, self.slices.size_bytes(index))
        try:
            data, _ = await self._looks.get(key)
            if data is None:
                return None
            try:
                block = await read(shared.world, key, unpack, data)
            except BadObject:
                block = None
            if block is not None:  # which of two functions wrote a slice says nothing: the header's generation counts
                generation = header.generation if header is not None else shared.known.generation[worker]
                block = block._replace(generation=generation)
                shared.room.move(looking, index)
            return Slice(block, header, shared.world.now())
        finally:
            shared.room.give(looking)

    async def write(self, partial: Partial, name: str, began: float) -> Partial:
        """Create the objects of a piece, the vector first."""
        world = self._shared.world
        if body := partial.sum:
            partial.sum = {}
            data = await world.background(lambda: dump_vector(partial.commit, name, body))
            del body
            await world.store.create(keys.vector(partial.commit, name), data)
        return await super().write(partial, name, began)

    async def whole(self, pieces: list[Partial], attempt: int) -> Body:
        """Return nothing: the vectors of the pieces are read when the step is taken."""
        self._attempt = attempt
        return {}

    def total(self, commit: Commit) -> Summed | None:
        """Return the sum of the updates that this commit applies, and forget it."""
        total, self._total = self._total, None
        return None if total is None else Streamed(total, self._shared, self.count, self._attempt)


@dataclass(frozen=True, slots=True)
class _SliceTimer:
    """Times the looks for a slice. It may have been put long ago, or be one of the last.

    Attributes:
        now: The clock.
        due: The moment of the first look.
        put_s: The seconds that a slice takes.
    """

    now: Callable[[], float]
    due: float
    put_s: float

    def delay_s(self) -> float:
        return max(0.0, self.due - self.now())

    def scale_s(self, latency_s: float) -> float:
        return max(latency_s, self.put_s)

    def said(self, duration_s: float) -> None:
        """Do nothing: each slice has a timer of its own."""

    def looked(self, late_s: float, latency_s: float) -> None:
        """Do nothing: each slice has a timer of its own."""


@dataclass(frozen=True, slots=True)
class Streamed(Summed):
    """A sum whose vectors are read slice by slice when the step is taken.

    Attributes:
        shared: The state of the function.
        count: The number of slices.
        attempt: The attempt that counts.
    """

    shared: Shared
    count: int
    attempt: int

    async def apply(self, world: World, machine: Machine, commit: Commit) -> None:
        """Read the slices into the machine's vector, and take the step along the mean."""
        async with self.shared.vector:
            if commit.steps:
                await world.gather(*[self._read(world, machine, index) for index in range(self.count)])
            await super(Streamed, self).apply(world, machine, commit)

    async def _read(self, world: World, machine: Machine, index: int) -> None:
        key = keys.vector(self.partial.commit, piece_name(index, self.attempt))
        assert machine.slices is not None
        owner = "sum", index
        await self.shared.room.take(owner, machine.slices.size_bytes(index))
        try:
            body = demand_present(await read(world, key, load_vector), key)
            await world.compute(lambda: machine.add_slice(index, body))
        finally:
            self.shared.room.give(owner)

"""One function's part in the exchange of slices (`lambdaml.patterns.scatter`): it adds up those slices that belong to the
workers which it holds, and puts the sums of all slices together.

A slice cannot say whether the whole update must be rejected. So a piece says which updates its slice is a reason to
reject, the last one also by their headers, and the squares of each slice for the limit on norms. If the pieces of a round
name any, all slices are added up once more without these. Once is enough, since every slice has been judged.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lambdaml.errors import BadObject
from lambdaml.log import keys
from lambdaml.log.commits import step_entries
from lambdaml.log.partial import Partial
from lambdaml.log.reads import reread
from lambdaml.log.records import DAMAGED, Body, Commit, Update, damaged
from lambdaml.log.slices import TAIL_BYTES, Block, envelope
from lambdaml.patterns.rounds import RoundExchange
from lambdaml.storage.protocol import Bytes
from lambdaml.worker.machine import LONG, Slices, Summing
from lambdaml.worker.poll_timer import RoundTimer, Timer
from lambdaml.worker.shared import Shared
from lambdaml.worker.window import WINDOW_BYTES, Id
from lambdaml.worker.world import Task


class Slice(NamedTuple):
    """A slice of an update, with the update's header if it is the last one; neither if it is damaged."""

    block: Block | None
    header: Update | None
    arrived_s: float


class ScatterExchange(RoundExchange):
    """The slices that this function adds up, each a coroutine, and one that puts the pieces together."""

    def __init__(self, shared: Shared, count: int) -> None:
        super().__init__(shared)
        assert shared.replica.slices is not None
        self.slices: Slices = shared.replica.slices
        self.count = count
        self._tasks: dict[int, Task] = {}
        self.timer, self._pieces_timer = RoundTimer(), RoundTimer()
        self._verdicts: tuple[int, dict[int, str]] | None = None
        self._watch: Task | None = None

    def needed(self, worker: int) -> bool:
        """Return True: whatever is held here, its slices are at hand."""
        return True

    def pace(self, name: str) -> Timer:
        """Return the timer of the piece of this name."""
        return self._pieces_timer if name.endswith(".0") else super().pace(name)

    def take(self, commit: Commit) -> dict[Id, Update]:
        """Return the updates that get their fate in this commit, and forget them."""
        self.timer.close()
        self._pieces_timer.close()
        return super().take(commit)

    def makes(self, commit: int, name: str) -> bool:
        """Return whether this function makes the piece of this name in a round."""
        return int(name.split(".")[0]) in self._tasks and commit >= self._shared.tail

    def attend(self, deciding: bool) -> None:
        """Add up the slices that belong to the workers held here, and look for the other pieces."""
        shared = self._shared
        held = shared.leases.held if deciding else ()
        mine = {index for index in range(self.count) if self._reducer(index) in held}
        for index in set(self._tasks) - mine:
            self._tasks.pop(index).cancel()
        for index in sorted(mine - set(self._tasks)):
            self._tasks[index] = shared.spawn(self._reduce(index))
        if self._watch is None:
            self._watch = shared.spawn(self._put_together())

    def _reducer(self, index: int) -> int:
        """Return the worker whose holder adds up a slice."""
        return index * self._shared.settings.workers // self.count

    async def _reduce(self, index: int) -> None:
        """Add up a slice in each round that nobody has decided yet, and once more if updates must be left out."""
        shared, known = self._shared, self._shared.known
        await shared.until(lambda: known.commit >= shared.tail)
        while True:
            commit, began = known.commit, shared.world.now()
            left_out: dict[int, str] | None = None
            for attempt in range(2):
                if not await self.make(commit, index, attempt, left_out, began):
                    break
                await shared.until(lambda commit=commit: known.commit > commit or self._judged(commit) is not None)  # type: ignore[misc]
                left_out = self._judged(commit)
                if not left_out:
                    break
            await shared.until(lambda commit=commit: known.commit > commit)  # type: ignore[misc]

    async def make(self, commit: int, index: int, attempt: int, left_out: dict[int, str] | None, began: float) -> bool:
        """Put the piece of a slice, without these updates, and return True; return False if the round is over before."""
        piece = await self._add_up(commit, index, left_out)
        if piece is None:
            return False
        await self.write(piece, piece_name(index, attempt), began)
        return True

    def _judged(self, commit: int) -> dict[int, str] | None:
        """Return the updates that the pieces of a round reject, with the reasons; None as long as not all are known."""
        return self._verdicts[1] if self._verdicts is not None and self._verdicts[0] == commit else None

    async def _add_up(self, commit: int, index: int, left_out: dict[int, str] | None) -> Partial | None:
        """Add up a slice of all updates, or of all but those to leave out; None if the round is over before."""
        shared, workers = self._shared, range(self._shared.settings.workers)
        adder = self.slices.summing(index)
        squares = np.zeros(len(workers))
        piece = Partial(commit, [], squares=squares)
        at_once = self.at_once(index)
        for start in range(0, len(workers), at_once):
            due = workers[start : start + at_once]
            for worker, found in zip(
                due, await shared.world.gather(*[self._slice(commit, worker, index) for worker in due]), strict=True
            ):
                if found is None:
                    return None
                if left_out is None or worker not in left_out:
                    squares[worker] = await self._add(adder, piece, worker, index, found)
                piece.waited_s.append(found.arrived_s)
                if left_out is None and index == self.count - 1:
                    piece.updates.append(found.header or damaged(worker, shared.known.next_seq[worker], 0))
            self.added(index)
        piece.sum = adder.finish()
        return piece

    def at_once(self, index: int) -> int:
        """Return how many updates' slices of this number are read at once."""
        return max(2, WINDOW_BYTES // self.slices.slicing.length(index))

    def added(self, index: int) -> None:
        """Note that the slices of this number that were read are added."""

    async def _add(self, adder: Summing, piece: Partial, worker: int, index: int, found: Slice) -> float:
        """Judge a slice, and add it to the sum unless it is a reason to reject its update. Return the sum of its squares."""
        shared, slices = self._shared, self.slices
        seq, block, fault, squares = shared.known.next_seq[worker], found.block, DAMAGED, 0.0
        if block is not None:
            facts = Update(
                worker, seq, block.base, block.generation, "", block.samples, 0.0, "", base_commit=block.base_commit
            )
            fault, squares = await shared.world.background(lambda: slices.check(block, index))
            facts.fault = fault
            (entry,) = step_entries(shared.known, shared.rule, [facts])
            fault = entry.reason if entry.fate == "rejected" else ""
            if entry.fate == "applied":
                facts.body = block.body
                await self.sum_up(lambda: adder.add(entry, facts))
        if found.header is not None:
            fault = fault or found.header.fault
        if fault:
            piece.faults[worker] = fault
        return squares

    async def _slice(self, commit: int, worker: int, index: int) -> Slice | None:
        """Return a slice of a worker's update in this round; None if the round is over before."""
        shared, known = self._shared, self._shared.known
        seq = known.next_seq[worker]
        while known.commit <= commit:
            if worker not in shared.leases.held:
                found = await self.look(commit, worker, seq, index)
                if found is not None:
                    return found
                continue
            await shared.until(
                lambda: self.known((worker, seq)) or known.commit > commit or worker not in shared.leases.held
            )
            if self.known((worker, seq)):
                return await self.own_slice(worker, seq, index)
        return None

    async def own_slice(self, worker: int, seq: int, index: int) -> Slice:
        """Return a slice of an update that was published here, or by an earlier holder of its worker."""
        update = whole = self._updates.arrived[worker, seq]
        if not update.loaded:
            whole = await self.read(worker, seq)
        arrived_s = update.arrived_s or 0.0
        if whole.fault == DAMAGED:
            return Slice(None, None, arrived_s)
        slicing = self.slices.slicing
        cut = slicing.cut(index)
        body: Body = {p.name: whole.body[p.name][cut] if p.cut else whole.body[p.name] for p in slicing.parts}
        block = Block(worker, seq, update.base_commit, update.base, update.generation, update.samples, math.nan, body)
        if index < self.count - 1:
            return Slice(block, None, arrived_s)
        beside = {name: array for name, array in whole.body.items() if name not in body}
        return Slice(block, self.headed(replace(update, body=beside)), arrived_s)

    def headed(self, header: Update) -> Update:
        """Return a header as the row of a piece, with what is wrong with it."""
        replica = self._shared.replica
        return replace(header, fault=replica.check_header(header), body=replica.besides(header), loaded=False)

    async def look(self, commit: int, worker: int, seq: int, index: int) -> Slice | None:
        """Look for a slice of another function's update; None if the round is over before, or the worker is held here."""
        shared, slicing = self._shared, self.slices.slicing
        pace = self.timer
        key, last = keys.update(worker, seq), index == self.count - 1
        place = slicing.offset(index), slicing.length(index) + (TAIL_BYTES if last else 0)

        def unpack(data: Bytes, key: str) -> Slice:
            block = slicing.read_of((worker, seq), data, index, key)
            header = None
            if last:
                head, body = envelope(memoryview(data)[slicing.length(index) :], key)
                header = self.headed(Update.of_header(head, body, key, place[0] + len(data)))
            return Slice(block, header, shared.world.now())

        async def fetch() -> Slice | None:
            data, _ = await self._looks.get(key, place)
            if data is None:
                return None
            try:
                return await reread(
                    lambda key: shared.world.store.get_range(key, *place), shared.world.sleep, key, unpack, data
                )
            except BadObject:
                return Slice(None, None, shared.world.now())

        if shared.replica.parts.delay:
            await shared.until(lambda: self.gave(commit), timeout_s=shared.settings.lease_s)
        found = await self._looks.find(
            key,
            fetch,
            pace,
            lambda: shared.known.commit <= commit and worker not in shared.leases.held,
            worker=worker,
            behind=False,
            since_s=self.begun_s() if shared.replica.parts.delay else math.inf,
        )
        if found is not None and found.block is not None and not math.isnan(found.block.made_s):
            pace.said(found.block.made_s)
        return found

    async def _put_together(self) -> None:
        """Read the pieces of each round, and put them together."""
        shared = self._shared
        while True:
            commit = shared.known.commit
            await shared.until(lambda: shared.unapplied < 2 and shared.known.stop is None)
            total = await self._total_of(commit)
            if total is not None:
                self.arrive(total)
            await shared.until(lambda commit=commit: shared.known.commit > commit or shared.known.stop is not None)  # type: ignore[misc]

    async def _total_of(self, commit: int) -> Partial | None:
        """Return the sum of a round; None if the round is over before."""
        first = await self._pieces(commit, 0)
        if first is None:
            return None
        verdicts: dict[int, str] = {}
        for piece in first:
            for worker, why in piece.faults.items():
                verdicts.setdefault(worker, why)
        limit = self._shared.settings.max_update_norm
        if limit is not None:
            norms = np.sqrt(sum(piece.squares for piece in first if piece.squares is not None))
            verdicts = {int(worker): LONG for worker in np.flatnonzero(norms > limit)} | verdicts
        self._verdicts = commit, verdicts
        self._shared.changed()
        pieces = await self._pieces(commit, 1) if verdicts else first
        if pieces is None:
            return None
        rows = [replace(row, fault=verdicts.get(row.worker, "")) for row in first[-1].updates]
        return Partial(commit, rows, await self.whole(pieces, 1 if verdicts else 0))

    async def whole(self, pieces: list[Partial], attempt: int) -> Body:
        """Return the sum that the pieces of an attempt make."""
        return await self.sum_up(lambda: self.slices.assemble([piece.sum for piece in pieces]))

    async def _pieces(self, commit: int, attempt: int) -> list[Partial] | None:
        """Return the pieces of an attempt in order; None if the round is over before."""
        wanted = [
            self.obtain(commit, piece_name(index, attempt), self._reducer(index), since_given=True)
            for index in range(self.count)
        ]
        found = [piece for piece in await self._shared.world.gather(*wanted) if piece is not None]
        return found if len(found) == self.count else None


def piece_name(index: int, attempt: int) -> str:
    """Return the name of the piece of a slice."""
    return f"{index:05d}.{attempt}"

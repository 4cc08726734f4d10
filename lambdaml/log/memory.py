"""Memory: what one worker remembers between its updates, as arrays and plain values.

It is a pure function of run.json, of the log up to the worker's next base, and of the worker's own earlier updates. The
object `memory/{worker}/{seq}` spares a successor the work of computing it again.

An update is *pending* from the moment it is made until its fate is known. Its memory holds the vector that was to be
sent and the body that was sent, because how much of it returns depends on the fate.

Nobody can compute an update again whose object is damaged in the bucket, nor what its worker remembered of it. So with
the fate of such an update the memory begins anew, in whichever function holds it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.errors import BadObject, RunFailed
from lambdaml.log import keys, wire
from lambdaml.log.records import Body
from lambdaml.log.state import KNOWN_FATES, UNREADABLE, LogState
from lambdaml.log.wire import canonical

Arrays = dict[str, NDArray[Any]]
"""Named arrays, each of a dtype and shape that the wire knows."""

_PENDING = "pending"
_ROW, _SMALL_BYTES = 1024, 2**16
"""A digest folds arrays of more bytes than the latter, in rows of so many words."""


@dataclass(frozen=True, slots=True)
class PendingUpdate:
    """An update that was made and has no fate yet.

    Attributes:
        vector: The vector that was to be sent.
        body: The encoded arrays that were sent.
    """

    vector: NDArray[Any]
    body: Body


GiveBack = Callable[["Memory", PendingUpdate, float], None]
"""A function that returns to a memory what was not applied of a pending update, given the weight that it was applied
with (0 if it was refused)."""


@dataclass(slots=True)
class Memory:
    """The memory of one worker after `seq` updates. Arrays are replaced and never changed in place.

    Attributes:
        worker: The worker.
        seq: The number of updates that it has made.
        arrays: The arrays that it remembers, by name.
        values: The plain values that it remembers, by name.
        pending: The updates without a fate, by their sequence number. There are at most two.
        ready_commit: In a memory that was read, the number of commits that had been applied when it was written: it
            suffices for every later base.
        begun: The number of updates that had their fate when it last began anew. What becomes of these matters no more.
        lacks: The number of an update that is missing in it, since its object is damaged; None if none is. Such a
            memory serves nobody until it begins anew with the fate of that update.
    """

    worker: int
    seq: int = 0
    arrays: Arrays = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    pending: dict[int, PendingUpdate] = field(default_factory=dict)
    ready_commit: int = 0
    begun: int = 0
    lacks: int | None = None

    def settle(self, log_state: LogState, give_back: GiveBack) -> None:
        """Settle the pending updates whose fate the log state knows, in order.

        Raises:
            RunFailed: If a fate is too old for the log state to know it, or its publisher decided that of an update that
                nobody else can read.
        """
        self._forget_damaged(log_state)
        decided = log_state.next_seq[self.worker]
        for seq in sorted(self.pending):
            if seq >= decided:
                return
            if decided - seq > KNOWN_FATES:
                raise RunFailed(
                    f"worker {self.worker} is about to forget update {seq}, whose fate nobody knows any more"
                )
            weight = log_state.weights[self.worker][seq - decided]
            give_back(self, self.pending.pop(seq), weight)

    def settle_as_sent(self, give_back: GiveBack) -> None:
        """Settle what is pending as if it were applied in full."""
        for seq in sorted(self.pending):
            give_back(self, self.pending.pop(seq), 1.0)

    def _forget_damaged(self, log_state: LogState) -> None:
        """Begin anew if the log state knows the fate of an update that this memory rests on and whose object is
        damaged."""
        decided = log_state.next_seq[self.worker]
        known = zip(range(decided - KNOWN_FATES, decided), log_state.weights[self.worker], strict=True)
        if any(self.begun <= seq < self.seq and weight == UNREADABLE for seq, weight in known):
            self.arrays, self.values, self.pending = {}, {}, {}
            self.begun, self.ready_commit, self.lacks = decided, 0, None
        if self.lacks is not None and self.lacks < decided:
            raise RunFailed(
                f"{keys.update(self.worker, self.lacks)} has its fate from its publisher, but its object is damaged"
            )

    def digest(self) -> str:
        """Return a SHA-256 of everything that is remembered, in hexadecimal."""
        return digest_of_arrays(self._parts(), canonical([self.worker, self.seq, self.values, sorted(self.pending)]))

    @property
    def size_bytes(self) -> int:
        """The bytes of all arrays."""
        return sum(array.nbytes for _, array in self._parts())

    def _parts(self) -> list[tuple[str, NDArray[Any]]]:
        parts = list(self.arrays.items())
        for seq, pending in self.pending.items():
            parts.append((f"{_PENDING}/{seq}/vector", pending.vector))
            parts += [(f"{_PENDING}/{seq}/body/{name}", array) for name, array in pending.body.items()]
        return parts

    def dump(self, ready_commit: int) -> bytes:
        """Return the bytes of the memory's object, written when this many commits had been applied."""
        header: dict[str, Any] = {
            "worker": self.worker,
            "seq": self.seq,
            "ready_commit": ready_commit,
            "begun": self.begun,
        }
        header |= {"values": self.values, "pending": sorted(self.pending)}
        parts = [(name, np.asarray(array, order="C")) for name, array in self._parts()]
        return wire.pack(header, parts)[0]

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> Memory:
        """Read a memory back by its key.

        Raises:
            BadObject: If the object is damaged, or does not hold this memory.
            NewerSchema: If a newer lambdaml wrote it.
        """
        header, arrays = wire.unpack(data, key)
        try:
            worker, seq, ready, begun = (int(header[name]) for name in ("worker", "seq", "ready_commit", "begun"))
            pending = {}
            for number in header["pending"]:
                prefix = f"{_PENDING}/{int(number)}/"
                body_prefix = f"{prefix}body/"
                body = {name.removeprefix(body_prefix): arrays[name] for name in arrays if name.startswith(body_prefix)}
                pending[int(number)] = PendingUpdate(arrays[f"{prefix}vector"], body)
            kept = {name: array for name, array in arrays.items() if not name.startswith(f"{_PENDING}/")}
            memory = Memory(worker, seq, kept, dict(header["values"]), pending, ready, begun)
        except (KeyError, TypeError, ValueError) as error:
            raise BadObject(f"{key} is no memory: {error}") from error
        if key != keys.memory(worker, seq):
            raise BadObject(f"{key} holds the memory of worker {worker} after {seq} updates")
        return memory


def digest_of_arrays(arrays: Iterable[tuple[str, NDArray[Any]]], first: bytes = b"") -> str:
    """Return a SHA-256 of named arrays, after what comes first, in hexadecimal.

    It finds arrays that differ by accident. A large array counts by sums of its bits, along rows and columns, which takes a
    fifth of the time and misses only changes that somebody makes on purpose.
    """
    sha = hashlib.sha256(first)
    for name, array in sorted(arrays, key=itemgetter(0)):
        sha.update(f"{name}:{array.dtype.name}:{array.shape}".encode())
        for piece in _sums_of_bits(array):
            sha.update(piece)
    return sha.hexdigest()


def _sums_of_bits(array: NDArray[Any]) -> list[bytes]:
    """Return the bytes of a small array. Of a large one return the sums of its 64-bit words modulo 2^64, over columns
    and over rows of `_ROW` words, and the words that are left."""
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8) if array.size else np.empty(0, np.uint8)
    if raw.nbytes < _SMALL_BYTES:
        return [raw.tobytes()]
    whole = raw.nbytes // (8 * _ROW) * (8 * _ROW)
    table = raw[:whole].view(np.uint64).reshape(-1, _ROW)
    return [table.sum(axis=0).tobytes(), table.sum(axis=1).tobytes(), raw[whole:].tobytes()]


class Memories:
    """The memories of the workers that a replica computes for.

    Args:
        in_turns: Whether only some workers take part in a round.
        settles: Whether memories depend on the log. They do not if nobody waits for it (`lambdaml.schedules.rounds_at_once`).
    """

    def __init__(self, give_back: GiveBack, in_turns: bool, settles: bool = True) -> None:
        self._give_back, self._in_turns, self._settles = give_back, in_turns, settles
        self._held: dict[int, Memory] = {}
        self._commit = 0

    def host(self, memory: Memory, log_state: LogState) -> None:
        """Take a worker's memory, and settle what is pending as far as the log state knows."""
        if self._settles:
            memory.settle(log_state, self._give_back)
        self._held[memory.worker], self._commit = memory, log_state.commit

    def drop(self, worker: int) -> None:
        """Forget a worker's memory, because it is void or another function works as this worker."""
        self._held.pop(worker, None)

    def holds(self, worker: int, seq: int) -> bool:
        """Return whether the worker's memory is held, is the one after `seq` updates, and serves at this base."""
        memory = self._held.get(worker)
        return memory is not None and memory.seq == seq and self._serves(memory)

    def unready(self, worker: int, seq: int) -> bool:
        """Return whether the memory after `seq` updates is held, and will serve after commits that are not applied
        yet."""
        memory = self._held.get(worker)
        return memory is not None and memory.seq == seq and not self._serves(memory)

    def _serves(self, memory: Memory) -> bool:
        return memory.lacks is None and memory.ready_commit <= self._commit

    def of(self, worker: int, seq: int) -> Memory:
        """Return the memory from which update `seq` is computed.

        Raises:
            RunFailed: If it is void, so that nothing may be computed from it.
        """
        if not self.holds(worker, seq):
            raise RunFailed(f"worker {worker} has no memory from which to compute update {seq}")
        return self._held[worker]

    def begin_turn(self, memory: Memory, worker: int, seq: int, log_state: LogState) -> None:
        """Take the memory of the one who takes a worker's slot for update `seq`, as it was after its latest turn."""
        memory.worker, memory.seq, memory.begun = worker, seq, seq
        self.host(memory, log_state)

    def made(self, memory: Memory) -> None:
        """Note that an update was folded into a memory. In a run of cohorts it counts as applied at once, since nobody may
        know its fate any more when the memory is needed again."""
        if self._in_turns:
            memory.settle_as_sent(self._give_back)

    def end_turn(self, worker: int, seq: int, ready_commit: int) -> bytes:
        """Forget the memory of a worker after `seq` updates, whose slot another one takes next, and return the bytes of its
        object."""
        memory = self._held.pop(worker)
        assert memory.seq == seq
        return memory.dump(ready_commit)

    def settle(self, log_state: LogState) -> None:
        """Settle what is pending after a commit."""
        self._commit = log_state.commit
        for memory in list(self._held.values()) if self._settles else ():  # `drop` may be called by another thread
            memory.settle(log_state, self._give_back)

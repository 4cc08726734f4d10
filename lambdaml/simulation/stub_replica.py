"""A replica without tensors: its work is charged time, and its states are fingerprints.

Its state at a version is a hash over everything that was applied, in order; an update's loss is a hash of the state
that it was computed from. So whatever would change one bit of a real model changes this state too, and a sum in another
order and a lost or doubled update are found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.algorithms import Assignment, covers_batches
from lambdaml.errors import BadObject
from lambdaml.log import wire
from lambdaml.log.memory import Memories, Memory, PendingUpdate
from lambdaml.log.own_models import OwnModels
from lambdaml.log.records import Body, Commit, Entry, Update
from lambdaml.log.slices import APART_BYTES, Block, Part, Slicing
from lambdaml.log.state import LogState
from lambdaml.log.wire import canonical
from lambdaml.parts import Parts
from lambdaml.settings import Settings
from lambdaml.simulation.stub_travels import StubTravels
from lambdaml.training.sampling import sampler_of
from lambdaml.worker.machine import Computed

_WHOLE = 2**48
"""Numbers that stand for vectors are less than this."""

_NUMBERS, _CHAIN = "numbers", "chain"

HEADER_BYTES = 512
"""The greatest size of an update's header."""


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of a run's work: seconds of compute at nominal speed, and bytes.

    Attributes:
        step_s: The seconds that a gradient takes or, with local steps, a gradient and the inner step along it.
        encode_s: The seconds that its encoding and packing take.
        apply_s: The seconds that an optimizer step takes, apart from its updates.
        apply_update_s: The seconds that each update of an optimizer step takes.
        update_bytes: The bytes of an update's payload.
        snapshot_bytes: The bytes of a snapshot's payload.
        memory_bytes: The bytes of the payload of a worker's memory.
    """

    step_s: float = 0.1
    encode_s: float = 0.0
    apply_s: float = 0.0
    apply_update_s: float = 0.0
    update_bytes: int = 0
    snapshot_bytes: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StubState:
    """The state of a `StubReplica` at a version. It is a `lambdaml.worker.machine.MachineState`.

    Attributes:
        meta: The log state under `log_state`, and under `chain` the hash in hexadecimal.
    """

    meta: dict[str, Any]

    @property
    def version(self) -> int:
        version: int = self.meta["log_state"]["version"]
        return version

    @property
    def size_bytes(self) -> int:
        return 0

    def digest(self) -> str:
        return hashlib.sha256(canonical(self.meta)).hexdigest()

    def dump(self, sha256: str = "") -> bytes:
        return wire.dump_json(self.meta)

    def over(self, base: StubState) -> StubState:
        return self

    def dump_model(self) -> bytes:
        return wire.dump_json({"chain": self.meta["chain"]})


class StubReplica:
    """A replica without tensors. It is a `lambdaml.worker.machine.Machine`.

    Args:
        settings: The run's settings.
        costs: The seconds and bytes that its work takes.
        charge: Is called with the seconds that each piece of work takes; see `VirtualWorld.charge`.
        clock: Returns the time of the function's world, in seconds.
        bad: Returns whether every replica must reject the update of this worker and sequence number.

    Attributes:
        memories: The memories of the workers that it computes for. A residual is a number there.
        log_state: The log state after the commits applied so far.
        version: The number of optimizer steps taken.
        chain: The hash over everything applied so far.
    """

    def __init__(
        self,
        settings: Settings,
        costs: Costs,
        charge: Callable[[float], None] = lambda seconds: None,
        clock: Callable[[], float] = lambda: 0.0,
        bad: Callable[[int, int], bool] = lambda worker, seq: False,
    ) -> None:
        self.settings = settings
        self.parts = Parts.of(settings)
        self.costs = costs
        self.log_state = LogState(settings.workers, settings.steps)
        self.version = 0
        self.chain = hashlib.blake2b(f"{settings.seed}".encode(), digest_size=16).digest()
        self.own = OwnModels.made(settings, self.parts.schedule)
        self.memories = Memories(_give_back, settings.takes_turns, settles=self.own is None)
        self._taken = self._counted = 0
        self._seconds: dict[int, float] = {}
        self._counts_batches = covers_batches(self.parts.algorithm)
        self.sampler = sampler_of(settings)
        self._next = self.chain
        self._terms: list[tuple[tuple[int, int], float, float]] = []
        self._added = 0
        self._read: list[Body] = []
        self._charge, self._clock, self.bad = charge, clock, bad
        self.rounds = StubRounds(self, charge)
        self.slices = StubSlices(self) if self.parts.slices else None
        self.travels = StubTravels.of(self)

    def twin(self) -> StubReplica:
        return StubReplica(self.settings, self.costs, self._charge, self._clock, self.bad)

    def assign(self, worker: int, seq: int) -> Assignment:
        memory = self.memories.of(worker, seq) if self.parts.remembers else None
        return self.parts.algorithm.assign(
            self.settings, self.sampler.share(worker, seq), worker, seq, memory, self._seconds
        )

    def compute(self, assignment: Assignment) -> Computed:
        start, worker, seq = self._clock(), assignment.worker, assignment.seq
        memory = self.memories.of(worker, seq) if self.parts.remembers else None
        self._charge(self.costs.step_s * assignment.batches * self.parts.algorithm.summands)
        computed = self._clock()
        self._charge(self.costs.encode_s)
        numbers = range(assignment.first_batch, assignment.first_batch + assignment.batches)
        share = self.sampler.share(worker, seq).number
        own = None if self.own is None else self.own.of(worker, seq)
        unsent = stub_unsent(memory) if self.parts.algorithm.ahead and memory is not None else 0
        loss = chain_digest(self.chain if own is None else own.body[_CHAIN].tobytes(), worker, seq, unsent)
        if memory is not None:
            self._taken = taken_up(loss, stub_residual(memory))
            loss = (self._taken % _WHOLE) / _WHOLE
            self._counted = assignment.first_batch + assignment.batches
        body = {} if self.slices is None else {_NUMBERS: np.full(self.parts.slices, loss)}
        return Computed(
            body=body if self.travels is None else self.travels.body(),
            base=self.version if own is None else seq,
            base_commit=self.log_state.commit if own is None else 0,
            samples=sum(self.sampler.count(share, batch) for batch in numbers),
            loss=loss,
            compute_s=computed - start,
            encode_s=self._clock() - computed,
            batches=(assignment.first_batch, assignment.batches) if self._counts_batches else None,
            memory=memory.digest() if memory is not None else "",
            extra=b"extra" if self.settings.extra is not None else b"",
        )

    def remember(self, update: Update) -> None:
        if not self.parts.remembers:
            return
        memory = self.memories.of(*update.id)
        memory.seq += 1
        if update.fault:
            return
        memory.values = {"batches": self._counted}
        if self.own is not None:  # an inner optimizer
            memory.arrays = {"residual": np.array([self._taken // 4], np.int64)}
            return
        memory.arrays = {}
        memory.pending[update.seq] = PendingUpdate(np.array([self._taken], np.int64), {})
        self.memories.made(memory)

    def check(self, update: Update) -> str:
        return "gradient is not finite" if self.bad(update.worker, update.seq) else ""

    def check_header(self, update: Update) -> str:
        return ""

    @property
    def update_bytes(self) -> int:
        return self.costs.update_bytes + HEADER_BYTES

    def held_bytes(self, update: Update) -> int:
        return update.size_bytes + self.costs.update_bytes

    def apply(self, commit: Commit, updates: Mapping[tuple[int, int], Update], until: int | None = None) -> None:
        self.begin(commit)
        for step in commit.steps:
            for entry in step:
                self.add(entry, updates[entry.worker, entry.seq])
            self.step(step)
        self.end(commit)

    def begin(self, commit: Commit) -> None:
        if commit.version != self.version:
            raise BadObject(f"commit {commit.commit} starts from version {commit.version}, not {self.version}")
        self._next, self._terms, self._added = self.chain, [], 0

    def add(self, entry: Entry, update: Update) -> None:
        assert update.loaded, f"update {update.id} was let go before it was added"
        if update.batches is not None:
            self._seconds[update.worker] = update.compute_s / update.batches[1]
        self._terms.append((update.id, update.loss, entry.weight))
        self._added += 1

    def summing(self, share: float = 1.0) -> StubSum:
        """Begin a sum of updates, or of this share of each."""
        return StubSum(self.costs.apply_update_s * share, self._charge)

    def besides(self, update: Update) -> Body:
        return {}

    def add_sum(self, step: tuple[Entry, ...], updates: Sequence[Update], body: Body) -> None:
        if not body and self.slices is not None:
            body, self._read = self.slices.assemble(self._read), []
        self._terms += [((int(w), int(seq)), loss, weight) for w, seq, loss, weight in body["terms"].tolist()]
        self._added = 0
        for update in updates:
            if update.batches is not None:
                self._seconds[update.worker] = update.compute_s / update.batches[1]

    def add_slice(self, index: int, body: Body) -> None:
        self._read = [*(self._read if index else []), body]

    def pass_over(self, commit: Commit) -> None:
        self.version = commit.last_version
        self.log_state.advance(commit)

    def step(self, step: tuple[Entry, ...]) -> None:
        self._next = hashlib.blake2b(self._next + repr(self._terms).encode(), digest_size=16).digest()
        self._terms = []
        self._charge(self.costs.apply_s + self.costs.apply_update_s * self._added)
        self._added = 0

    def end(self, commit: Commit) -> None:
        """Change the state. It changes only here, so that a death within a commit leaves a state that the log knows."""
        self.chain, self.version = self._next, commit.last_version
        self.log_state.advance(commit)
        self.memories.settle(self.log_state)

    def shared_state(self) -> StubState:
        return self.state()

    def state(self) -> StubState:
        return StubState({"log_state": self.log_state.dump(), "chain": self.chain.hex()})

    def alone(self, entry: str) -> StubState:
        meta = {"log_state": {"version": self.version}, "chain": self.chain.hex(), "entry": entry}
        return StubState(meta)

    def adopt(self, state: StubState, commit: Commit) -> None:
        self._next = bytes.fromhex(state.meta["chain"])
        self.end(commit)

    def load(self, state: StubState) -> None:
        self.log_state = LogState.load(state.meta["log_state"], self.settings.workers, self.settings.steps)
        self.version = self.log_state.version
        self.chain = bytes.fromhex(state.meta["chain"])
        if self.own is not None:
            self.own.loaded = {_CHAIN: np.frombuffer(self.chain, np.uint8)}, self.version

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> StubState:
        record = wire.load_json(data, key)
        return StubState({name: record[name] for name in ("log_state", "chain", "entry") if name in record})


class StubSlices:
    """The slices of updates without tensors: each has a number. It is a `lambdaml.worker.machine.Slices`."""

    def __init__(self, machine: StubReplica) -> None:
        self._machine = machine
        self._count = count = machine.parts.slices
        large = machine.costs.update_bytes > APART_BYTES and not (machine.parts.remembers or machine.parts.delay)
        self.slicing = Slicing(count, count, 1, (Part(_NUMBERS, "float64", (), True),), large)

    def size_bytes(self, index: int) -> int:
        """Return the modelled bytes of a slice."""
        return 1 + self._machine.costs.update_bytes // self._count

    def check(self, block: Block, index: int) -> tuple[str, float]:
        """Return why an update must be rejected. One slice alone is the reason."""
        bad = self._machine.bad(block.worker, block.seq) and index == (block.worker + block.seq) % self._count
        return "gradient is not finite" if bad else "", 1.0

    def summing(self, index: int) -> StubSum:
        return self._machine.summing(1 / self._count)

    def assemble(self, bodies: Sequence[Body]) -> Body:
        """Return the terms of all slices; those of each if they are not the same."""
        if not all(bodies):
            return {}
        same = all(np.array_equal(body["terms"], bodies[0]["terms"]) for body in bodies)
        return bodies[0] if same else {"terms": np.concatenate([body["terms"] for body in bodies])}


class StubSum:
    """A sum of updates without tensors: the list of its terms. It is a `lambdaml.worker.machine.Summing`."""

    def __init__(self, add_s: float, charge: Callable[[float], None]) -> None:
        self._terms: list[NDArray[np.float64]] = [np.empty((0, 4))]
        self._add_s, self._charge = add_s, charge

    def add(self, entry: Entry, update: Update) -> None:
        assert update.loaded, f"update {update.id} was let go before it was added"
        loss = float(update.body[_NUMBERS][0]) if _NUMBERS in update.body else update.loss
        self._terms.append(np.array([[entry.worker, entry.seq, loss, entry.weight]]))
        self._charge(self._add_s)

    def join(self, entries: Sequence[Entry], body: Body) -> None:
        self._terms.append(body["terms"])
        self._charge(self._add_s)

    def finish(self) -> Body:
        return {"terms": np.concatenate(self._terms)} if len(self._terms) > 1 else {}


class StubRounds:
    """What such a replica does with models of workers. It is `lambdaml.worker.machine.Rounds`."""

    def __init__(self, machine: StubReplica, charge: Callable[[float], None]) -> None:
        self._machine, self._charge = machine, charge

    def averaging(self, turnout: Mapping[int, float]) -> StubMean:
        return StubMean(self._machine.costs.apply_update_s, self._charge)

    def put(self, body: Body) -> None:
        self._machine.chain = body[_CHAIN].tobytes()


class StubMean:
    """A mean of models without tensors: a hash over what is averaged. It is a `lambdaml.worker.machine.Averaging`."""

    def __init__(self, add_s: float, charge: Callable[[float], None]) -> None:
        self._terms: list[tuple[int, int, float]] = []
        self._add_s, self._charge = add_s, charge

    def add(self, update: Update) -> None:
        assert update.loaded, f"update {update.id} was let go before it was added"
        self._terms.append((update.worker, update.seq, update.loss))
        self._charge(self._add_s)

    def finish(self) -> Body:
        return {_CHAIN: np.frombuffer(mean_digest(self._terms), np.uint8)}


def mean_digest(terms: Sequence[tuple[int, int, float]]) -> bytes:
    """Return a hash that stands for the mean of the models in these updates, each a worker, its round, and its loss."""
    return hashlib.blake2b(repr(list(terms)).encode(), digest_size=16).digest()


def taken_up(loss: float, residual: int) -> int:
    """Return the number that stands for the vector of an update together with its worker's residual."""
    return (round(loss * _WHOLE) + residual) % _WHOLE


def stub_sent(taken: int) -> int:
    """Return the part of such a number that the update carries: three quarters of it."""
    return taken - taken // 4


def stub_residual(memory: Memory) -> int:
    """Return the residual that a memory holds."""
    return int(memory.arrays["residual"][0]) if "residual" in memory.arrays else 0


def stub_unsent(memory: Memory) -> int:
    """Return how far the worker's own model is ahead of its base."""
    return stub_residual(memory) + sum(int(pending.vector[0]) for pending in memory.pending.values())


def _give_back(memory: Memory, pending: PendingUpdate, weight: float) -> None:
    taken = int(pending.vector[0])
    rest = taken - round(weight * stub_sent(taken)) + stub_residual(memory)
    memory.arrays["residual"] = np.array([rest % _WHOLE], np.int64)


def chain_digest(chain: bytes, worker: int, seq: int, unsent: int = 0) -> float:
    """Return a number in [0, 1) that represents the gradient of this update at this state.

    Args:
        unsent: How far the worker's own model is ahead of that state, if it computes from there.
    """
    at = chain + b"%d" % unsent if unsent else chain
    digest = hashlib.blake2b(at + b"%d/%d" % (worker, seq), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48

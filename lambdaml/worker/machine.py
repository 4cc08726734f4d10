"""The protocol of the state machine that a function keeps: a replica, and the states that are taken from it.

`lambdaml.training.replica.Replica` has tensors; `lambdaml.simulation.stub_replica.StubReplica` has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from lambdaml.algorithms import Assignment
from lambdaml.errors import BadObject
from lambdaml.log import keys
from lambdaml.log.memory import Memories
from lambdaml.log.own_models import OwnModels
from lambdaml.log.partial import Partial
from lambdaml.log.records import Body, Commit, Entry, Update
from lambdaml.log.slices import Block, Slicing
from lambdaml.log.state import LogState
from lambdaml.parts import Parts
from lambdaml.storage.protocol import Bytes
from lambdaml.training.sampling import Sampler
from lambdaml.worker.travels import Travels
from lambdaml.worker.world import World

LONG = "gradient has a norm above the limit"
"""The reason for which an update is rejected whose norm is greater than the run allows."""


@dataclass(frozen=True, slots=True)
class Computed:
    """The result of one computation: the encoded vector, the position that it was computed at, times, and warnings.

    Attributes:
        body: The encoded vector. It may alias the replica's buffers: write it out before the replica is used again.
        base: The version that it was computed from.
        base_commit: The number of commits that had been applied then.
        samples: The number of samples that were used.
        loss: The mean loss of the batches.
        compute_s: The seconds that the computation took.
        encode_s: The seconds that its encoding took.
        labels: The number of samples of each class, if the run's staleness rule asks for that.
        batches: The first of the worker's batches and their number; None for a gradient of one batch.
        memory: The digest of the memory that it was computed from; "" in a run without memory.
        residuals: The primal and the dual residual at the base; see `lambdaml.algorithms.Message`.
        parts: The means of the parts of the loss that the job names; None for one that is not finite.
        extra: The object of what is measured beside the update; b"" if nothing is.
        left_out: Whether nothing was computed, since the client is left out.
        warnings: Texts for the user, one for each finding.
    """

    body: Body
    base: int
    base_commit: int
    samples: int
    loss: float
    compute_s: float
    encode_s: float
    labels: tuple[int, ...] = ()
    batches: tuple[int, int] | None = None
    memory: str = ""
    residuals: tuple[float, ...] = ()
    parts: dict[str, float | None] = field(default_factory=dict)
    extra: bytes = b""
    left_out: bool = False
    warnings: tuple[str, ...] = ()

    def update(
        self, assignment: Assignment, codec: str, generation: int = 1, function: str = "", **more: Any
    ) -> Update:
        """Return it as an update; `more` are further members of `Update`."""
        copied = {name: getattr(self, name) for name in _COPIED}
        return Update(
            worker=assignment.worker,
            seq=assignment.seq,
            codec=codec,
            generation=generation,
            function=function,
            **copied,
            **more,
        )


_COPIED = (
    *("base", "base_commit", "samples", "loss", "compute_s", "encode_s"),
    *("labels", "batches", "memory", "residuals", "parts", "body", "left_out"),
)
"""The members of a computation that its update has, too."""


class MachineState(Protocol):
    """The state at a version, detached from its machine."""

    @property
    def version(self) -> int:
        """The number of optimizer steps taken."""
        ...

    @property
    def meta(self) -> dict[str, Any]:
        """The values of the state that are not tensors, in plain types."""
        ...

    @property
    def size_bytes(self) -> int:
        """The approximate size of a snapshot of this state."""

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hexadecimal."""
        ...

    def dump(self, sha256: str = "") -> bytes:
        """Return the bytes of a snapshot. `sha256` is the digest, if it is known."""

    def dump_model(self) -> bytes:
        """Return the bytes of the model alone, as the run's result holds it."""
        ...

    def over(self, base: Any) -> MachineState:
        """Return this state, which was read from a snapshot, together with the state in frozen.safetensors."""


class Summing(Protocol):
    """A sum of some of a step's updates, which a function adds up for the others. It has no part in a state."""

    def add(self, entry: Entry, update: Update) -> None:
        """Add an update, with the weight of its entry. Workers come in rising order."""
        ...

    def join(self, entries: Sequence[Entry], body: Body) -> None:
        """Add another such sum, of the updates that have these entries."""
        ...

    def finish(self) -> Body:
        """Return the arrays of the sum. It is over then."""
        ...


class Averaging(Protocol):
    """A mean of models of workers."""

    def add(self, update: Update) -> None:
        """Add the model in an update. Workers come in rising order. The update may be freed then."""
        ...

    def finish(self) -> Body:
        """Return the mean, as the body of an update has it."""
        ...


class Rounds(Protocol):
    """What a machine does with models of workers."""

    def averaging(self, turnout: Mapping[int, float]) -> Averaging:
        """Begin a mean of models of workers.

        Args:
            turnout: The number of times that a worker's model counts, if that is not once.
        """
        ...

    def put(self, body: Body) -> None:
        """Take such a mean as the machine's model, after the commits that were passed over."""
        ...


class Slices(Protocol):
    """What a machine does with slices of updates.

    Attributes:
        slicing: The way in which updates are cut.
    """

    slicing: Slicing

    def size_bytes(self, index: int) -> int:
        """Return the bytes that a slice takes in memory."""
        ...

    def check(self, block: Block, index: int) -> tuple[str, float]:
        """Return why an update with this slice must be rejected, or "", and the sum of its numbers' squares."""
        ...

    def summing(self, index: int) -> Summing:
        """Begin a sum of the slices of this number. Updates are added to it whose bodies are those of slices."""
        ...

    def assemble(self, bodies: Sequence[Body]) -> Body:
        """Return the whole sum, given those of all slices in order."""
        ...


def apart(machine: Machine) -> bool:
    """Return whether the slices of a machine's updates are objects of their own."""
    return machine.slices is not None and machine.slices.slicing.apart


class Machine(Protocol):
    """A replica: it loads a state, applies commits in order, and computes updates.

    A commit is applied by `apply`, or in pieces: `begin`, then for each of its steps an `add` for each update in order
    and a `step`, then `end`. An update may be freed once it was added. No gradient may be computed between `begin` and
    `end`.
    """

    @property
    def parts(self) -> Parts:
        """The run's schedule, algorithm, codec and staleness rule."""
        ...

    @property
    def sampler(self) -> Sampler:
        """The sampler that deals the samples to the workers."""
        ...

    @property
    def log_state(self) -> LogState:
        """The log state after the commits applied so far."""
        ...

    @property
    def update_bytes(self) -> int:
        """The bytes that an update will take in memory, as far as that is known before one was made."""

    def held_bytes(self, update: Update) -> int:
        """Return the bytes that an update takes in memory."""

    @property
    def memories(self) -> Memories:
        """The memories of the workers that it computes for."""
        ...

    def twin(self) -> Machine:
        """Return another machine for the same run, which has loaded nothing yet."""
        ...

    def assign(self, worker: int, seq: int) -> Assignment:
        """Return what to compute for the worker's next update."""
        ...

    def compute(self, assignment: Assignment) -> Computed:
        """Compute an update at the present version. The state is left as it was.

        Raises:
            RunFailed: If the worker's memory is void.
        """
        ...

    def remember(self, update: Update) -> None:
        """Fold the update that was just computed, and checked, into its worker's memory."""
        ...

    def check(self, update: Update) -> str:
        """Return why this update must be rejected, or "". The answer is the same on every replica."""
        ...

    def check_header(self, update: Update) -> str:
        """Return why an update must be rejected, whatever its vector is, or "". Its body holds what is not cut."""
        ...

    @property
    def slices(self) -> Slices | None:
        """What it does with slices of updates; None if updates are written as a whole."""

    @property
    def travels(self) -> Travels | None:
        """What it does with travelling models; None if the run is not tuned."""

    def apply(self, commit: Commit, updates: Mapping[tuple[int, int], Update]) -> None:
        """Apply the next commit. `updates` holds every update that it applies, by worker and sequence number."""
        ...

    def begin(self, commit: Commit) -> None:
        """Begin to apply the next commit in pieces."""
        ...

    def add(self, entry: Entry, update: Update) -> None:
        """Add an update, with the weight of its log entry, to the sum of the step."""
        ...

    def step(self, step: tuple[Entry, ...]) -> None:
        """Take the optimizer step along the mean of the updates that were added."""
        ...

    def end(self, commit: Commit) -> None:
        """Finish the commit, whose steps have all been taken, and advance the log state."""
        ...

    def summing(self) -> Summing:
        """Begin a sum of updates that other functions take a step along."""
        ...

    def besides(self, update: Update) -> Body:
        """Return a copy of what an update's body holds and no sum does."""
        ...

    def add_sum(self, step: tuple[Entry, ...], updates: Sequence[Update], body: Body) -> None:
        """Add the sum of a step's updates, in place of these. The bodies of `updates` hold what the sum does not.

        Args:
            body: The sum; nothing if `add_slice` was given all its slices.

        Raises:
            BadObject: If it is no sum of vectors of this model.
        """
        ...

    def add_slice(self, index: int, body: Body) -> None:
        """Write the sum of one slice of a step's updates to its place in the machine's vector. No gradient may be computed
        until `add_sum` has added all of them.

        Raises:
            BadObject: If it is no sum of slices of this model.
        """
        ...

    def state(self) -> MachineState:
        """Return a copy of the state, which later commits do not change."""
        ...

    def shared_state(self) -> MachineState:
        """Return the state in the machine's own memory. Use it before the machine changes."""

    @property
    def own(self) -> OwnModels | None:
        """The models of the workers that it computes for; None if all workers share one model."""
        ...

    @property
    def rounds(self) -> Rounds:
        """What it does with these models."""
        ...

    def pass_over(self, commit: Commit) -> None:
        """Advance the log state by the next commit, and leave the model alone."""
        ...

    def alone(self, entry: str) -> MachineState:
        """Return a copy of the model alone, without what only an optimizer needs, after the commit with this log entry."""
        ...

    def adopt(self, state: Any, commit: Commit) -> None:
        """Follow the next commit by taking over the model that another machine has after it. Only a state that is loaded
        lets this machine take steps again."""
        ...

    def load(self, state: Any) -> None:
        """Become the replica that `state` was taken from, bit for bit."""
        ...

    def read(self, data: bytes | memoryview, key: str) -> MachineState:
        """Return the state that a snapshot's bytes hold. Errors name the object by `key`."""
        ...


class Total(Protocol):
    """What a function takes over from another one, in place of a commit's updates.

    Attributes:
        whole: Whether the machine has the run's model afterwards.
    """

    @property
    def whole(self) -> bool: ...

    async def apply(self, world: World, machine: Machine, commit: Commit) -> None:
        """Let the machine follow the next commit."""


@dataclass(frozen=True, slots=True)
class Summed:
    """The sum of the updates of a commit that takes one step at most.

    Attributes:
        partial: The sum.
    """

    partial: Partial
    whole: ClassVar[bool] = True

    async def apply(self, world: World, machine: Machine, commit: Commit) -> None:
        """Take the step along the mean."""
        await world.compute(lambda: self._step(machine, commit))

    def _step(self, machine: Machine, commit: Commit) -> None:
        known = {update.id: update for update in self.partial.updates}
        machine.begin(commit)
        for step in commit.steps:
            machine.add_sum(step, [known[entry.worker, entry.seq] for entry in step], self.partial.sum)
            machine.step(step)
        machine.end(commit)


@dataclass(frozen=True, slots=True)
class Folded:
    """The model after a commit, with its log entry.

    Attributes:
        commit: The commit.
        state: The model alone.
    """

    commit: Commit
    state: MachineState
    whole: ClassVar[bool] = True

    @staticmethod
    def of(machine: Machine, commit: Commit) -> Folded:
        """Return the machine's model after the commit that it has just applied."""
        return Folded(commit, machine.alone(commit.pack().decode()))

    def pack(self) -> bytes:
        """Return the object's bytes."""
        return self.state.dump()

    @staticmethod
    def read(machine: Machine, data: Bytes, key: str) -> Folded:
        """Read a model back.

        Raises:
            BadObject: If the object is damaged, or is not the one that the key names.
        """
        state = machine.read(data, key)
        entry = state.meta.get("entry")
        if not isinstance(entry, str):
            raise BadObject(f"{key} has no log entry")
        return Folded(Commit.unpack(entry.encode(), keys.reduced_commit(key)), state)

    async def apply(self, world: World, machine: Machine, commit: Commit) -> None:
        """Take over the model."""
        await world.compute(lambda: machine.adopt(self.state, commit))


def conclude(machine: Machine, update: Update) -> bytes:
    """Conclude an update that the machine has just computed: write it out, check it, and let its worker remember it.

    Returns:
        The bytes of the update's object.
    """
    slicing = machine.slices.slicing if machine.slices is not None else None
    if machine.own is not None:  # then the header says what is wrong with it
        update.fault = machine.check(update)
        machine.own.report(update)
    data = update.pack(slicing)  # first, since the body may alias the machine's buffers, and is remembered
    if machine.own is None:
        update.fault = machine.check(update)
    machine.remember(update)
    return data

"""The state machine that a function keeps: what it asks of a replica, and of the states it takes from one.

`lambdaml.training.replica.Replica` is the one with tensors; `lambdaml.simulation.stub_replica.StubReplica` has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lambdaml.log.records import Body, Commit, Entry, Update
from lambdaml.log.state import LogState
from lambdaml.parts import Parts


@dataclass(frozen=True, slots=True)
class Gradient:
    """What one computation yields: the encoded gradient, the version it is of, how long it took, and warnings.

    `body` may alias the replica's buffers: write it out before the replica is used again.
    """

    body: Body
    base: int
    base_commit: int
    samples: int
    loss: float
    compute_s: float
    encode_s: float
    labels: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


class MachineState(Protocol):
    """The state at a version, detached from its machine."""

    @property
    def version(self) -> int: ...
    @property
    def meta(self) -> dict[str, Any]: ...
    @property
    def size_bytes(self) -> int:
        """Of a snapshot, about."""

    def digest(self) -> str: ...
    def dump(self, sha256: str = "") -> bytes:
        """The bytes of a snapshot; `sha256` is the digest, if it is known."""

    def dump_model(self) -> bytes: ...
    def over(self, base: Any) -> MachineState:
        """This state, that was read, together with the state in frozen.safetensors."""


class Machine(Protocol):
    """A replica: load a state, apply commits in order, compute updates.

    A commit is applied by `apply`, or in pieces: `begin`, for each of its steps `add` each update in order and then `step`,
    and `end`. An update that was added may be freed. Gradients must not be computed in between.
    """

    @property
    def parts(self) -> Parts: ...
    @property
    def log_state(self) -> LogState: ...
    @property
    def update_bytes(self) -> int:
        """What an update will take in memory, as far as that can be told before one was made."""

    def held_bytes(self, update: Update) -> int:
        """What an update takes in memory."""

    def gradient(self, worker: int, seq: int) -> Gradient: ...
    def check(self, update: Update) -> str: ...
    def apply(self, commit: Commit, updates: Mapping[tuple[int, int], Update]) -> None: ...
    def begin(self, commit: Commit) -> None: ...
    def add(self, entry: Entry, update: Update) -> None: ...
    def step(self, step: tuple[Entry, ...]) -> None: ...
    def end(self, commit: Commit) -> None: ...
    def state(self) -> MachineState: ...
    def shared_state(self) -> MachineState:
        """The state, in the machine's own memory: to be used before the machine changes."""

    def load(self, state: Any) -> None: ...
    def read(self, data: bytes | memoryview, key: str) -> MachineState: ...

"""The state machine that a function keeps: what it asks of a replica, and of the states it takes from one.

`lambdaml.training.replica.Replica` is the one with tensors; `lambdaml.simulation.stub_replica.StubReplica` has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from lambdaml.log.records import Body, Commit, Entry, Update
from lambdaml.log.state import LogState
from lambdaml.parts import Parts


class Gradient(Protocol):
    """What one computation yields; see `lambdaml.training.replica.Gradient`."""

    @property
    def body(self) -> Body: ...
    @property
    def base(self) -> int: ...
    @property
    def base_commit(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def labels(self) -> tuple[int, ...]: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def compute_s(self) -> float: ...
    @property
    def encode_s(self) -> float: ...


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

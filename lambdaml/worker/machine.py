"""The protocol of the state machine that a function keeps: a replica, and the states that are taken from it.

`lambdaml.training.replica.Replica` has tensors; `lambdaml.simulation.stub_replica.StubReplica` has none.
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
    """The result of one computation: the encoded gradient, the version that it was computed from, times, and warnings.

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
        """The approximate size of a snapshot of this state."""

    def digest(self) -> str: ...
    def dump(self, sha256: str = "") -> bytes:
        """Return the bytes of a snapshot. `sha256` is the digest, if it is known."""

    def dump_model(self) -> bytes: ...
    def over(self, base: Any) -> MachineState:
        """Return this state, which was read from a snapshot, together with the state in frozen.safetensors."""


class Machine(Protocol):
    """A replica: it loads a state, applies commits in order, and computes updates.

    A commit is applied by `apply`, or in pieces: `begin`, then for each of its steps an `add` for each update in order
    and a `step`, then `end`. An update may be freed once it was added. No gradient may be computed between `begin` and
    `end`.
    """

    @property
    def parts(self) -> Parts: ...
    @property
    def log_state(self) -> LogState: ...
    @property
    def update_bytes(self) -> int:
        """The bytes that an update will take in memory, as far as that is known before one was made."""

    def held_bytes(self, update: Update) -> int:
        """Return the bytes that an update takes in memory."""

    def gradient(self, worker: int, seq: int) -> Gradient: ...
    def check(self, update: Update) -> str: ...
    def apply(self, commit: Commit, updates: Mapping[tuple[int, int], Update]) -> None: ...
    def begin(self, commit: Commit) -> None: ...
    def add(self, entry: Entry, update: Update) -> None: ...
    def step(self, step: tuple[Entry, ...]) -> None: ...
    def end(self, commit: Commit) -> None: ...
    def state(self) -> MachineState: ...
    def shared_state(self) -> MachineState:
        """Return the state in the machine's own memory. Use it before the machine changes."""

    def load(self, state: Any) -> None: ...
    def read(self, data: bytes | memoryview, key: str) -> MachineState: ...

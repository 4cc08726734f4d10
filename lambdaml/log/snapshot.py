"""Snapshots: the full training state at a version, as one safetensors file.

Tensors are named `model/<state_dict name>`, `buffer/<name>` for buffers that are not part of the state_dict,
`optimizer/<parameter index>/<entry>`, `scheduler/...`, and `rule/<name>` for what a staleness rule remembers.
Everything that is not a tensor is kept as JSON in the metadata, under `state` (`lambdaml.log.encoding`). Nothing needs
pickle, and any safetensors reader can look inside. The only complex type of safetensors is complex64: tensors of the
other complex types are kept as pairs of real numbers, and the metadata's `complex` names them.

Parameters that require no gradient when the run begins are kept once, in `frozen.safetensors`. Snapshots name the
SHA-256 of that state under `frozen`; of these parameters they hold only those that something changed all the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lambdaml.errors import BadObject
from lambdaml.log import keys, wire
from lambdaml.log.reads import demand_present, read_now
from lambdaml.log.wire import canonical
from lambdaml.storage.protocol import Store

if TYPE_CHECKING:
    from torch import Tensor

MODEL_PREFIX = "model/"
RULE_PREFIX = "rule/"
EXTRA = "extra/"
"""The prefix of the names of tensors in a module's extra state."""
FROZEN_DIGEST = "frozen"
"""The key in a state's `meta` under which the digest of frozen.safetensors is kept, if that object exists."""


@dataclass(frozen=True, slots=True)
class State:
    """The state of a replica.

    Attributes:
        tensors: The CPU tensors, by name.
        meta: All other values, as `lambdaml.log.encoding` writes them.
        frozen: The parameters that require no gradient and are as they were when the run began, by name. A state that
            was just read has none of them; see `over`.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    frozen: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The number of optimizer steps taken."""
        version: int = self.meta["log_state"]["version"]
        return version

    @property
    def size_bytes(self) -> int:
        """The total size of the tensors that a snapshot holds."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def all_tensors(self) -> dict[str, Tensor]:
        """All tensors by name, including the frozen parameters."""
        return {**self.frozen, **self.tensors}

    def base(self) -> State:
        """Return the state that frozen.safetensors holds: the frozen parameters alone."""
        return State(dict(self.frozen), {})

    def over(self, base: State) -> State:
        """Return this state together with the frozen parameters, which it was read without.

        Raises:
            BadObject: If this state was taken with other frozen parameters.
        """
        if base.digest() != self.meta[FROZEN_DIGEST]:
            raise BadObject(f"{keys.FROZEN} holds other parameters than the run's snapshots were taken with")
        return replace(self, frozen=base.tensors)

    def model(self) -> dict[str, Any]:
        """Return the model's state_dict."""
        from lambdaml.log.encoding import decode

        named = self.all_tensors
        tensors = {name.removeprefix(MODEL_PREFIX): t for name, t in named.items() if name.startswith(MODEL_PREFIX)}
        return tensors | {name: decode(value, named) for name, value in self.meta.get("extra", {}).items()}

    def digest(self, schema: int = wire.SCHEMA) -> str:
        """Return the SHA-256 of the schema, all values, and the tensors in the order of their names.

        Frozen parameters count by their own digest, which is one of the values.
        """
        from lambdaml.log.tensorfile import raw

        sha = hashlib.sha256(canonical({"schema": schema, **self.meta}))
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            sha.update(heading(name, tensor.dtype, tuple(tensor.shape)))
            sha.update(raw(tensor))
        return sha.hexdigest()

    def dump(self, sha256: str = "") -> bytes:
        """Return the bytes of the snapshot object. They are the only copy of the tensors that this makes.

        Args:
            sha256: The digest, if it is known already.
        """
        from lambdaml.log.tensorfile import dump

        record = {"schema": wire.SCHEMA, "sha256": sha256 or self.digest(wire.SCHEMA), **self.meta}
        return dump(self.tensors, {"state": json.dumps(record, separators=(",", ":"), allow_nan=False)})

    def dump_model(self) -> bytes:
        """Return the bytes of model.safetensors: the state_dict alone, so that equal models are equal files.

        Extra state (`get_extra_state`) is kept in the metadata's `extra`.
        """
        from lambdaml.log.tensorfile import dump

        extra = self.meta.get("extra")
        metadata = {"format": "pt"} | ({"extra": canonical(extra).decode()} if extra else {})
        kept = (MODEL_PREFIX, EXTRA) if extra else (MODEL_PREFIX,)
        return dump(
            {name.removeprefix(MODEL_PREFIX): t for name, t in self.all_tensors.items() if name.startswith(kept)},
            metadata,
        )

    @staticmethod
    def load(data: bytes | memoryview, key: str) -> State:
        """Read a snapshot and check it against the digest it carries.

        Raises:
            BadObject: If it is damaged or truncated.
            NewerSchema: If it was written by a newer lambdaml.
        """
        from lambdaml.log.tensorfile import load_tensors

        try:
            tensors, metadata = load_tensors(data)
            meta, schema, sha256 = read_meta(metadata)
        except ValueError as error:
            raise BadObject(f"{key} is not a snapshot: it is damaged or truncated ({len(data)} bytes)") from error
        state = State(tensors, meta)
        if state.digest(schema) != sha256:
            raise BadObject(f"{key} does not match its checksum")
        wire.check_schema({"schema": schema}, key)
        return state


def heading(name: str, dtype: Any, shape: tuple[int, ...]) -> bytes:
    """Return the bytes that go into a digest ahead of a tensor's own: its name, type and shape."""
    return f"{name}:{dtype}:{shape}".encode()


def read_meta(metadata: Mapping[str, str]) -> tuple[dict[str, Any], int, str]:
    """Return a state's values, its schema and its digest, from the metadata of its file.

    Raises:
        ValueError: If the metadata holds no state.
    """
    try:
        meta = json.loads(metadata["state"])
        if not isinstance(meta, dict):
            raise TypeError("no state")
        schema, sha256 = int(meta.pop("schema")), str(meta.pop("sha256"))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no state: {error}") from error
    return meta, schema, sha256


def meta_of(store: Store, key: str) -> dict[str, Any]:
    """Return the values of a snapshot's state without reading its tensors.

    Raises:
        BadObject: If there is no such snapshot, or it is damaged.
    """
    from lambdaml.log.tensorfile import header_bytes, read_header

    info = store.head(key)
    try:
        size_bytes = 0 if info is None else info.size_bytes
        length = header_bytes(store.get_range(key, 0, 8) or b"", size_bytes)
        return read_meta(read_header(store.get_range(key, 8, length) or b"", size_bytes)[1])[0]
    except ValueError as error:
        raise BadObject(f"{key} cannot be read: {error}") from error


def read_state(store: Store, key: str) -> State | None:
    """Return a snapshot with its frozen parameters, or None if there is no such snapshot.

    Raises:
        BadObject: If the snapshot is damaged, or its frozen parameters are damaged or missing.
    """
    state = read_now(store, key, State.load)
    if state is None or FROZEN_DIGEST not in state.meta:
        return state
    return state.over(demand_present(read_now(store, keys.FROZEN, State.load), keys.FROZEN))


def read_model(data: bytes | memoryview) -> State:
    """Return the state_dict that a model.safetensors holds, as a state that holds nothing else."""
    from lambdaml.log.tensorfile import load_tensors

    tensors, metadata = load_tensors(data)
    model = {name if name.startswith(EXTRA) else MODEL_PREFIX + name: tensor for name, tensor in tensors.items()}
    return State(model, {"extra": json.loads(metadata.get("extra", "{}"))})

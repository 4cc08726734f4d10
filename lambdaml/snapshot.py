"""Snapshots: the full training state at a version, as one safetensors file.

Tensors are named `model/<state_dict name>`, `optimizer/<parameter index>/<entry>`, and `rule/<name>` for what a staleness
rule remembers; everything that is not a tensor stands as JSON in the metadata, under `state`. Nothing needs pickle, and any safetensors reader can look inside.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lambdaml import wire
from lambdaml.errors import BadObject, JobError

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "model/"
RULE = "rule/"


@dataclass(frozen=True, slots=True)
class State:
    """The state of a replica, detached from it: CPU tensors by name, and plain values."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def version(self) -> int:
        version: int = self.meta["view"]["version"]
        return version

    def model(self) -> dict[str, Tensor]:
        """The model's state_dict."""
        return {name.removeprefix(MODEL): t for name, t in self.tensors.items() if name.startswith(MODEL)}

    def digest(self) -> str:
        """SHA-256 over all tensors and values, in the order of their names."""
        sha = hashlib.sha256(canonical(self.meta))
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            sha.update(_bytes(tensor))
        return sha.hexdigest()

    def dump(self) -> bytes:
        """The bytes of the snapshot object."""
        from safetensors.torch import save

        record = {"schema": wire.SCHEMA, "sha256": self.digest(), **self.meta}
        return save(self.tensors, metadata={"state": canonical(record).decode()})

    def dump_model(self) -> bytes:
        """The bytes of model.safetensors: the state_dict alone, so that equal models are equal files."""
        from safetensors.torch import save

        return save(self.model(), metadata={"format": "pt"})

    @staticmethod
    def load(data: bytes | memoryview, key: str) -> State:
        """Read a snapshot and check it against the digest it carries.

        Raises:
            BadObject: it is damaged or truncated.
            NewerSchema: it was written by a newer lambdaml.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        raw = bytes(data)
        try:
            tensors = load(raw)
            length = int.from_bytes(raw[:8], "little")
            meta = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["state"])
            if not isinstance(meta, dict):
                raise TypeError("no state")
            wire.check_schema(meta, key)
            sha256 = meta.pop("sha256")
            del meta["schema"]
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise BadObject(f"{key} is not a snapshot: it is damaged or truncated ({len(raw)} bytes)") from error
        state = State(tensors, meta)
        if state.digest() != sha256:
            raise BadObject(f"{key} does not match its checksum")
        return state


def canonical(value: Any) -> bytes:
    """JSON that is equal for equal values.

    Raises:
        JobError: something in it is not plain data.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except TypeError as error:
        raise JobError(f"the optimizer or scheduler keeps state that is not numbers and text: {error}") from error


def _bytes(tensor: Tensor) -> memoryview | bytes:
    import torch

    if tensor.numel() == 0:
        return b""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data

"""Snapshots: the full training state at a version, as one safetensors file.

Tensors are named `model/<state_dict name>`, `buffer/<name>` for buffers that are no part of the state_dict,
`optimizer/<parameter index>/<entry>`, `scheduler/...`, and `rule/<name>` for what a staleness rule remembers. Everything
that is not a tensor stands as JSON in the metadata, under `state` (`lambdaml.encoding`). Nothing needs pickle, and any
safetensors reader can look inside. safetensors knows complex64 and no other complex numbers: those stand as pairs of
real numbers, and the metadata's `complex` names them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lambdaml import wire
from lambdaml.errors import BadObject
from lambdaml.wire import canonical

if TYPE_CHECKING:
    from torch import Tensor, nn

MODEL = "model/"
RULE = "rule/"
EXTRA = "extra/"
"""Begins the names of tensors in a module's extra state."""


@dataclass(frozen=True, slots=True)
class State:
    """The state of a replica, detached from it: CPU tensors by name, and other values as `lambdaml.encoding` writes them."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def version(self) -> int:
        version: int = self.meta["view"]["version"]
        return version

    def model(self) -> dict[str, Any]:
        """The model's state_dict."""
        from lambdaml.encoding import decode

        tensors = {name.removeprefix(MODEL): t for name, t in self.tensors.items() if name.startswith(MODEL)}
        return tensors | {name: decode(value, self.tensors) for name, value in self.meta.get("extra", {}).items()}

    def load_into(self, model: nn.Module) -> None:
        """Give a module of the same job the model of this state.

        Raises:
            RuntimeError: it is another model.
        """
        from lambdaml.buffers import Buffers

        state = self.model()
        Buffers(model, late=False).load(self.tensors, state)
        model.load_state_dict(state)

    def digest(self, schema: int = wire.SCHEMA) -> str:
        """SHA-256 over the schema, all tensors and values, in the order of their names."""
        sha = hashlib.sha256(canonical({"schema": schema, **self.meta}))
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            sha.update(_bytes(tensor))
        return sha.hexdigest()

    def dump(self) -> bytes:
        """The bytes of the snapshot object."""
        record = {"schema": wire.SCHEMA, "sha256": self.digest(wire.SCHEMA), **self.meta}
        return _save(self.tensors, {"state": json.dumps(record, separators=(",", ":"), allow_nan=False)})

    def dump_model(self) -> bytes:
        """The bytes of model.safetensors: the state_dict alone, so that equal models are equal files.

        Extra state (`get_extra_state`) stands in the metadata's `extra`.
        """
        extra = self.meta.get("extra")
        metadata = {"format": "pt"} | ({"extra": canonical(extra).decode()} if extra else {})
        kept = (MODEL, EXTRA) if extra else (MODEL,)
        return _save(
            {name.removeprefix(MODEL): t for name, t in self.tensors.items() if name.startswith(kept)}, metadata
        )

    @staticmethod
    def load(data: bytes | memoryview, key: str) -> State:
        """Read a snapshot and check it against the digest it carries.

        Raises:
            BadObject: it is damaged or truncated.
            NewerSchema: it was written by a newer lambdaml.
        """
        from safetensors import SafetensorError

        raw = bytes(data)
        try:
            tensors, metadata = _load(raw)
            meta = json.loads(metadata["state"])
            if not isinstance(meta, dict):
                raise TypeError("no state")
            schema, sha256 = int(meta.pop("schema")), meta.pop("sha256")
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise BadObject(f"{key} is not a snapshot: it is damaged or truncated ({len(raw)} bytes)") from error
        state = State(tensors, meta)
        if state.digest(schema) != sha256:
            raise BadObject(f"{key} does not match its checksum")
        wire.check_schema({"schema": schema}, key)
        return state


def read_model(data: bytes | memoryview) -> State:
    """The state_dict that a model.safetensors holds, as a state without anything else."""
    tensors, metadata = _load(bytes(data))
    model = {name if name.startswith(EXTRA) else MODEL + name: tensor for name, tensor in tensors.items()}
    return State(model, {"extra": json.loads(metadata.get("extra", "{}"))})


def _save(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    import torch
    from safetensors.torch import save

    pairs = [name for name, t in tensors.items() if t.is_complex() and t.dtype != torch.complex64]
    if pairs:
        kinds = {name: str(tensors[name].dtype).removeprefix("torch.") for name in sorted(pairs)}
        tensors = tensors | {name: torch.view_as_real(tensors[name]) for name in pairs}
        metadata = metadata | {"complex": json.dumps(kinds)}
    data = save(tensors, metadata=metadata)
    return data if len(metadata) == 1 else _in_order(data)


def _in_order(data: bytes) -> bytes:
    """The same file, its metadata in the order of their names. safetensors puts them in a random one."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _load(raw: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata.

    Raises:
        SafetensorError, ValueError, KeyError, TypeError: it is no such file.
    """
    import torch
    from safetensors.torch import load

    tensors = load(raw)
    length = int.from_bytes(raw[:8], "little")
    metadata = json.loads(raw[8 : 8 + length])["__metadata__"]
    for name in json.loads(metadata.get("complex", "{}")):
        tensors[name] = torch.view_as_complex(tensors[name])
    return tensors, metadata


def _bytes(tensor: Tensor) -> memoryview | bytes:
    import torch

    if tensor.numel() == 0:
        return b""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data

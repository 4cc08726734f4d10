"""This module loads a snapshot into a model, a large one piece by piece: the model is its only copy in memory.

A snapshot is read by ranges, in the order in which its digest is taken, and the parts of the model are written into it
as they arrive. So a process that only evaluates needs no second copy, and no memory for the optimizer's state.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from lambdaml.errors import BadObject
from lambdaml.log import keys, wire
from lambdaml.log.reads import PAUSES_S
from lambdaml.log.snapshot import EXTRA, FROZEN_DIGEST, MODEL_PREFIX, State, heading, read_meta, read_state
from lambdaml.log.tensorfile import TensorPart, header_bytes, raw, read_header
from lambdaml.log.wire import canonical
from lambdaml.storage.protocol import Bytes, Store
from lambdaml.training.buffers import LOCAL, Buffers

_LARGE_BYTES = 2**26
"""A snapshot with more bytes than this is read in pieces of this size."""


def load_model(store: Store, key: str, size_bytes: int, model: nn.Module) -> bool:
    """Load the model in a snapshot of this size into a module of the same job. Return whether the snapshot exists.

    Raises:
        BadObject: If the snapshot is damaged. The module may then hold anything.
        RuntimeError: If it is a snapshot of another model.
    """
    targets = _targets(model) if size_bytes > _LARGE_BYTES else None
    if targets is not None and _stream_all(store, key, targets):
        return True
    state = read_state(store, key)
    if state is not None:
        load_into(model, state)
    return state is not None


def load_into(model: nn.Module, state: State) -> None:
    """Load the model in a state into a module of the same job.

    Raises:
        RuntimeError: If the state is of another model.
    """
    named = state.model()
    Buffers(model, late=False).load(state.tensors, named)
    model.load_state_dict(named)


def _targets(model: nn.Module) -> dict[str, Tensor] | None:
    """Return the model's tensor for each entry of its state_dict; None if loading the model takes more than copying."""
    own: dict[str, Tensor] = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    named: dict[str, Tensor] = model.state_dict(keep_vars=True)
    for module in model.modules():
        made, plain = type(module), nn.Module
        ours = made.__module__.startswith("torch.nn.modules.")
        if not ours and made._load_from_state_dict is not plain._load_from_state_dict:
            return None
        if made.get_extra_state is not plain.get_extra_state or module._load_state_dict_post_hooks:
            return None
        if module._load_state_dict_pre_hooks:
            return None
    plain_ones = all(
        own.get(name) is tensor and tensor.is_contiguous() and tensor.device.type == "cpu"
        for name, tensor in named.items()
    )
    return named if plain_ones else None


def _stream_all(store: Store, key: str, targets: dict[str, Tensor]) -> bool:
    """Write a snapshot, and the frozen parameters that it leaves out, into the targets. Return False if these are of
    another kind."""
    found = _stream(store, key, targets)
    if found is None:
        return False
    written, meta, _ = found
    if FROZEN_DIGEST in meta:
        below = _stream(store, keys.FROZEN, {name: t for name, t in targets.items() if name not in written})
        if below is None:
            return False
        if below[2] != meta[FROZEN_DIGEST]:
            raise BadObject(f"{keys.FROZEN} holds other parameters than the run's snapshots were taken with")
        written |= below[0]
    return written >= set(targets)


def _stream(store: Store, key: str, targets: dict[str, Tensor]) -> tuple[set[str], dict[str, Any], str] | None:
    """Write the tensors in a file into those targets that it has. Return their names, the file's values, and its
    digest."""
    info = store.head(key)
    if info is None:
        return None
    size_bytes = info.size_bytes
    for pause_s in (0.0, *PAUSES_S):
        time.sleep(pause_s)
        try:
            length = header_bytes(_range(store, key, 0, 8), size_bytes)
            parts, metadata = read_header(_range(store, key, 8, length), size_bytes)
            meta, schema, sha256 = read_meta(metadata)
            if not all(_fits(part, targets) for part in parts):
                return None
            written, digest = _copy(store, key, parts, targets, canonical({"schema": schema, **meta}))
        except ValueError:
            continue
        if digest == sha256:
            wire.check_schema({"schema": schema}, key)
            return written, meta, digest
    raise BadObject(f"{key} does not match its checksum")


def _fits(part: TensorPart, targets: dict[str, Tensor]) -> bool:
    """Return whether a tensor of the file can be written into the model as it is, or is not one of the model's."""
    if part.name.startswith((LOCAL, EXTRA)):
        return False
    target = targets.get(part.name.removeprefix(MODEL_PREFIX))
    if not part.name.startswith(MODEL_PREFIX) or target is None:
        return True
    return (part.dtype, part.shape) == (target.dtype, tuple(target.shape))


def _copy(
    store: Store, key: str, parts: list[TensorPart], targets: dict[str, Tensor], values: bytes
) -> tuple[set[str], str]:
    """Read all tensors in the order of their names, and write those of targets. Return the names of these, and the
    digest."""
    sha, written = hashlib.sha256(values), set()
    for part in sorted(parts, key=lambda part: part.name):
        sha.update(heading(part.name, part.dtype, part.shape))
        name = part.name.removeprefix(MODEL_PREFIX)
        place = None
        if part.name.startswith(MODEL_PREFIX) and name in targets:
            place = np.frombuffer(raw(targets[name].detach()), np.uint8)
            written.add(name)
        for start, piece in _pieces(store, key, part):
            sha.update(piece)
            if place is not None:
                place[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
    return written, sha.hexdigest()


def _pieces(store: Store, key: str, part: TensorPart) -> Iterator[tuple[int, Bytes]]:
    """Yield the bytes of a tensor in pieces, each with its offset."""
    for start in range(0, part.size_bytes, _LARGE_BYTES):
        yield start, _range(store, key, part.start + start, min(_LARGE_BYTES, part.size_bytes - start))


def _range(store: Store, key: str, start: int, length: int) -> Bytes:
    found = store.get_range(key, start, length)
    if found is None:
        raise BadObject(f"{key} is not there any more")
    if len(found) != length:
        raise ValueError("it is shorter than it was")
    return found

"""Writes and reads safetensors files without a second copy of their contents.

The format (https://huggingface.co/docs/safetensors) is 8 bytes with the length of a JSON header, the header, and the
tensors one after the other. Files are byte for byte those of the library `safetensors`: tensors are in the order of
their types and then their names, metadata in the order of its names. The library makes several copies of a large model;
this module makes one, the file, and a reader may take the tensors one at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TYPES = {
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The types of tensors by the names that files use, in the order in which files hold the tensors."""

_PAIRS = "complex"
"""The metadata key that names the complex tensors stored as pairs of real numbers: complex64 alone needs no pairs."""


@dataclass(frozen=True, slots=True)
class TensorPart:
    """The place of a tensor in a file.

    Attributes:
        name: The tensor's name.
        dtype: The dtype of its elements.
        shape: The tensor's shape.
        start: The offset of the tensor's bytes from the beginning of the file.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size_bytes(self) -> int:
        """The size of the tensor's bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def tensor(self, data: bytes | memoryview) -> Tensor:
        """Return a tensor that holds a copy of these bytes."""
        if not self.size_bytes:
            return torch.zeros(self.shape, dtype=self.dtype)
        return torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(self.dtype).reshape(self.shape)


def dump(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a file with these tensors, which are contiguous and on the CPU."""
    kinds = {}
    flat: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.is_complex() and tensor.dtype != torch.complex64:
            kinds[name] = str(tensor.dtype).removeprefix("torch.")
            tensor = torch.view_as_real(tensor)
        flat[name] = tensor
    if kinds:
        metadata = {**metadata, _PAIRS: json.dumps(dict(sorted(kinds.items())))}
    order = {dtype: (place, name) for place, (name, dtype) in enumerate(_TYPES.items())}
    names = sorted(flat, key=lambda name: (order[flat[name].dtype][0], name.encode()))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name in names:
        tensor = flat[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": order[tensor.dtype][1],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(raw(flat[name]) for name in names)])


def raw(tensor: Tensor) -> memoryview | bytes:
    """Return the bytes of a CPU tensor. They are the tensor's own memory if it is contiguous."""
    if tensor.numel() == 0:
        return b""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def load_tensors(data: bytes | memoryview) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a file's tensors, each in its own memory, and its metadata.

    Raises:
        ValueError: If it is not a safetensors file, or is damaged.
    """
    view = memoryview(data)
    length = header_bytes(view[:8], len(view))
    parts, metadata = read_header(view[8 : 8 + length], len(view))
    return {part.name: part.tensor(view[part.start : part.start + part.size_bytes]) for part in parts}, metadata


def header_bytes(start: bytes | memoryview, size_bytes: int) -> int:
    """Return the length of the header, from a file's first 8 bytes and its size.

    Raises:
        ValueError: If a file of this size cannot have such a header.
    """
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size_bytes - 8:
        raise ValueError("no header")
    return length


def read_header(text: bytes | memoryview, size_bytes: int) -> tuple[list[TensorPart], dict[str, str]]:
    """Return the places of a file's tensors, and the file's metadata, from its header.

    Raises:
        ValueError: If the header does not fit a file of this size.
    """
    try:
        header = json.loads(bytes(text))
        metadata = header.pop("__metadata__")
        kinds = json.loads(metadata.get(_PAIRS, "{}"))
        parts = list(_parts(header, 8 + len(text), size_bytes))
        return [_complex(part, kinds) for part in parts], metadata
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"a header that is none: {error}") from error


def _parts(header: Mapping[str, Any], start: int, size_bytes: int) -> Iterator[TensorPart]:
    end = start
    for name, found in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = found["data_offsets"]
        shape = tuple(found["shape"])
        if any(type(number) is not int or number < 0 for number in (first, last, *shape)):
            raise ValueError(f"{name} has no place")
        part = TensorPart(name, _TYPES[found["dtype"]], shape, start + first)
        if part.start != end or first + part.size_bytes != last:
            raise ValueError(f"{name} does not fit its place")
        end = start + last
        yield part
    if end != size_bytes:
        raise ValueError(f"{end} bytes were announced, there are {size_bytes}")


def _complex(part: TensorPart, kinds: Mapping[str, str]) -> TensorPart:
    """Return the part as that of the complex tensor whose pairs it holds; other parts are returned unchanged."""
    if part.name not in kinds:
        return part
    dtype = getattr(torch, kinds[part.name])
    if not isinstance(dtype, torch.dtype) or not dtype.is_complex or part.shape[-1:] != (2,):
        raise ValueError(f"{part.name} is not complex")
    found = TensorPart(part.name, dtype, part.shape[:-1], part.start)
    if found.size_bytes != part.size_bytes:
        raise ValueError(f"{part.name} is not {dtype}")
    return found

"""Writes Python values as JSON and named tensors, and reads them back exactly.

Optimizers and schedulers keep values of any kind: numbers, tuples, a Counter whose keys are numbers, tensors at any
depth. A value that JSON has no form for is written as an object with one member whose name begins with `$`:

    (0.9, 0.999)              {"$tuple": [0.9, 0.999]}
    {5: 1}                    {"$dict": [[5, 1]]}
    Counter({5: 1})           {"$counter": [[5, 1]]}
    inf                       {"$float": "inf"}
    a tensor                  {"$tensor": "optimizer/0/exp_avg"}, and the tensor is stored under that name
    2 ** 10000                {"$int": "1000..."}, in any number of hexadecimal digits

A value that cannot be written is refused by name. No value is ever written as a different one that only looks like it.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lambdaml.errors import BadObject, JobError
from lambdaml.log.wire import canonical

Tensors = dict[str, Tensor]

_PLAIN = (bool, int, str, type(None))

WIDE_BITS = 4096
"""Integers of more bits are written in hexadecimal: Python refuses to read decimal numbers of a few thousand digits."""

_PAIRS: dict[type, str] = {dict: "$dict", Counter: "$counter", OrderedDict: "$ordered"}
_LISTS: dict[type, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset", torch.Size: "$size"}
_MADE_OF: dict[str, Callable[[Any], Any]] = {
    **{tag: kind for kind, tag in _PAIRS.items()},
    **{tag: kind for kind, tag in _LISTS.items()},
}


def encode(value: Any, path: str, tensors: Tensors) -> Any:
    """Return the value as JSON, and put its tensors into `tensors`, on the CPU, under names that begin with `path`.

    Raises:
        JobError: If something in it has no exact form. The message names that by its path.
    """
    try:
        return _encode(value, path, tensors)
    except RecursionError:
        raise JobError(f"{path} contains itself, which cannot be written down") from None


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `encode` was given. Its tensors are those of `tensors`, not copies.

    Raises:
        BadObject: If `encode` does not make such JSON, or a tensor is missing.
    """
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("$"):
        return {name: decode(item, tensors) for name, item in value.items()}
    try:
        return _decode(tag, value[tag], tensors)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadObject(f"a value that is marked {tag} cannot be read: {error}") from error


def shown(tensor: Tensor) -> Tensor:
    """Return the tensor's values as a plain contiguous CPU tensor; if it is one already, the two share memory."""
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def _encode(value: Any, path: str, tensors: Tensors) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value if kind is not int or value.bit_length() <= WIDE_BITS else {"$int": f"{value:x}"}
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is list:
        return [_encode(item, f"{path}/{at}", tensors) for at, item in enumerate(value)]
    if kind is dict and all(type(name) is str and not name.startswith("$") for name in value):
        return {name: _encode(item, f"{path}/{name}", tensors) for name, item in value.items()}
    if kind in _PAIRS:
        pairs = [[_encode(k, f"{path}/{k!r}", tensors), _encode(v, f"{path}/{k}", tensors)] for k, v in value.items()]
        return {_PAIRS[kind]: pairs}
    if kind in _LISTS:
        items = [_encode(item, f"{path}/{at}", tensors) for at, item in enumerate(value)]
        return {_LISTS[kind]: sorted(items, key=canonical) if kind in (set, frozenset) else items}
    if kind is Tensor:
        return {"$tensor": _put(value, path, tensors)}
    if kind is nn.Parameter:
        return {"$parameter": [_put(value, path, tensors), value.requires_grad]}
    return _encode_rare(value, path, tensors)


def _encode_rare(value: Any, path: str, tensors: Tensors) -> Any:
    kind = type(value)
    if kind is complex:
        return {"$complex": [_encode(value.real, path, tensors), _encode(value.imag, path, tensors)]}
    if kind is bytes:
        return {"$bytes": value.hex()}
    if kind is deque:
        return {"$deque": [_encode(list(value), path, tensors), value.maxlen]}
    if isinstance(value, torch.dtype):
        return {"$dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"$device": str(value)}
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return {"$scalar": [value.dtype.str, value.tobytes().hex()]}
    if kind is np.ndarray and value.dtype.kind in "biufc":
        return {"$array": _put(torch.from_numpy(np.array(value)), path, tensors)}
    raise JobError(f"{path} is a {kind.__module__}.{kind.__qualname__}, which cannot be written down exactly")


def _put(tensor: Tensor, path: str, tensors: Tensors) -> str:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise JobError(f"{path} is a tensor that is sparse, quantized or without data, which a snapshot cannot hold")
    name = path
    while name in tensors:
        name += "'"
    tensors[name] = shown(tensor)
    return name


def _decode(tag: str, value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if tag == "$tensor":
        return tensors[value]
    if tag == "$parameter":
        return nn.Parameter(tensors[value[0]], requires_grad=value[1])
    if tag == "$int":
        return int(value, 16)
    if tag == "$array":
        return tensors[value].numpy()
    if tag == "$float":
        return float(value)
    if tag == "$complex":
        return complex(*decode(value, tensors))
    if tag == "$bytes":
        return bytes.fromhex(value)
    if tag == "$deque":
        return deque(decode(value[0], tensors), value[1])
    if tag in ("$dtype", "$device"):
        found = getattr(torch, value) if tag == "$dtype" else torch.device(value)
        if not isinstance(found, torch.dtype | torch.device):
            raise ValueError(value)
        return found
    if tag == "$scalar":
        return np.frombuffer(bytes.fromhex(value[1]), np.dtype(value[0]))[0]
    items = decode(value, tensors)
    if tag == "$counter":
        return Counter(dict(items))
    return _MADE_OF[tag](items)

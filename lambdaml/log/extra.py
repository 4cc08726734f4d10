"""What a run measures besides training, if it is asked to: an object of its own beside each update, `extra/{worker}/{seq}`.

`per-sample:N` is the gradients of N of the client's own samples at the parameters before each local step of the update,
from which one can tell how much a client contributed (Xue et al., "Toward understanding the influence of individual clients in
federated learning", AAAI 2021). Nobody who trains reads these objects, which may be hundreds of times as large as the model.
An update's extra object is created before the update, so that one implies the other. Functions that compute the same update
write the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import CODECS, Layout, UpdateContext, Vector
from lambdaml.errors import BadObject
from lambdaml.log import keys, wire
from lambdaml.log.reads import demand_present, read_now
from lambdaml.registry import Registry
from lambdaml.storage.protocol import Bytes, Store

PIN = "extra"
"""A run with extra objects keeps its history by a pin of this name."""


class PerSample:
    """Asks for the gradients of `samples` samples before each local step.

    Args:
        samples: The number of samples, which are drawn anew for each step, without replacement; all of them if the client owns
            fewer.
        codec: The codec that the gradients are written with, `fp32` (as they are) or `bf16`.
    """

    def __init__(self, samples: int, codec: str = "fp32") -> None:
        if samples < 1:
            raise ValueError(f"samples must be 1 or more, not {samples}")
        if codec not in ("fp32", "bf16"):
            raise ValueError(f"codec must be fp32 or bf16, not {codec!r}")
        self.samples, self.codec = samples, codec

    def size_bytes(self, steps: int, samples: int, layout: Layout) -> int:
        """Return the size of an object without its header.

        Args:
            steps: The number of local steps.
            samples: The number of the client's samples.
            layout: The layout of a gradient.
        """
        return steps * min(self.samples, samples) * (8 + CODECS.make(self.codec).expected_bytes(layout))


@dataclass(frozen=True, slots=True, eq=False)
class Extra:
    """The gradients of single samples beside an update.

    Attributes:
        worker: The worker of the update.
        seq: The number of the update.
        client: The client whose samples they are, which in a run without cohorts is the worker.
        first_batch: The number of the update's first batch.
        samples: The numbers of the samples in the data set, int64 of shape [steps, n].
        gradients: The gradient of each at the parameters before that step, float32 or float64 of shape [steps, n,
            parameters], with the parameters in the order of updates.
    """

    worker: int
    seq: int
    client: int
    first_batch: int
    samples: NDArray[np.int64]
    gradients: Vector


def pack_extra(header: dict[str, int], samples: NDArray[np.int64], gradients: list[Vector]) -> bytes:
    """Return the bytes of an extra object.

    Args:
        header: The members `worker`, `seq`, `client` and `first_batch`.
        samples: The numbers of the samples, of shape [steps, n].
        gradients: Those of each step, as `encode_gradients` returned them.
    """
    numbers = np.stack(gradients)
    return wire.pack({**header, "steps": len(samples)}, [("samples", samples), ("gradients", numbers)])[0]


def encode_gradients(rows: Vector, codec: str) -> Vector:
    """Return gradients, of shape [n, parameters], as an extra object holds them."""
    body = CODECS.make(codec).encode(rows.reshape(-1), Layout.flat(rows.size, rows.dtype), UpdateContext())
    return body["gradient"].reshape(rows.shape)


def read_extra(store: Store, worker: int, seq: int) -> Extra:
    """Return the extra object of an update.

    Raises:
        BadObject: If there is none, or it is damaged.
    """
    key = keys.extra(worker, seq)
    return demand_present(read_now(store, key, unpack_extra), key)


def is_extra(store: Store, key: str, data: bytes) -> bool:
    """Return whether the extra object at this key is there, whole, and has these bytes."""

    def same(found: Bytes, key: str) -> bool:
        unpack_extra(found, key)
        return bytes(found) == data

    try:
        return read_now(store, key, same) or False
    except BadObject:
        return False


def unpack_extra(data: Bytes, key: str) -> Extra:
    """Read an extra object back.

    Raises:
        BadObject: If it is damaged, or is not the one that the key names.
        NewerSchema: If a newer lambdaml wrote it.
    """
    header, arrays = wire.unpack(data, key)
    try:
        worker, seq, client, first, steps = (
            header[name] for name in ("worker", "seq", "client", "first_batch", "steps")
        )
        samples, gradients = arrays["samples"], arrays["gradients"]
        if any(type(number) is not int for number in (worker, seq, client, first, steps)):
            raise TypeError("a member of its header is no whole number")
        if samples.dtype != np.int64 or samples.ndim != 2 or gradients.ndim != 3:
            raise ValueError(f"its samples have shape {samples.shape}, and its gradients {gradients.shape}")
        if len(samples) != steps or gradients.shape[:2] != samples.shape:
            raise ValueError(f"{steps} steps, {samples.shape} samples and {gradients.shape} gradients")
    except (KeyError, TypeError, ValueError) as error:
        raise BadObject(f"{key} is no extra object: {error}") from error
    if (worker, seq) != keys.update_id(key):
        raise BadObject(f"{key} holds that of update {(worker, seq)}")
    if gradients.dtype == np.uint16:
        flat = Layout.flat(prod(gradients.shape))
        gradients = CODECS.make("bf16").values({"gradient": gradients.reshape(-1)}, flat).reshape(gradients.shape)
    return Extra(worker, seq, client, first, samples, gradients)


EXTRAS: Registry[PerSample] = Registry("extra", {"per-sample": "lambdaml.log.extra:PerSample"})

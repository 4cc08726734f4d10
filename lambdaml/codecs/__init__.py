"""Codecs: how a vector is written on the wire. Each has a file of its own.

A codec is stateless. To add one, write a file with a class that has the members of `Codec`, and add one line to
`CODECS`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lambdaml.log.records import Body
from lambdaml.registry import Registry

Vector = NDArray[Any]
"""A flat array in the dtype of the run's gradients: float32, or float64 for a model in double precision."""

_SAMPLE = 2**20
"""A codec may have pieces of a few thousand numbers, or send one of ten thousand."""


class Codec(Protocol):
    """Encodes a vector as named arrays, and adds such arrays to a sum.

    Attributes:
        exact: Whether every vector is decoded to the same bits. Plans prefer such a codec if others are no quicker.
        record: The elements and bytes of the codec's smallest piece, if all pieces have the same length and are in the
            order of the elements, so that a slice can be read by itself; None if only the whole can be read.
        feedback: Whether what an encoded vector leaves out must be kept and sent later (error feedback), because
            training suffers otherwise.
    """

    exact: bool
    feedback: bool
    record: tuple[int, int] | None

    def encode(self, vector: Vector, seed: int) -> Body:
        """Return named arrays that hold the vector. They may alias it, and are written out before its buffer changes.

        Args:
            seed: The only source of randomness. It is the same wherever this update is computed again.
        """

    def check(self, body: Body, elements: slice) -> str:
        """Return what is wrong with a body that claims to hold these elements, or "". Bodies come from outside."""

    def values(self, body: Body) -> Vector:
        """Return every number that the body holds, in a fixed order; all others are zero. It may alias the body."""

    def add(self, body: Body, weight: float, out: Vector, elements: slice, *, fresh: bool = False) -> None:
        """Add weight times these elements of the decoded vector to `out` in place.

        Args:
            out: An array with one number for each of the elements.
            elements: A slice with a start and a stop, made of whole records.
            fresh: Whether the product replaces the contents of `out` instead.
        """


def decode_vector(codec: Codec, body: Body, size: int, dtype: Any) -> Vector:
    """Return the whole vector as every replica sees it, in an array of its own."""
    whole = np.empty(size, dtype)
    codec.add(body, 1.0, whole, slice(0, size), fresh=True)
    return whole


def encoded_bytes(codec: Codec, size: int, dtype: Any) -> int:
    """Return the bytes of an encoded vector of this size, estimated from the first 2^20 numbers if it has more."""
    sample = min(size, _SAMPLE)
    body = codec.encode(np.zeros(sample, dtype), 0)
    return size * sum(array.nbytes for array in body.values()) // max(1, sample)


CODECS: Registry[Codec] = Registry(
    "codec",
    {
        "fp32": "lambdaml.codecs.dense:Fp32",
        "bf16": "lambdaml.codecs.dense:Bf16",
        "topk": "lambdaml.codecs.topk:TopK",
    },
)

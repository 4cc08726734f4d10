"""Codecs: how a vector is written on the wire. Each has a file of its own.

A codec is stateless. To add one, write a file with a class that has the members of `Codec`, and add one line to
`CODECS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lambdaml.log.records import Body
from lambdaml.registry import Registry

Vector = NDArray[Any]
"""A flat array in the dtype of the run's gradients: float32, or float64 for a model in double precision."""

DISPLACEMENT = "displacement"
"""An algorithm gives this if its vectors say how far the parameters moved. Codecs that compare changes of parameters with
the parameters need it."""


@dataclass(frozen=True)
class Layout:
    """The tensors that a vector consists of, one after the other.

    Attributes:
        shapes: The shape of each tensor.
        dtype: The dtype of the vector, `float32` or `float64`.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtype: str = "float32"

    @staticmethod
    def flat(size: int, dtype: Any = "float32") -> Layout:
        """Return the layout of this many numbers of which nothing more is known."""
        return Layout(((size,),), np.dtype(dtype).name)

    @cached_property
    def spans(self) -> list[slice]:
        """The place of each tensor in the vector."""
        return [slice(*pair) for pair in pairwise(accumulate(map(prod, self.shapes), initial=0))]

    @cached_property
    def size(self) -> int:
        """The number of numbers."""
        return sum(map(prod, self.shapes))

    @property
    def itemsize(self) -> int:
        """The bytes of a number."""
        return np.dtype(self.dtype).itemsize


def _unknown() -> Any:
    raise ValueError("nothing is known about the base of this vector")


@dataclass(frozen=True, slots=True)
class UpdateContext:
    """What a codec may know about an update besides its vector. It is the same wherever the update is computed again.

    Attributes:
        seed: The only source of randomness.
        seq: The number of the update among those of its worker.
        epoch: The number of times that its worker has been through its data.
        rate_share: Returns the learning rate of the job's schedule, as a share of the run's first.
        weights: Returns the trained parameters at the base, laid out like the vector.
        changed: The present value of each setting that changed in mid-run, such as that of a tuned codec's knob.
    """

    seed: int = 0
    seq: int = 0
    epoch: int = 0
    rate_share: Callable[[], float] = _unknown
    weights: Callable[[], Vector] = _unknown
    changed: Mapping[str, Any] = field(default_factory=dict)


class Codec(Protocol):
    """Encodes a vector as named arrays, and adds such arrays to a sum.

    Attributes:
        exact: Whether every vector is decoded to the same bits. Plans prefer such a codec if others are no quicker.
        record: The elements and bytes of the codec's smallest piece, if all pieces have the same length and are in the
            order of the elements, so that a slice can be read by itself; None if only the whole can be read. The last
            piece is filled up.
        feedback: Whether what an encoded vector leaves out must be kept and sent later (error feedback), because
            training suffers otherwise.
        needs: The set of what the run's algorithm must give: `DISPLACEMENT`, or nothing.
    """

    exact: bool
    feedback: bool
    record: tuple[int, int] | None
    needs: frozenset[str]

    def misfit(self, layout: Layout) -> str:
        """Return why vectors of this layout cannot be carried, or "". It is asked before a run begins."""

    def expected_bytes(self, layout: Layout) -> int:
        """Return the bytes of an encoded vector, or of a typical one if they depend on its numbers."""

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        """Return named arrays that hold the vector. They may alias it, and are written out before its buffer changes."""

    def check(self, body: Body, layout: Layout) -> str:
        """Return what is wrong with a body that claims to hold a vector of this layout, or "". Bodies come from outside.

        A slice of a vector, made of whole records, has the layout of a vector of its own.
        """

    def values(self, body: Body, layout: Layout) -> Vector:
        """Return every number that the body holds, in a fixed order; all others are zero. It may alias the body."""

    def add(
        self, body: Body, weight: float, out: Vector, layout: Layout, elements: slice, *, fresh: bool = False
    ) -> None:
        """Add weight times these elements of the decoded vector to `out` in place.

        Args:
            out: An array with one number for each of the elements.
            layout: The layout of the whole vector.
            elements: A slice with a start and a stop.
            fresh: Whether the product replaces the contents of `out` instead.
        """


def decode_vector(codec: Codec, body: Body, layout: Layout) -> Vector:
    """Return the whole vector as every replica sees it, in an array of its own."""
    whole = np.empty(layout.size, layout.dtype)
    codec.add(body, 1.0, whole, layout, slice(0, layout.size), fresh=True)
    return whole


def slice_body(codec: Codec, body: Body, elements: slice) -> Body:
    """Return the body of a slice that begins with a record and ends with one, or with the vector. Of an array with one
    row for each record it takes their rows, and of others all.

    Raises:
        ValueError: If only the whole can be read.
    """
    if codec.record is None:
        raise ValueError("this codec's bodies can only be read as a whole")
    length = codec.record[0]
    rows = slice(elements.start // length, -(-elements.stop // length))
    records = max(map(len, body.values()), default=0)
    return {name: array[rows] if len(array) == records else array for name, array in body.items()}


CODECS: Registry[Codec] = Registry(
    "codec",
    {
        "fp32": "lambdaml.codecs.dense:Fp32",
        "bf16": "lambdaml.codecs.dense:Bf16",
        "fp16": "lambdaml.codecs.dense:Fp16",
        "int8": "lambdaml.codecs.int8:Int8",
        "sign": "lambdaml.codecs.sign:Sign",
        "powersgd": "lambdaml.codecs.powersgd:PowerSgd",
        "topk": "lambdaml.codecs.topk:TopK",
        "gaussiank": "lambdaml.codecs.gaussiank:GaussianK",
        "randomk": "lambdaml.codecs.randomk:RandomK",
        "threshold": "lambdaml.codecs.threshold:Threshold",
        "significant": "lambdaml.codecs.significant:Significant",
        "sparse": "lambdaml.codecs.sparse:Sparse",
    },
)

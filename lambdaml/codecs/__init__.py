"""Codecs: how a gradient is written on the wire. One file each.

A codec is stateless. To add one: a file with a class that has the members of `Codec`, and one line in `CODECS`.
"""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from lambdaml.log.records import Body
from lambdaml.registry import Registry


class Codec(Protocol):
    """Arrays are flat, in the dtype of the run's gradients (float32, or float64 for a model in double precision).

    Attributes:
        exact: whether every gradient is decoded to the same bits. Plans prefer such a codec where others are no quicker.
    """

    exact: bool

    def encode(self, gradient: NDArray[Any]) -> Body:
        """Named arrays that hold the gradient. They may alias it, and are written out before its buffer changes."""

    def check(self, body: Body, size: int) -> str:
        """What is wrong with a body that claims to encode `size` numbers; "" for nothing. Bodies come from outside."""

    def decode(self, body: Body, size: int) -> NDArray[Any]:
        """The gradient, as every replica will see it. May alias `body`."""


CODECS: Registry[Codec] = Registry(
    "codec",
    {
        "fp32": "lambdaml.codecs.dense:Fp32",
        "bf16": "lambdaml.codecs.dense:Bf16",
    },
)

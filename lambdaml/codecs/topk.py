"""The codec `topk:DENSITY` sends only the numbers of the largest magnitude, each with its index.

Source: Shi et al. (arXiv 1911.08772). What it leaves out is lost unless the worker keeps it and sends it later (error
feedback). Which numbers are sent is a function of the vector alone, on every machine; of equal magnitudes the first are
sent. The layout of a body is that of `lambdaml.codecs.places`.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from lambdaml.codecs import UpdateContext, Vector
from lambdaml.codecs.places import DensityCodec
from lambdaml.codecs.selection import largest


class TopK(DensityCodec):
    """Sends the numbers that have the largest magnitudes; all others are decoded as zeros."""

    fixed = True

    def select(self, vector: Vector, count: int, context: UpdateContext) -> NDArray[Any]:
        return largest(vector, count)


def variants() -> list[str]:
    """Return the variants worth trying: those of the paper's experiments (arXiv 1911.08772)."""
    return ["topk:0.01", "topk:0.001"]

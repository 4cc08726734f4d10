"""Aggregates: how the vectors of a step's updates become one. Each has a file of its own.

The default is the mean, which any worker can move as far as it likes. The others resist some workers that send anything at
all. They count each update once, however many samples it is of: a worker could claim any number.

An aggregate has no state, and its bits do not depend on the machine. To add one, write a file with a class that has the
members of `Aggregate`, and add one line to `AGGREGATES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from lambdaml.codecs import Vector
from lambdaml.registry import Registry

_CHUNK = 2**14
"""The number of parameters that are worked on at a time, so that what is held besides the updates stays small."""


class Aggregate(Protocol):
    """Makes one vector of the vectors of a step.

    Attributes:
        least: The number of updates below which there is no majority to go by. No run begins whose steps have fewer, and a
            step that lost some, since they were rejected, leaves the model as it is.
    """

    least: int

    def combine(self, vectors: Sequence[Vector], out: Vector) -> None:
        """Write to `out` what stands for the mean of the vectors.

        Args:
            vectors: The vectors of `least` updates or more, in the order of the log entry. All their numbers are finite.
        """


def chunks(size: int) -> Iterator[slice]:
    """Yield slices that cover so many numbers, none of which is long."""
    for start in range(0, size, _CHUNK):
        yield slice(start, min(start + _CHUNK, size))


def mean_of(vectors: Sequence[Vector], out: Vector, factors: Sequence[float] | None = None) -> None:
    """Write to `out` the mean of the vectors, each with its factor. It is added up in float64, in their order."""
    for part in chunks(out.size):
        total = np.zeros(part.stop - part.start)
        for vector, factor in zip(vectors, factors or [1.0] * len(vectors), strict=True):
            total += factor * vector[part].astype(np.float64)
        total /= len(vectors)
        out[part] = total


def mean_of_middle(vectors: Sequence[Vector], out: Vector, cut: int) -> None:
    """Write to `out`, for each parameter by itself, the mean of its values without the `cut` least and the `cut` greatest."""
    for part in chunks(out.size):
        values = np.stack([vector[part] for vector in vectors], axis=1)
        values += 0.0  # -0.0 becomes 0.0: two zeros have no order, and so the sort of each machine its own
        values.sort(axis=1)
        total = np.zeros(part.stop - part.start)
        for number in range(cut, len(vectors) - cut):
            total += values[:, number]
        total /= len(vectors) - 2 * cut
        out[part] = total


AGGREGATES: Registry[Aggregate | None] = Registry(
    "aggregate",
    {
        "mean": "lambdaml.aggregates.mean:mean",
        "median": "lambdaml.aggregates.median:Median",
        "trimmed": "lambdaml.aggregates.trimmed:Trimmed",
        "clip-median-norm": "lambdaml.aggregates.clip_median_norm:ClipMedianNorm",
        "krum": "lambdaml.aggregates.krum:Krum",
    },
)

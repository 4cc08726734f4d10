"""Partitions: which samples each worker owns. Each has its own file.

A partition is a pure function of the run's seed and of what the data set says about its samples, so every function finds
the same owners by itself; run.json has their digest. To add one, write a file with a class that has the members of
`Partition`, and add one line to `PARTITIONS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lambdaml.errors import SettingsError
from lambdaml.registry import Registry

Owners = NDArray[np.int64]
"""The number of the worker that owns a sample, for each sample of a data set: int64, shape (samples,)."""

IID, OWN, DRAWN = "iid", "job", "skew:0"
"""The names of the partition in which samples have no owners, of the one that the job itself makes, and of lasting shares that are
drawn at random."""


class Samples(Protocol):
    """What a partition may ask about the samples of a data set."""

    def __len__(self) -> int: ...

    def labels(self) -> NDArray[np.int64]:
        """Return the class number of each sample, less than 0 for no class.

        Raises:
            SettingsError: If the samples have no class numbers.
        """
        ...

    def field(self, name: str) -> NDArray[np.int64]:
        """Return a number for each sample: samples have the same number if they have the same value of this field, and
        numbers rise with values.

        Raises:
            SettingsError: If the samples have no such field.
        """
        ...

    def owners(self, workers: int) -> Owners:
        """Return the owners that the job's own `partition` gives.

        Raises:
            SettingsError: If it gives something else.
        """
        ...


class Partition(Protocol):
    """Deals samples to owners for the whole run.

    Attributes:
        lasting: Whether a sample has one owner. If not, all samples are dealt out anew each epoch, and `owners` is not
            called.
    """

    lasting: bool

    def owners(self, samples: Samples, workers: int, random: np.random.RandomState) -> Owners:
        """Return the owner of each sample.

        Args:
            random: A stream that the run's seed has seeded. Those of `RandomState` are frozen by NumPy's policy.

        Raises:
            SettingsError: If these samples cannot be dealt like this.
        """
        ...


PARTITIONS: Registry[Partition] = Registry(
    "partition",
    {
        IID: "lambdaml.partitions.iid:Iid",
        "sorted": "lambdaml.partitions.skew:sorted_by_label",
        "skew": "lambdaml.partitions.skew:Skew",
        "dirichlet": "lambdaml.partitions.dirichlet:Dirichlet",
        "shards": "lambdaml.partitions.shards:Shards",
        "by": "lambdaml.partitions.by_field:ByField",
        OWN: "lambdaml.partitions.own:Own",
    },
)


def demand_owners(name: str, owners: Owners, workers: int) -> None:
    """Make sure that each worker owns a sample.

    Args:
        name: The name of the partition, for the message.

    Raises:
        SettingsError: If one owns none.
    """
    empty = np.flatnonzero(np.bincount(owners, minlength=workers) == 0)
    if len(empty):
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise SettingsError(
            f"partition {name!r} leaves worker {empty[0]}{more} of {workers} without samples: take fewer workers, "
            "or another partition"
        )


def digest_of(owners: Owners) -> str:
    """Return the SHA-256 of owners, in hexadecimal: that of their numbers as little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(owners, "<i8").data).hexdigest()


def in_runs(length: int, owners: Sequence[int] | NDArray[np.int64]) -> Owners:
    """Return the owner of each of so many places that are cut into runs, each of one of these owners.

    Runs are equally long; of N places and R runs, the first N mod R runs have one place more.
    """
    each, more = divmod(length, len(owners))
    return np.repeat(np.asarray(owners, np.int64), [each + (run < more) for run in range(len(owners))])

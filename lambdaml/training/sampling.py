"""The samples of an update are a pure function of the seed, the worker and the sequence number.

By default each epoch makes a new permutation of the data set and deals it out to the workers like cards; each worker's
share is cut into the same number of batches. So every sample is used exactly once an epoch, whoever computes it and
however often functions die, and all workers make equally many updates an epoch.

If samples have owners (`lambdaml.partitions`), each worker passes over its own again and again, in a new order each
time, and in batches of the run's size. Workers with more samples take longer for a pass. An epoch of the run is the
number of rounds, to the nearest, in which as many samples are used as the data set has.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lambdaml.algorithms import ALGORITHMS, Share
from lambdaml.errors import SettingsError
from lambdaml.partitions import PARTITIONS, Owners, Samples, demand_owners, digest_of, in_runs
from lambdaml.schedules.cohort import Cohorts
from lambdaml.seeds import random_state

if TYPE_CHECKING:
    from lambdaml.settings import Settings

PRETENDED_CLASSES = 10
"""Where there is no data set, samples are dealt as if they had this many classes, of equally many samples."""

_KEPT_ORDERS = 256
"""This many orders of owned samples are kept."""


class Sampler:
    """Deals `samples` sample numbers to `workers` workers in batches of at most `batch_size`.

    Args:
        summands: The number of gradients that an update is the sum of. Then the samples are dealt to `summands` times as
            many, and each worker has the batches of that many, one after the other.
        slots: The number of workers that take part in a round, if not all do.

    Raises:
        SettingsError: If there are fewer samples than workers.
    """

    def __init__(
        self, samples: int, workers: int, batch_size: int, seed: int, summands: int = 1, slots: int | None = None
    ) -> None:
        shares = workers * summands
        if samples < shares:
            each = f" with {summands} batches each" if summands > 1 else ""
            raise SettingsError(f"the data set holds {samples} samples, too few for {workers} workers{each}")
        self.samples = samples
        self.workers = workers
        self.seed = seed
        self._shares, self._summands = shares, summands
        self._slots = workers if slots is None else slots
        largest, smallest = -(-samples // shares), samples // shares
        self._per_pass = min(-(-largest // batch_size), smallest)
        self._order = lru_cache(maxsize=2)(self._permute)
        self._cohorts = Cohorts(workers, slots, seed) if slots is not None and slots < workers else None

    @property
    def steps_per_epoch(self) -> int:
        """The number of updates that each worker, or each slot of a round, makes in an epoch."""
        return max(1, round(self.samples / self._round_samples() * (self.workers / self._slots)))

    def _round_samples(self) -> float:
        """Return the mean number of samples of a round in which all workers take part."""
        return self.samples / self._per_pass

    def share(self, worker: int, seq: int) -> Share:
        """Return the share of the data from which an update is computed: that of its worker, or of the one that takes its
        slot in this round."""
        number = worker if self._cohorts is None else self._cohorts.members(seq)[worker]
        return Share(number, self._size(number), self._batches(number))

    def indices(self, worker: int, seq: int) -> NDArray[np.int64]:
        """Return the sample numbers of batch `seq` of `worker`: int64, never empty."""
        return np.concatenate([self.dealt(number, seq) for number in self._numbers(worker)])

    def count(self, worker: int, seq: int) -> int:
        """Return the number of samples in a batch, which is the length of its `indices`."""
        return sum(self.counts(worker, seq))

    def samples_in(self, worker: int, first: int, batches: int) -> int:
        """Return the number of samples in so many batches, from the first one on."""
        return sum(self.count(worker, batch) for batch in range(first, first + batches))

    def counts(self, worker: int, seq: int) -> list[int]:
        """Return the number of samples of each gradient that an update is the sum of."""
        bounds = (self._bounds(number, seq) for number in self._numbers(worker))
        return [end - start for start, end in bounds]

    def dealt(self, number: int, seq: int) -> NDArray[np.int64]:
        """Return the sample numbers of one gradient: those of the worker of this number among all that samples are
        dealt to."""
        return self.samples_of_pass(number, seq)[slice(*self._bounds(number, seq))]

    def samples_of_pass(self, number: int, seq: int) -> NDArray[np.int64]:
        """Return the sample numbers of the whole pass that this batch of one to whom samples are dealt belongs to."""
        return self._dealt(number, seq // self._batches(number))

    def _dealt(self, number: int, turn: int) -> NDArray[np.int64]:
        """Return the samples of a worker's pass, in order."""
        return self._order(turn)[number :: self._shares]

    def _numbers(self, worker: int) -> range:
        return range(worker * self._summands, (worker + 1) * self._summands)

    def _size(self, number: int) -> int:
        """Return the number of samples of a worker's pass."""
        return -(-(self.samples - number) // self._shares)

    def _batches(self, number: int) -> int:
        """Return the number of batches of a worker's pass."""
        return self._per_pass

    def _bounds(self, number: int, seq: int) -> tuple[int, int]:
        share, batches = self._size(number), self._batches(number)
        batch = seq % batches
        return batch * share // batches, (batch + 1) * share // batches

    def _permute(self, epoch: int) -> NDArray[np.int64]:
        return random_state("order", self.seed, epoch).permutation(self.samples).astype(np.int64)


class OwnedSampler(Sampler):
    """Deals samples that have owners, who are as many as there are workers, each of whom owns a sample.

    Args:
        owners: The owner of each sample.
    """

    def __init__(
        self, owners: Owners, workers: int, batch_size: int, seed: int, summands: int = 1, slots: int | None = None
    ) -> None:
        self._by_owner = np.argsort(owners, kind="stable").astype(np.int64, copy=False)
        self._sizes = np.bincount(owners, minlength=workers * summands)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._passes = -(-self._sizes // batch_size)
        super().__init__(len(owners), workers, batch_size, seed, summands, slots)
        self._own_order = lru_cache(maxsize=_KEPT_ORDERS)(self._permute_own)

    def _round_samples(self) -> float:
        return float((self._sizes / self._passes).sum())

    def _size(self, number: int) -> int:
        return int(self._sizes[number])

    def _batches(self, number: int) -> int:
        return int(self._passes[number])

    def _dealt(self, number: int, turn: int) -> NDArray[np.int64]:
        return self._own_order(number, turn)

    def _permute_own(self, number: int, turn: int) -> NDArray[np.int64]:
        start, size = self._starts[number], self._sizes[number]
        return random_state("own", self.seed, number, turn).permutation(self._by_owner[start : start + size])


def deal(
    partition: str,
    samples: Samples,
    workers: int,
    batch_size: int,
    seed: int,
    summands: int = 1,
    slots: int | None = None,
) -> tuple[Sampler, str]:
    """Return the sampler that deals samples to the workers, and the digest of their owners, or "" if they have none.

    Raises:
        SettingsError: If there is no such partition, or the samples cannot be dealt like this.
    """
    if not PARTITIONS.make(partition).lasting:
        return Sampler(len(samples), workers, batch_size, seed, summands, slots), ""
    owners = owners_of(partition, samples, workers * summands, seed)
    return OwnedSampler(owners, workers, batch_size, seed, summands, slots), digest_of(owners)


def sampler_of(settings: Settings, samples: Samples | None = None) -> Sampler:
    """Return the sampler that deals a run's samples.

    Args:
        samples: The samples of the job's data set. Without them, samples with owners are dealt as if they had
            `PRETENDED_CLASSES` classes; then only the sizes of updates are near the truth.

    Raises:
        SettingsError: If the samples' owners are not those that the run began with.
    """
    sampler, sha256 = deal(
        settings.partition,
        samples or PretendedSamples(settings.samples),
        settings.sharers,
        settings.batch_size,
        settings.seed,
        ALGORITHMS.make(settings.algorithm).summands,
        settings.workers,
    )
    if samples is not None and sha256 != settings.owners_sha256:
        raise SettingsError(
            f"partition {settings.partition!r} gives these samples other owners than when the run was started: are its "
            "data, or their classes, the same here?"
        )
    return sampler


def sampler_without_data(settings: Settings) -> Sampler | None:
    """Return the sampler that deals a run's samples, or None if their owners cannot be known without the data set."""
    return None if PARTITIONS.make(settings.partition).lasting else sampler_of(settings)


def owners_of(partition: str, samples: Samples, workers: int, seed: int) -> Owners:
    """Return the owner of each sample.

    Raises:
        SettingsError: If there is no such partition, the samples cannot be dealt like this, or a worker would own none.
    """
    found = PARTITIONS.make(partition).owners(samples, workers, random_state("partition", seed))
    demand_owners(partition, found, workers)
    return found


class PretendedSamples:
    """Samples of `PRETENDED_CLASSES` classes, all equally frequent, without a data set.

    Args:
        samples: The number of samples.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return self._samples

    def labels(self) -> NDArray[np.int64]:
        """Return the class number of each sample."""
        return np.arange(self._samples, dtype=np.int64) % PRETENDED_CLASSES

    def field(self, name: str) -> NDArray[np.int64]:
        """Return a value of its own for each sample."""
        return np.arange(self._samples, dtype=np.int64)

    def owners(self, workers: int) -> Owners:
        """Return owners of equally many samples."""
        return in_runs(self._samples, range(workers))

"""The samples of an update are a pure function of the seed, the worker and the sequence number.

Each epoch makes a new permutation of the data set and deals it out to the workers like cards; each worker's share is
cut into the same number of batches. So every sample is used exactly once an epoch, whoever computes it and however
often functions die, and all workers make equally many updates an epoch.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lambdaml.algorithms import ALGORITHMS
from lambdaml.errors import SettingsError

if TYPE_CHECKING:
    from lambdaml.settings import Settings


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed from any parts, the same on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class Sampler:
    """Deals `samples` sample numbers to `workers` workers in batches of at most `batch_size`.

    Args:
        summands: The number of gradients that an update is the sum of. Then the samples are dealt to `summands` times as
            many, and each worker has the batches of that many, one after the other.

    Raises:
        SettingsError: If there are fewer samples than workers.
    """

    def __init__(self, samples: int, workers: int, batch_size: int, seed: int, summands: int = 1) -> None:
        shares = workers * summands
        if samples < shares:
            each = f" with {summands} batches each" if summands > 1 else ""
            raise SettingsError(f"the data set holds {samples} samples, too few for {workers} workers{each}")
        self.samples = samples
        self.workers = workers
        self.seed = seed
        self._shares, self._summands = shares, summands
        largest, smallest = -(-samples // shares), samples // shares
        self.steps_per_epoch = min(-(-largest // batch_size), smallest)
        """The number of updates that a worker makes in an epoch."""
        self._order = lru_cache(maxsize=2)(self._permute)

    def indices(self, worker: int, seq: int) -> NDArray[np.int64]:
        """Return the sample numbers of update `seq` of `worker`: int64, never empty."""
        return np.concatenate([self.dealt(number, seq) for number in self._numbers(worker)])

    def count(self, worker: int, seq: int) -> int:
        """Return the number of samples in an update, which is the length of its `indices`."""
        return sum(self.counts(worker, seq))

    def counts(self, worker: int, seq: int) -> list[int]:
        """Return the number of samples of each gradient that an update is the sum of."""
        bounds = (self._bounds(number, seq) for number in self._numbers(worker))
        return [end - start for start, end in bounds]

    def dealt(self, number: int, seq: int) -> NDArray[np.int64]:
        """Return the sample numbers of one gradient: those of the worker of this number among all that samples are
        dealt to."""
        share = self._order(seq // self.steps_per_epoch)[number :: self._shares]
        return share[slice(*self._bounds(number, seq))]

    def _numbers(self, worker: int) -> range:
        return range(worker * self._summands, (worker + 1) * self._summands)

    def _bounds(self, number: int, seq: int) -> tuple[int, int]:
        batch, share = seq % self.steps_per_epoch, -(-(self.samples - number) // self._shares)
        return batch * share // self.steps_per_epoch, (batch + 1) * share // self.steps_per_epoch

    def _permute(self, epoch: int) -> NDArray[np.int64]:
        # RandomState's streams are frozen by NumPy's policy; Generator's may change between releases.
        state = np.random.RandomState(derive_seed("order", self.seed, epoch) % 2**32)
        return state.permutation(self.samples).astype(np.int64)


def sampler_of(settings: Settings) -> Sampler:
    """Return the sampler that deals a run's samples."""
    summands = ALGORITHMS.make(settings.algorithm).summands
    return Sampler(settings.samples, settings.workers, settings.batch_size, settings.seed, summands)

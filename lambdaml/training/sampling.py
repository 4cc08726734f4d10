"""The samples of an update are a pure function of the seed, the worker and the sequence number.

Each epoch makes a new permutation of the data set and deals it out to the workers like cards; each worker's share is
cut into the same number of batches. So every sample is used exactly once an epoch, whoever computes it and however
often functions die, and all workers make equally many updates an epoch.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lambdaml.errors import SettingsError


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed from any parts, the same on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class Sampler:
    """Deals `samples` sample numbers to `workers` workers in batches of at most `batch_size`.

    Raises:
        SettingsError: If there are fewer samples than workers.
    """

    def __init__(self, samples: int, workers: int, batch_size: int, seed: int) -> None:
        if samples < workers:
            raise SettingsError(f"the data set holds {samples} samples, too few for {workers} workers")
        self.samples = samples
        self.workers = workers
        self.seed = seed
        largest, smallest = -(-samples // workers), samples // workers
        self.steps_per_epoch = min(-(-largest // batch_size), smallest)
        """The number of updates that a worker makes in an epoch."""
        self._order = lru_cache(maxsize=2)(self._permute)

    def indices(self, worker: int, seq: int) -> NDArray[np.int64]:
        """Return the sample numbers of update `seq` of `worker`: int64, never empty."""
        share = self._order(seq // self.steps_per_epoch)[worker :: self.workers]
        return share[slice(*self._bounds(worker, seq))]

    def count(self, worker: int, seq: int) -> int:
        """Return the number of samples in an update, which is the length of its `indices`."""
        start, end = self._bounds(worker, seq)
        return end - start

    def _bounds(self, worker: int, seq: int) -> tuple[int, int]:
        batch, share = seq % self.steps_per_epoch, -(-(self.samples - worker) // self.workers)
        return batch * share // self.steps_per_epoch, (batch + 1) * share // self.steps_per_epoch

    def _permute(self, epoch: int) -> NDArray[np.int64]:
        # RandomState's streams are frozen by NumPy's policy; Generator's may change between releases.
        state = np.random.RandomState(derive_seed("order", self.seed, epoch) % 2**32)
        return state.permutation(self.samples).astype(np.int64)

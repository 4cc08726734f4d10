"""Shards: samples are sorted by class and cut into shards, of which each worker has the same number.

Source: McMahan et al. (arXiv 1602.05629), section 3: 200 shards of MNIST, two for each of 100 clients.
"""

from __future__ import annotations

import numpy as np

from lambdaml.errors import SettingsError
from lambdaml.partitions import Owners, Samples, in_runs


class Shards:
    """Gives each worker `count` shards, drawn at random. Most shards hold one class.

    Args:
        count: The number of shards of a worker.
    """

    lasting = True

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"count must be 1 or more, not {count}")
        self._count = count

    def owners(self, samples: Samples, workers: int, random: np.random.RandomState) -> Owners:
        shards = workers * self._count
        if shards > len(samples):
            raise SettingsError(
                f"partition 'shards:{self._count}' cuts {len(samples)} samples into {shards} shards, which are more"
            )
        found = np.empty(len(samples), np.int64)
        order = np.argsort(samples.labels(), kind="stable")
        found[order] = in_runs(len(samples), random.permutation(shards) // self._count)
        return found

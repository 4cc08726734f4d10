"""The partition `stratified`: each worker owns the same share of every class."""

from __future__ import annotations

import numpy as np

from lambdaml.partitions import Owners, Samples


class Stratified:
    """Deals the samples of each class in turn, drawn at random. The next class goes on with the worker that is due."""

    lasting = True

    def owners(self, samples: Samples, workers: int, random: np.random.RandomState) -> Owners:
        drawn = random.permutation(len(samples))
        by_class = drawn[np.argsort(samples.labels()[drawn], kind="stable")]
        found = np.empty(len(samples), np.int64)
        found[by_class] = np.arange(len(samples)) % workers
        return found

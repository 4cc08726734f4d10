"""Skew: a share of the samples is dealt sorted by class, and the rest at random.

Source: Hsieh et al., "The Non-IID Data Quagmire of Decentralized Machine Learning" (arXiv 1910.00189), section 3: the
degree of skew is the share of the data that is dealt by label.
"""

from __future__ import annotations

import numpy as np

from lambdaml.partitions import Owners, Samples, in_runs


class Skew:
    """Sorts a share of the samples, drawn at random, by class, and cuts both parts into one run for each worker. So the
    same share of each worker's samples is sorted.

    Args:
        share: The share that is sorted, from 0 (lasting shares at random) to 1 (`sorted`).
    """

    lasting = True

    def __init__(self, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, not {share}")
        self._share = share

    def owners(self, samples: Samples, workers: int, random: np.random.RandomState) -> Owners:
        drawn = random.permutation(len(samples)).astype(np.int64)
        cut = round(self._share * len(samples))
        by_label, rest = np.sort(drawn[:cut]), drawn[cut:]
        if cut:
            by_label = by_label[np.argsort(samples.labels()[by_label], kind="stable")]
        found = np.empty(len(samples), np.int64)
        found[by_label] = in_runs(cut, range(workers))
        found[rest] = in_runs(len(rest), range(workers))
        return found


def sorted_by_label() -> Skew:
    """Return the partition that deals all samples sorted by class: a run of them for each worker."""
    return Skew(1.0)

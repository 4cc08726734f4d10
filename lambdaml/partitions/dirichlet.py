"""Dirichlet: each class is dealt to the workers in shares that are drawn from a Dirichlet distribution.

Source: Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks" (arXiv 1905.12022), section 4;
also Hsu et al. (arXiv 1909.06335), who draw a distribution over classes for each worker.
"""

from __future__ import annotations

import numpy as np

from lambdaml.partitions import Owners, Samples

_DRAWS = 100
"""The shares are drawn so many times at most, until each worker owns a sample."""


class Dirichlet:
    """Deals unequally: in classes and in number. The smaller `concentration` is, the fewer classes a worker has.

    Args:
        concentration: The parameter of the symmetric distribution, above 0.
    """

    lasting = True

    def __init__(self, concentration: float) -> None:
        if not 0 < concentration < np.inf:
            raise ValueError(f"concentration must be above 0, not {concentration}")
        self._concentration = concentration

    def owners(self, samples: Samples, workers: int, random: np.random.RandomState) -> Owners:
        labels, found = samples.labels(), np.empty(len(samples), np.int64)
        members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        for _ in range(_DRAWS):
            for numbers in members:
                shares = random.dirichlet(np.full(workers, self._concentration))
                cuts = np.round(np.cumsum(shares) * len(numbers)).astype(np.int64)[:-1]
                found[random.permutation(numbers)] = np.searchsorted(cuts, np.arange(len(numbers)), side="right")
            if np.bincount(found, minlength=workers).all():
                break
        return found

"""Own: the job says itself which worker owns a sample, in `Job.partition`."""

from __future__ import annotations

import numpy as np

from lambdaml.partitions import Owners, Samples


class Own:
    """Takes the owners that the job's `partition(workers)` gives."""

    lasting = True

    def owners(self, samples: Samples, workers: int, random: np.random.RandomState) -> Owners:
        return samples.owners(workers)

"""Iid: nobody owns a sample. Each epoch deals all samples out anew, at random, like cards."""

from __future__ import annotations

import numpy as np

from lambdaml.partitions import Owners, Samples


class Iid:
    """Deals anew each epoch, so that every worker sees all the data in time."""

    lasting = False

    def owners(self, samples: Samples, workers: int, random: np.random.RandomState) -> Owners:
        raise NotImplementedError("samples have no owners")

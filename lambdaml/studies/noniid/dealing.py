"""The partitions' data: the digits, dealt with `skew:SHARE` and in the batches that a run with the same seed would have."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lambdaml.studies.data import Images, evenly_scaled_digits
from lambdaml.training.sampling import OwnedSampler, PretendedSamples, owners_of

PARTITIONS_OF_STUDY, BATCH = 5, 20
"""The number of partitions and the size of their batches, which are those of the paper's experiments on CIFAR-10."""

TRAINING_SAMPLES = 1400
"""The number of training samples, of which each partition owns 280, so that all batches are full."""

SKEW_STEP = 5
"""Degrees of skew are multiples of this many percent, so that all partitions own equally many samples."""


class _Digits(PretendedSamples):
    """The training samples, with their true classes."""

    def labels(self) -> NDArray[np.int64]:
        """Return the class number of each sample."""
        return training_images().labels.numpy()


@cache
def training_images() -> Images:
    """Return the digits, with the first `TRAINING_SAMPLES` of the training set. Raises UserError if scikit-learn is missing."""
    images = evenly_scaled_digits()
    return dataclasses.replace(images, inputs=images.inputs[:TRAINING_SAMPLES], labels=images.labels[:TRAINING_SAMPLES])


class Dealing:
    """The samples of all partitions of several settings, in the order of their rows.

    Args:
        settings: The degree of skew in percent and the seed of each setting.

    Attributes:
        per_epoch: The number of batches in which a partition uses all that it owns.
    """

    per_epoch = TRAINING_SAMPLES // PARTITIONS_OF_STUDY // BATCH

    def __init__(self, settings: list[tuple[int, int]]) -> None:
        self._owners = [_owners(skew, seed) for skew, seed in settings]
        self._samplers = [
            OwnedSampler(owners, PARTITIONS_OF_STUDY, BATCH, seed) for owners, (_, seed) in zip(self._owners, settings)
        ]

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the images, [rows, batch, 1, 8, 8], and the classes, [rows, batch], of each row's batch `number`."""
        images = training_images()
        chosen = torch.from_numpy(
            np.stack([each.indices(worker, number) for each in self._samplers for worker in range(PARTITIONS_OF_STUDY)])
        )
        return images.inputs[chosen].view(*chosen.shape, *images.shape), images.labels[chosen]

    def shares(self) -> Tensor:
        """Return the share of each class among the samples of each row, float64 [rows, classes]."""
        images = training_images()
        counts = torch.zeros(len(self._owners), PARTITIONS_OF_STUDY, images.classes, dtype=torch.float64)
        for setting, owners in zip(counts, self._owners):
            setting.index_put_(
                (torch.from_numpy(owners), images.labels), torch.ones(TRAINING_SAMPLES).double(), accumulate=True
            )
        return (counts / counts.sum(-1, keepdim=True)).flatten(0, 1)


def partition_of(skew: int) -> str:
    """Return the name of the partition with this degree of skew, in percent, as `lambdaml.train` takes it."""
    return f"skew:{skew / 100:g}"


def _owners(skew: int, seed: int) -> NDArray[np.int64]:
    return owners_of(partition_of(skew), _Digits(TRAINING_SAMPLES), PARTITIONS_OF_STUDY, seed)

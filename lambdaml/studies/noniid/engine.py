"""Training under skew in many settings at once, where every partition of every setting is a row of one tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lambdaml.studies.noniid.algorithms import ALGORITHMS_UNDER_SKEW, Stack
from lambdaml.studies.noniid.dealing import PARTITIONS_OF_STUDY, Dealing, training_images
from lambdaml.studies.noniid.nets import Copies

RATE = 0.1
"""The rate of SGD along the mean gradient."""

_MEASURED = 20
"""The number of points of an accuracy curve."""


@dataclass(frozen=True, slots=True)
class SkewedCourse:
    """The course of one setting.

    Attributes:
        shared: The parameters of the shared model at the end, [size].
        statistics: Its running statistics.
        curve: Pairs of the batches of a partition and the accuracy of the shared model on all test samples.
        partitions: The accuracy of each partition's own model on all test samples.
        home: The accuracy of each partition's own model on test samples with its own shares of classes.
        traffic: The bytes that partitions sent, relative to sending whole gradients after each batch.
    """

    shared: Tensor
    statistics: Tensor
    curve: list[tuple[int, float]]
    partitions: list[float]
    home: list[float]
    traffic: float

    @property
    def accuracy(self) -> float:
        """The accuracy of the shared model at the end, on all test samples."""
        return self.curve[-1][1]


def train_under_skew(
    model: str, norm: str, algorithm: str, settings: list[tuple[int, int]], iterations: int
) -> list[SkewedCourse]:
    """Train in several settings at once.

    Args:
        settings: The degree of skew in percent and the seed of each setting.
        iterations: The number of batches of each partition.
    """
    net, dealing, rule = Copies(model, norm), Dealing(settings), ALGORITHMS_UNDER_SKEW[algorithm]()
    stack = _begin(net, [seed for _, seed in settings])
    done = 0

    def gradients(parameters: Tensor, statistics: Tensor) -> Tensor:
        nonlocal done
        inputs, labels = dealing.batch(done)
        done += 1
        return net.gradients(parameters, statistics, inputs, labels)

    curves: list[list[tuple[int, float]]] = [[] for _ in settings]
    while done < iterations:
        rule.round(stack, gradients, done // dealing.per_epoch)
        if done >= iterations or done * _MEASURED // iterations > (done - rule.steps) * _MEASURED // iterations:
            right = _right(net, stack.shared, stack.statistics).double().mean(1)
            for curve, accuracy in zip(curves, right.tolist()):
                curve.append((done, accuracy))
    partitions, home = _own(net, stack, dealing)
    dense_bytes = 4.0 * net.size * PARTITIONS_OF_STUDY * done
    return [
        SkewedCourse(*parts)
        for parts in zip(
            stack.shared,
            stack.statistics,
            curves,
            partitions.tolist(),
            home.tolist(),
            (stack.sent_bytes.double() / dense_bytes).tolist(),
        )
    ]


def _begin(net: Copies, seeds: list[int]) -> Stack:
    shared, statistics = (torch.stack(parts) for parts in zip(*[net.initial(seed) for seed in seeds]))
    own, own_statistics = (rows.repeat_interleave(PARTITIONS_OF_STUDY, 0) for rows in (shared, statistics))
    nothing = torch.zeros(len(seeds), dtype=torch.int64)
    return Stack(PARTITIONS_OF_STUDY, RATE, shared, statistics, own, own_statistics, nothing)


def _right(net: Copies, parameters: Tensor, statistics: Tensor) -> Tensor:
    """Return whether each row's model is right on each test sample: bool [rows, samples]."""
    images = training_images()
    return net.predicted(parameters, statistics, images.test_inputs.view(-1, *images.shape)) == images.test_labels


def _own(net: Copies, stack: Stack, dealing: Dealing) -> tuple[Tensor, Tensor]:
    """Return the accuracies of the partitions' own models, on all test samples and on those as at home: [settings, W]."""
    images = training_images()
    right = _right(net, stack.own, stack.own_statistics).double()
    classes = torch.nn.functional.one_hot(images.test_labels, images.classes).double()
    by_class = right @ classes / classes.sum(0)
    home = (by_class * dealing.shares()).sum(1)
    return stack.by_setting(right.mean(1)), stack.by_setting(home)

"""The bundled images of the studies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lambdaml.errors import UserError


@dataclass(frozen=True, slots=True)
class Images:
    """Images as float [samples, features], standardised by the training set, and their labels as int64 [samples].

    Attributes:
        inputs: The images for training.
        labels: The labels of the images for training.
        test_inputs: The images for testing.
        test_labels: The labels of the images for testing.
        shape: The channels, height and width of an image.
        classes: The number of classes.
    """

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    shape: tuple[int, int, int]
    classes: int = 10


@cache
def digits() -> Images:
    """Load scikit-learn's 8x8 digits: 1,437 for training and 360 for testing, split alike on every machine.

    Raises:
        UserError: If scikit-learn is not installed.
    """
    return standardised(*_split_digits(), (1, 8, 8))


@cache
def evenly_scaled_digits() -> Images:
    """Load the same digits, with one mean and one deviation for all pixels, so that pixels that are rarely inked are not
    enlarged.

    Raises:
        UserError: If scikit-learn is not installed.
    """
    inputs, labels, test_inputs, test_labels = _split_digits()
    mean, deviation = inputs.mean(), inputs.std()
    inputs, test_inputs = ((part - mean).div(deviation).float() for part in (inputs, test_inputs))
    return Images(inputs, labels, test_inputs, test_labels, (1, 8, 8))


def _split_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise UserError("the digits come with scikit-learn: pip install 'lambdaml-runtime[examples]'") from None
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    inputs, test_inputs, labels, test_labels = (torch.tensor(np.asarray(part)) for part in parts)
    return inputs, labels.long(), test_inputs, test_labels.long()


def standardised(
    inputs: Tensor, labels: Tensor, test_inputs: Tensor, test_labels: Tensor, shape: tuple[int, int, int]
) -> Images:
    """Give each feature mean 0 and deviation 1 over the training set; features that hardly vary are only centred."""
    mean, deviation = inputs.mean(0), inputs.std(0).clamp_min(1.0)
    inputs, test_inputs = ((part - mean).div(deviation).float() for part in (inputs, test_inputs))
    return Images(inputs, labels, test_inputs, test_labels, shape)

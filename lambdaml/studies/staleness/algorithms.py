"""The study's algorithms, which turn gradients into updates with one state for each row. Formulas as in torch.optim.

Paper 1810.03264 keeps the optimizer's state at each worker, so a worker's update is what its own optimizer would add to
its own parameters. The constants are recalled from the paper: momentum 0.9, Adam's betas 0.9 and 0.999, RMSProp's decay
0.9. The epsilons are those of torch.optim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class UpdateRule(Protocol):
    """An algorithm, which turns gradients into updates row by row."""

    def __call__(self, gradients: Tensor, rates: Tensor) -> Tensor:
        """Return what each row's step adds: [rows, size] from gradients [rows, size] and rates [rows, 1]."""

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows alone."""


class _Stateful:
    """State tensors of the gradients' shape, which are zero at first."""

    moments = 0

    def __init__(self) -> None:
        self.state: list[Tensor] = []
        self.steps = 0

    def begin(self, gradients: Tensor) -> None:
        if not self.state:
            self.state = [torch.zeros_like(gradients) for _ in range(self.moments)]
        self.steps += 1

    def keep(self, rows: Tensor) -> None:
        self.state = [moment[rows] for moment in self.state]


class Sgd(_Stateful):
    """Plain stochastic gradient descent, which keeps no state."""

    def __call__(self, gradients: Tensor, rates: Tensor) -> Tensor:
        return gradients * -rates


class _Momentum(_Stateful):
    moments = 1

    def __call__(self, gradients: Tensor, rates: Tensor) -> Tensor:
        self.begin(gradients)
        return self.state[0].mul_(0.9).add_(gradients) * -rates


class Adam(_Stateful):
    """Adam with betas 0.9 and 0.999 and epsilon 1e-8, with its correction of the bias."""

    moments = 2

    def __call__(self, gradients: Tensor, rates: Tensor) -> Tensor:
        self.begin(gradients)
        mean, square = self.state
        mean.lerp_(gradients, 1 - 0.9)
        square.mul_(0.999).addcmul_(gradients, gradients, value=1 - 0.999)
        unbias = math.sqrt(1 - 0.999**self.steps)
        root = square.sqrt().add_(1e-8 * unbias)
        return torch.div(mean, root, out=root).mul_(rates * (-unbias / (1 - 0.9**self.steps)))


class Adagrad(_Stateful):
    """Adagrad with epsilon 1e-10, without a decay of the learning rate."""

    moments = 1

    def __call__(self, gradients: Tensor, rates: Tensor) -> Tensor:
        self.begin(gradients)
        root = self.state[0].addcmul_(gradients, gradients).sqrt().add_(1e-10)
        return torch.div(gradients, root, out=root).mul_(-rates)


class RmsProp(_Stateful):
    """RMSProp with decay 0.9 and epsilon 1e-8, without momentum."""

    moments = 1

    def __call__(self, gradients: Tensor, rates: Tensor) -> Tensor:
        self.begin(gradients)
        root = self.state[0].mul_(0.9).addcmul_(gradients, gradients, value=1 - 0.9).sqrt().add_(1e-8)
        return torch.div(gradients, root, out=root).mul_(-rates)


UPDATE_RULES: dict[str, Callable[[], UpdateRule]] = {
    "sgd": Sgd,
    "momentum": _Momentum,
    "adam": Adam,
    "adagrad": Adagrad,
    "rmsprop": RmsProp,
}

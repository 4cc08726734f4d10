"""Outer optimizers: they take the step of a commit along the displacements of workers that took local steps.

Each is an optimizer of torch that is given minus the mean displacement (with `sum`, their sum) as a gradient (the pseudo-gradient of Reddi et
al., "Adaptive federated optimization", arXiv 2003.00295).

| name | step | known as |
|---|---|---|
| `average` | the mean of the workers' models | MA-SGD (LambdaML), FedAvg (arXiv 1602.05629) |
| `sgd:lr` | a share of it | FedAvg with a server learning rate |
| `sum` | the sum of the displacements | parameter servers; Gaia (NSDI 2017) |
| `nesterov:lr,momentum` | with Nesterov's momentum; 0.7 and 0.9 by default | DiLoCo (arXiv 2311.08105) |
| `adam:lr,beta1,beta2,eps` | with Adam | FedAdam (arXiv 2003.00295), with its defaults |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lambdaml.algorithms import MOMENTUM
from lambdaml.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


@dataclass(frozen=True, slots=True)
class Outer:
    """An outer optimizer.

    Attributes:
        make: A function that makes the optimizer of these parameters.
        gives: The set of what it gives to other parts of the run: `MOMENTUM`, or nothing.
        equal: Whether the method counts all workers alike, rather than by their samples, unless one says otherwise.
        keeps: Whether the method's workers keep the state of their inner optimizers, unless one says otherwise.
        adds: Whether it is given the sum of the displacements. All workers count alike in it.
    """

    make: Callable[[Sequence[Tensor]], Optimizer]
    gives: frozenset[str] = frozenset()
    equal: bool = False
    keeps: bool = False
    adds: bool = False


def average() -> Outer:
    """Return the outer optimizer that sets the model to the mean of the workers' models."""
    return sgd(1.0)


def replace() -> Outer:
    """Return the outer optimizer that sets the model to the mean of the models that workers send. They count alike and keep
    the state of their inner optimizers, as in DS-Sync (arXiv 2007.03298)."""

    def make(parameters: Sequence[Tensor]) -> Optimizer:
        import torch

        class Replace(torch.optim.Optimizer):
            """Sets parameters to minus their gradients."""

            @torch.no_grad()
            def step(self, closure: Any = None) -> Any:
                for parameter in self.param_groups[0]["params"]:
                    parameter.copy_(parameter.grad).neg_()

        return Replace(parameters, {})

    return Outer(make, equal=True, keeps=True)


def sgd(lr: float) -> Outer:
    """Return the outer optimizer that goes `lr` times the mean displacement."""
    _demand_rate(lr)

    def make(parameters: Sequence[Tensor]) -> Optimizer:
        import torch

        return torch.optim.SGD(parameters, lr=lr)

    return Outer(make)


def summation() -> Outer:
    """Return the outer optimizer that goes the whole way of every worker, as if each update were applied by itself.
    With N workers a round goes N times as far as with `average`, so it needs smaller inner steps."""
    return Outer(sgd(1.0).make, equal=True, adds=True)


def nesterov(lr: float = 0.7, momentum: float = 0.9) -> Outer:
    """Return DiLoCo's outer optimizer. Its workers keep the state of their inner optimizers and count alike."""
    _demand_rate(lr)
    if not 0 < momentum < 1:
        raise ValueError(f"momentum must lie between 0 and 1, not {momentum}")

    def make(parameters: Sequence[Tensor]) -> Optimizer:
        import torch

        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, nesterov=True)

    return Outer(make, gives=frozenset({MOMENTUM}), equal=True, keeps=True)


def adam(lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, eps: float = 1e-3) -> Outer:
    """Return FedAdam's outer optimizer, with the paper's beta1, beta2 and adaptivity (`eps`)."""
    _demand_rate(lr)
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1 and eps > 0):
        raise ValueError(
            f"beta1 and beta2 must be at least 0 and less than 1, and eps positive: {beta1}, {beta2}, {eps}"
        )

    def make(parameters: Sequence[Tensor]) -> Optimizer:
        import torch

        return torch.optim.Adam(parameters, lr=lr, betas=(beta1, beta2), eps=eps)

    return Outer(make, gives=frozenset({MOMENTUM}))


def _demand_rate(lr: float) -> None:
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive, not {lr}")


OUTER_OPTIMIZERS: Registry[Outer] = Registry(
    "outer optimizer",
    {
        "average": "lambdaml.algorithms.outer:average",
        "sgd": "lambdaml.algorithms.outer:sgd",
        "sum": "lambdaml.algorithms.outer:summation",
        "nesterov": "lambdaml.algorithms.outer:nesterov",
        "adam": "lambdaml.algorithms.outer:adam",
    },
)

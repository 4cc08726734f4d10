"""Linear models with convex losses, with their L2 term counted as scikit-learn counts it: by C or alpha.

| job | mean over the samples of | plus |
|---|---|---|
| `LogisticRegression` | log(1 + exp(-y s)); for several classes the cross-entropy of softmax(s) | \\|w\\|^2 / (2 C n) |
| `Ridge` | (y - s)^2 / 2 | alpha \\|w\\|^2 / (2 n) |
| `LinearSVM` | max(0, 1 - y s), for several classes the sum of one against the rest for each | (\\|w\\|^2 + b^2) / (2 C n) |

Here s = x w + b is a row's score, and n is the number of all samples. Each is scikit-learn's objective divided by C n
(by 2 n for `Ridge`), so the minimum is that of its class of the same name: `LinearSVM` is `LinearSVC(loss="hinge")`, whose
L2 term has the intercept, too. Models begin at 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils import _pytree

from lambdaml.errors import JobError
from lambdaml.job import Job
from lambdaml.jobs.data import Table, TableRows, product, read_table


class LinearModel(nn.Module):
    """Scores of rows.

    Args:
        features: The number of columns of a row.
        outputs: The number of scores of a row.

    Attributes:
        weight: The weights, of shape (features, outputs).
        bias: The intercepts, of shape (outputs,).
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, rows: TableRows) -> Tensor:
        return product(rows, self.weight) + self.bias


class DecayingSGD(Optimizer):
    """SGD whose step t, counted from 0, has the learning rate lr / (1 + decay t)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "decay": decay, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            rate = group["lr"] / (1 + group["decay"] * group["steps"])
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-rate)
            group["steps"] += 1


class LinearJob(Job):
    """What the linear jobs share: their data, their model, and the L2 term.

    Args:
        data: The data; see `lambdaml.jobs.data.read_table`.
        lr: The learning rate; 0 for 1 / (`curvature` times that of the table, plus that of the L2 term), but at most 1. Steps of
            `admm:rho` do not grow if it is less than 2 / (that + rho).
        batch_size: The largest number of samples of a batch.

    Attributes:
        real: Whether targets are real numbers, and not classes.
        curvature: The largest second derivative of the loss in a score.
        l2_bias: Whether the L2 term has the intercept, too.
        decay: Step t has the learning rate lr / (1 + `decay` t).
    """

    real = l2_bias = False
    curvature, decay = 1.0, 0.0

    def __init__(self, data: str, lr: float, batch_size: int) -> None:
        self.data, self.lr, self.batch_size = data, lr, batch_size

    def l2(self) -> float:
        """Return the factor of \\|w\\|^2 / 2 beside the mean loss."""
        raise NotImplementedError

    def mean_loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of scores of shape (rows, outputs), without the L2 term."""
        raise NotImplementedError

    @cached_property
    def table(self) -> Table:
        """The data."""
        return read_table(self.data, real=self.real)

    def dataset(self) -> Table:
        return self.table

    def collate(self, samples: Any) -> Any:
        return samples  # the table makes whole batches

    def model(self) -> nn.Module:
        return LinearModel(self.table.features, self.table.classes if self.table.classes > 2 else 1)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        rows, targets = batch
        weight, bias = model.parameters()
        squares = weight.square().sum() + (bias.square().sum() if self.l2_bias else 0.0)
        return self.mean_loss(model(rows), targets) + self.l2() / 2 * squares

    def optimizer(self, model: nn.Module) -> Optimizer:
        bound = self.curvature * self.table.curvature(self.batch_size) + self.l2()
        return DecayingSGD(model.parameters(), lr=self.lr or min(1.0, 1 / bound), decay=self.decay)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the objective on all data, and the share of rows that get their class (R^2 for `Ridge`)."""
        device = next(model.parameters()).device
        rows, targets = _pytree.tree_map(lambda tensor: tensor.to(device), (self.table.rows, self.table.targets))
        scores, objective = model(rows), self.loss(model, (rows, targets)).item()
        if self.real:
            unexplained = (targets - scores[:, 0]).square().mean() / targets.var(correction=0)
            return {"objective": objective, "r2": 1 - unexplained.item()}
        found = scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > 0).long()
        return {"objective": objective, "accuracy": float((found == targets).float().mean())}


class LogisticRegression(LinearJob):
    """Logistic regression; for several classes with softmax.

    Args:
        C: The inverse strength of the L2 term, as scikit-learn counts it.
    """

    def __init__(self, data: str = "generated", C: float = 1.0, lr: float = 0.0, batch_size: int = 32) -> None:
        super().__init__(data, lr, batch_size)
        self.C = positive(C, "C")
        self.curvature = 0.5  # of softmax; that of two classes is half of it

    def l2(self) -> float:
        return 1 / (self.C * len(self.table))

    def mean_loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        if scores.shape[1] > 1:
            return F.cross_entropy(scores, targets)
        return F.binary_cross_entropy_with_logits(scores[:, 0], targets.to(scores.dtype))


class Ridge(LinearJob):
    """Linear regression with an L2 term.

    Args:
        alpha: The strength of the L2 term, as scikit-learn counts it.
    """

    real = True

    def __init__(self, data: str = "generated", alpha: float = 1.0, lr: float = 0.0, batch_size: int = 32) -> None:
        super().__init__(data, lr, batch_size)
        self.alpha = positive(alpha, "alpha")

    def l2(self) -> float:
        return self.alpha / len(self.table)

    def mean_loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        return (scores[:, 0] - targets).square().mean() / 2


class LinearSVM(LinearJob):
    """A support vector machine: the hinge loss, not its square.

    Args:
        C: The inverse strength of the L2 term, as scikit-learn counts it.
        decay: The decay of the learning rate. A hinge has a corner, around which steps of one size go back and forth for ever.
    """

    l2_bias = True
    curvature = 2.0  # by trial: it has none

    def __init__(
        self, data: str = "generated", C: float = 1.0, lr: float = 0.0, batch_size: int = 32, decay: float = 0.01
    ) -> None:
        super().__init__(data, lr, batch_size)
        self.C, self.decay = positive(C, "C"), decay

    def l2(self) -> float:
        return 1 / (self.C * len(self.table))

    def mean_loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        own = (
            targets[:, None] == torch.arange(scores.shape[1], device=targets.device)
            if scores.shape[1] > 1
            else targets[:, None] == 1
        )
        return F.relu(1 - torch.where(own, scores, -scores)).sum(1).mean()


def positive(value: float, name: str) -> float:
    """Return a value that must be more than 0.

    Raises:
        JobError: If it is not.
    """
    if not 0 < value < math.inf:
        raise JobError(f"{name} must be more than 0, not {value}")
    return value

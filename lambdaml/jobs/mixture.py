"""Gaussian mixtures by expectation maximisation (Dempster, Laird & Rubin 1977).

The model's parameters are the means over all samples of the responsibility of each component, and of this times the sample, and
times its square (or its product with itself). Weights, means and covariances follow from these. All are float64, and rows are
taken relative to the mean of those that the beginning was chosen from, since a variance is a difference of two means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lambdaml.jobs.clouds import DIGITS, CloudsJob, plus_plus, rows_of

_LOG_2_PI = math.log(2 * math.pi)


class Mixture(nn.Module):
    """A mixture of Gaussians.

    Args:
        means: The means to begin with, relative to `origin`, float64, (components, features).
        variance: The variance of each feature to begin with, or the covariance.
        origin: The point that rows are taken relative to.
        floor: A number that is added to each variance.

    Attributes:
        mass: The mean responsibility of each component.
        first: The mean of responsibility times row, (components, features).
        second: The mean of responsibility times the squares of the row, (components, features), or times its product with
            itself, (components, features, features).
    """

    origin: Tensor

    def __init__(self, means: Tensor, variance: Tensor, origin: Tensor, floor: float) -> None:
        super().__init__()
        mass = torch.full((len(means),), 1 / len(means), dtype=torch.float64)
        second = variance + _squares(means, full=variance.dim() == 2)
        self.floor = floor
        self.register_buffer("origin", origin)
        self.mass, self.first = nn.Parameter(mass), nn.Parameter(means * mass[:, None])
        self.second = nn.Parameter(second * mass.reshape(-1, *[1] * variance.dim()))

    @property
    def full(self) -> bool:
        """Whether covariances are whole matrices."""
        return self.second.dim() == 3

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weights, the means relative to the origin, and the variances or covariances."""
        mass = self.mass.clamp_min(torch.finfo(torch.float64).tiny)
        means = self.first / mass[:, None]
        spread = self.second / mass.reshape(-1, *[1] * (self.second.dim() - 1)) - _squares(means, self.full)
        if self.full:
            return mass / mass.sum(), means, spread + self.floor * torch.eye(means.shape[1], dtype=torch.float64)
        return mass / mass.sum(), means, spread.clamp_min(0) + self.floor

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logarithm of weight times density of each component at each row, (rows, components). Rows are relative
        to the origin."""
        weights, means, spread = self.components()
        if self.full:
            factors = torch.linalg.cholesky(spread)
            distances = torch.stack([_distances(rows - mean, factor) for mean, factor in zip(means, factors)], 1)
            volumes = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        else:
            precisions = 1 / spread
            distances = rows.square() @ precisions.T - 2 * rows @ (means * precisions).T
            distances = distances + (means.square() * precisions).sum(1)
            volumes = spread.log().sum(1) / 2
        logs: Tensor = weights.log() - volumes - (distances + rows.shape[1] * _LOG_2_PI) / 2
        return logs


class GaussianMixture(CloudsJob):
    """Fits a mixture of Gaussians to rows. The loss is minus the logarithm of a sample's likelihood.

    The model begins with means of k-means++, which takes a pass over the rows for each component, each time a function starts,
    and with the variances of all rows together.

    Args:
        components: The number of Gaussians.
        covariance: Whether each has a variance for each feature (`diag`) or a covariance matrix (`full`).
        data: The rows: `digits`, or the path of a .npy file, or of an .npz file with one array, or a table, such as a libsvm
            file, whose targets are left out. A subclass may define `dataset` instead.
        floor: A number that is added to each variance, so that no component shrinks to a point.
        rate: The share of new means in each step; see `StatisticsJob`.
    """

    def __init__(
        self,
        components: int = 10,
        covariance: Literal["diag", "full"] = "diag",
        data: str = DIGITS,
        floor: float = 1e-6,
        rate: float = 1.0,
    ) -> None:
        super().__init__(components, data, rate)
        if not 0 <= floor < math.inf:
            raise ValueError(f"floor must be at least 0, not {floor}")
        self.covariance, self.floor = covariance, floor

    def model(self) -> nn.Module:
        rows = torch.cat([part.to_dense().double() for part in self.seen()])
        origin = rows.mean(0)
        rows = rows - origin
        spread = rows.T @ rows / len(rows) if self.covariance == "full" else rows.square().mean(0)
        return Mixture(plus_plus([rows], self.count), spread, origin, self.floor)

    def statistics(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert isinstance(model, Mixture)
        rows = rows_of(batch).to_dense().double() - model.origin
        logs = model(rows)
        shares = logs.softmax(1)
        if model.full:
            second = torch.stack([(rows * share[:, None]).T @ rows for share in shares.unbind(1)])
        else:
            second = shares.T @ rows.square()
        sums = {"mass": shares.sum(0), "first": shares.T @ rows, "second": second}
        return -logs.logsumexp(1).sum(), sums

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"log_likelihood": -self.objective(model)}


def _squares(means: Tensor, full: bool) -> Tensor:
    return means[:, :, None] * means[:, None, :] if full else means.square()


def _distances(offsets: Tensor, factor: Tensor) -> Tensor:
    """Return the squared Mahalanobis length of each offset, given the covariance's Cholesky factor."""
    whitened: Tensor = torch.linalg.solve_triangular(factor, offsets.T, upper=False)
    return whitened.square().sum(0)

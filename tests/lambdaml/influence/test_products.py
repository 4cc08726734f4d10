"""Exact products of layers that are awkward to differentiate twice, by finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lambdaml.errors import JobError
from lambdaml.influence.federated import FederatedRun, Round
from lambdaml.influence.products import ExactProducts
from tests.lambdaml.influence.little import Little, local_steps, trained, walked


class Normed(nn.Module):
    """Group normalisation of a picture, whose second derivative torch cannot take for several vectors at once."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve, self.norm, self.last = nn.Conv2d(1, 3, 2), nn.GroupNorm(1, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.convolve(x.reshape(-1, 1, 3, 2)))).flatten(1))


class Attending(nn.Module):
    """Attention, whose fastest forms cannot be differentiated twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.first(x[..., None])[:, None]
        return self.last(F.scaled_dot_product_attention(found, found, found)[:, 0].mean(1))


class Bags(nn.Module):
    """A layer that has no second derivative in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bag((x.abs() * 3).long().clamp(max=4))


class Of(Little):
    """The little job with another network."""

    def __init__(self, net: type[nn.Module]) -> None:
        super().__init__(lr=0.1)
        self.net = net

    def model(self) -> nn.Module:
        return self.net().double()


@pytest.mark.parametrize("net", [Normed, Attending])
def test_products_are_the_derivative_of_local_steps(net: type[nn.Module]) -> None:
    job, h = Of(net), 1e-6

    def look(federated: FederatedRun, found: Round) -> None:
        row = torch.randn(federated.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        rows = torch.stack([row, torch.zeros_like(row)])
        (carried, nothing) = ExactProducts(federated).carry(
            found.turns[0], found.step, rows, [slice(0, federated.size)]
        )
        ends = [local_steps(job, federated, found, 0, federated.weights() + sign * h * row) for sign in (1, -1)]
        torch.testing.assert_close(carried, (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-7)
        assert not nothing.any()

    walked(trained(job, steps=2), job, look)


def test_a_loss_without_a_second_derivative_is_refused_with_the_reason() -> None:
    run = trained(Of(Bags), steps=3)
    with pytest.raises(
        JobError, match="loss of Of cannot be differentiated twice, as exact products need: the derivative for"
    ):
        run.influence(estimator="exact")

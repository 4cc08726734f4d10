"""Matrix factorisation: rating (i, j) is the product of row i of U and row j of V, learnt by stochastic gradients.

The loss of one rating is half its squared error plus half of lambda times both rows' squared norms; a batch's loss is
the sum over its ratings, as in the study's model (rank 5, lambda 1e-4; recalled from arXiv 1810.03264).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings of items by users.

    Attributes:
        users: The user of each rating, int64 [ratings].
        items: The item of each rating, int64 [ratings].
        values: The centred values, float [ratings].
        shape: The numbers of users and of items.
    """

    users: Tensor
    items: Tensor
    values: Tensor
    shape: tuple[int, int]


def generated_ratings(users: int = 300, items: int = 200, ratings: int = 20_000, rank: int = 5) -> Ratings:
    """Generate ratings of deviation about 1 from a random matrix of this rank with noise of 0.1, always the same."""
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(count, rank, generator=draw) for count in (users, items))
    place = torch.randperm(users * items, generator=draw)[:ratings]
    user, item = place // items, place % items
    exact = (left[user] * right[item]).sum(1) / rank**0.5
    return Ratings(user, item, exact + 0.1 * torch.randn(ratings, generator=draw), (users, items))


class Factorisation:
    """A `learning.Problem` with parameters U [users, rank], V [items, rank]. Quality: mean squared training error."""

    rising = False

    def __init__(self, ratings: Ratings, rank: int = 5, decay: float = 1e-4) -> None:
        self._ratings, self._rank, self._decay = ratings, rank, decay
        self.size, self.samples = sum(ratings.shape) * rank, len(ratings.values)

    def initial(self, seed: int) -> Tensor:
        return 0.3 * torch.randn(self.size, generator=torch.Generator().manual_seed(seed))

    def gradients(self, parameters: Tensor, samples: Tensor, seed: int) -> Tensor:
        rows, users, known = len(parameters), self._ratings.shape[0], self._ratings
        factors = parameters.view(-1, self._rank)
        first = torch.arange(rows)[:, None] * sum(known.shape)
        mine, other = (first + known.users[samples]).flatten(), (first + users + known.items[samples]).flatten()
        left, right = factors[mine], factors[other]
        error = ((left * right).sum(1) - known.values[samples].flatten())[:, None]
        gradients = torch.zeros_like(factors)
        gradients.index_add_(0, mine, error * right + self._decay * left)
        gradients.index_add_(0, other, error * left + self._decay * right)
        return gradients.view_as(parameters)

    def quality(self, parameters: Tensor) -> Tensor:
        known, factors = self._ratings, parameters.view(len(parameters), -1, self._rank)
        left, right = factors[:, known.users], factors[:, known.shape[0] + known.items]
        return ((left * right).sum(2) - known.values).square().double().mean(1)

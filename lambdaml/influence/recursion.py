"""The recursion: how far the model would be from the run's, after each round, had some clients never been part of it.

    eps_t = M_t eps_{t-1} + [w_t(without) - w_t],    M_t = sum over the others k of p_k prod_i (Id - eta H_{t,i}^k)

The first term is the sequential influence, since others start from another model; the second the combinatorial one, which is 0 in
rounds in which nobody is missing. In a round in which nobody else takes part there is no step: M is the identity, and w_t(without) is
w_{t-1}.

On models that are not convex, the products may grow from round to round, and the estimate with them. Layer-wise examination and
truncation (LWET) takes blocks of the Hessian layer by layer, and drops the first term of a layer for good once it grew.

Source: Xue et al., "Toward understanding the influence of individual clients in federated learning" (AAAI 2021, arXiv
2012.10936).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lambdaml.errors import SettingsError, nearest
from lambdaml.influence.federated import FederatedRun, Round
from lambdaml.influence.products import Products

Truncation = Literal["none", "layer", "client"]
TRUNCATIONS = get_args(Truncation)

_GROWN = 1 + 1e-5
"""A product has grown if its norm is more than this many times that before, so that rounding is no growth."""


class Recursion:
    """Follows the difference of the model for each of several sets of clients that are left out.

    Args:
        run: The run.
        left_out: The clients that are left out, for each difference.
        truncation: The part of the sequential influence whose growth is examined, and that is dropped from then on: that of a
            layer (`layer`), or of a layer in the local steps of one client (`client`); `none` for neither, with
            Hessians that are not cut into blocks.

    Raises:
        SettingsError: If there is no such truncation.

    Attributes:
        differences: The differences after the latest round, [sets, parameters].
    """

    def __init__(self, run: FederatedRun, left_out: Sequence[Collection[int]], truncation: Truncation) -> None:
        if truncation not in TRUNCATIONS:
            raise SettingsError(f"there is no truncation {truncation!r}{nearest(truncation, TRUNCATIONS)}")
        self._run, self._truncation = run, truncation
        self._stays = stays_in(left_out, run.clients)
        self.differences = torch.zeros(len(left_out), run.size, dtype=run.weights().dtype)
        self._blocks = run.layers() if truncation != "none" else [slice(0, run.size)]
        self._dropped = torch.zeros(
            len(left_out), run.clients if truncation == "client" else 1, len(self._blocks)
        ).bool()

    def advance(self, found: Round, products: Products) -> None:
        """Follow the differences through a round."""
        if not found.turns:
            return
        shares, all_shares = shares_of(found, self._stays, self.differences.dtype)
        alone = ~shares.any(1)  # nobody else takes part
        moves = (self.differences != 0).any(1) & ~alone
        after = torch.zeros_like(self.differences)
        after[alone] = self.differences[alone]
        before = self.differences[moves]
        for number, turn in enumerate(found.turns if len(before) else ()):
            carried = products.carry(turn, found.step, before, self._blocks)
            if self._truncation == "client":
                self._truncate(carried, before, moves, turn.client)
            after[moves] += shares[moves, number, None] * carried
        if self._truncation == "layer":
            after[moves] = self._truncate(after[moves], before, moves, 0)
        moved = torch.stack([turn.moved for turn in found.turns])
        self.differences = after + (shares - all_shares) @ moved

    def _truncate(self, carried: Tensor, before: Tensor, moves: Tensor, part: int) -> Tensor:
        """Set to zero, in place, the layers that have grown now or earlier."""
        for layer, block in enumerate(self._blocks):
            grown = carried[:, block].norm(dim=1) > _GROWN * before[:, block].norm(dim=1)
            self._dropped[moves, part, layer] |= grown
            carried[self._dropped[moves, part, layer], block] = 0
        return carried


def stays_in(left_out: Sequence[Collection[int]], clients: int) -> Tensor:
    """Return whether each client stays, for each set of those that are left out, [sets, clients]."""
    stays = torch.ones(len(left_out), clients, dtype=torch.bool)
    for number, some in enumerate(left_out):
        stays[number, list(some)] = False
    return stays


def shares_of(found: Round, stays: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the share of each turn in the mean of a round: for each set of clients that are left out, [sets, turns], where
    a round of which nobody is left has zeros; and without leaving out anybody, [turns]."""
    weights = torch.tensor([turn.weight for turn in found.turns], dtype=torch.float64)
    left = stays[:, [turn.client for turn in found.turns]] * weights
    shares = left / left.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return shares.to(dtype), (weights / weights.sum()).to(dtype)

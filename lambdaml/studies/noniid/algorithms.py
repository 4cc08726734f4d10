"""The study's algorithms: what the partitions send in a round, and what becomes of the shared model.

Each is the vectorised form of a run of `lambdaml.train`, whose options `RUN_OPTIONS` has; tests compare the two. All take
plain steps of SGD, and of W partitions each counts alike.

| name | what a partition sends | source |
|---|---|---|
| `bsp` | the gradient of each batch | |
| `gaia` | what changes a parameter by more than 10 % of it; the rest stays, in its own model alone | Hsieh et al., NSDI 2017 |
| `fedavg` | how far it came in 20 local steps | McMahan et al., arXiv 1602.05629 |
| `dgc` | 1 % of the gradient with error feedback, after epochs of 25 % and 6.25 % | Lin et al., arXiv 1712.01887 |

DGC's momentum correction has no meaning for plain SGD, which has no momentum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lambdaml.errors import SettingsError, nearest

THRESHOLD = 0.1
"""The part of a parameter beyond which Gaia sends a change of it."""

LOCAL_STEPS = 20
"""The local steps of FedAvg between two averages."""

DENSITIES = (0.25, 0.0625, 0.01)
"""The share of the gradient that DGC sends in each epoch; the last one stays."""

_NUMBER_BYTES, _PLACED_BYTES = 4, 8
"""The bytes of a number, and of a number with its place."""

Gradients = Callable[[Tensor, Tensor], Tensor]
"""A function that computes the gradients at [rows, size] parameters on each row's next batch, and changes the rows'
running statistics, [rows, statistics], in place."""


@dataclass(slots=True)
class Stack:
    """The models of several settings. In a stack of partitions, row g * W + p is partition p of setting g.

    Attributes:
        partitions: The number of partitions, W.
        rate: The rate of SGD for the mean gradient.
        shared: The shared models, [settings, size].
        statistics: Their running statistics, [settings, statistics].
        own: The partitions' own models, [settings * W, size].
        own_statistics: Their running statistics, [settings * W, statistics].
        sent_bytes: The bytes that the partitions of each setting have sent, int64 [settings].
    """

    partitions: int
    rate: float
    shared: Tensor
    statistics: Tensor
    own: Tensor
    own_statistics: Tensor
    sent_bytes: Tensor

    def spread(self, rows: Tensor) -> Tensor:
        """Return a copy of each setting's row for each of its partitions."""
        return rows.repeat_interleave(self.partitions, 0)

    def mean(self, rows: Tensor) -> Tensor:
        """Return the mean over the partitions of each setting."""
        return self.by_setting(rows).mean(1)

    def by_setting(self, rows: Tensor) -> Tensor:
        """Return rows of partitions, [settings * W, ...], as [settings, W, ...]."""
        return rows.view(len(rows) // self.partitions, self.partitions, *rows.shape[1:])

    def count(self, sent_bytes: Tensor) -> None:
        """Add the bytes that each partition sent, int64 [settings * W]."""
        self.sent_bytes += self.by_setting(sent_bytes).sum(1)


class SkewedAlgorithm(Protocol):
    """An algorithm, with what its partitions remember between rounds.

    Attributes:
        steps: The number of batches of each partition in a round.
    """

    steps: int

    def round(self, stack: Stack, gradients: Gradients, epoch: int) -> None:
        """Compute a round, which changes the stack. After it, `own` holds the models that the partitions have before
        they hear of each other."""


class _Bsp:
    """The shared model takes a step along the mean gradient of each round's batches."""

    steps = 1

    def round(self, stack: Stack, gradients: Gradients, epoch: int) -> None:
        found = _at_shared(stack, gradients)
        stack.count(torch.full((len(found),), found.shape[1] * _NUMBER_BYTES))
        _step(stack, found)


class _Dgc:
    """The largest gradients are sent, and what is left out waits for a later round."""

    steps = 1

    def __init__(self) -> None:
        self._unsent: Tensor | None = None

    def round(self, stack: Stack, gradients: Gradients, epoch: int) -> None:
        found = _at_shared(stack, gradients)
        if self._unsent is not None:
            found += self._unsent
        size = found.shape[1]
        count = max(1, int(size * DENSITIES[min(epoch, len(DENSITIES) - 1)]))
        sent = torch.where(_largest(found, count), found, torch.zeros_like(found))
        self._unsent = found - sent
        stack.count(torch.full((len(found),), count * _PLACED_BYTES))
        _step(stack, sent)


class _Gaia:
    """Each partition takes steps of its own model, and all add up what of these is significant."""

    steps = 1

    def __init__(self) -> None:
        self._unsent: Tensor | None = None

    def round(self, stack: Stack, gradients: Gradients, epoch: int) -> None:
        weights = stack.spread(stack.shared)
        unsent = torch.zeros_like(weights) if self._unsent is None else self._unsent
        statistics = stack.spread(stack.statistics)
        # Displacements are added up, so each is a share of the step along the mean.
        found = unsent - gradients(weights + unsent, statistics) * (stack.rate / stack.partitions)
        significant = found.abs() > THRESHOLD * weights.abs()
        counts, dense_bytes = significant.sum(1), found.shape[1] * _NUMBER_BYTES
        dense = counts * _PLACED_BYTES >= dense_bytes
        sent = torch.where(significant | dense[:, None], found, torch.zeros_like(found))
        self._unsent = found - sent
        stack.count(torch.where(dense, dense_bytes, counts * _PLACED_BYTES))
        stack.shared += stack.by_setting(sent).sum(1)
        stack.statistics = stack.mean(statistics)
        stack.own, stack.own_statistics = stack.spread(stack.shared) + self._unsent, stack.spread(stack.statistics)


class _FedAvg:
    """Each partition takes local steps from the shared model, which then becomes the mean of theirs."""

    steps = LOCAL_STEPS

    def round(self, stack: Stack, gradients: Gradients, epoch: int) -> None:
        own, statistics = stack.spread(stack.shared), stack.spread(stack.statistics)
        for _ in range(self.steps):
            own -= gradients(own, statistics) * stack.rate
        stack.count(torch.full((len(own),), own.shape[1] * _NUMBER_BYTES))
        stack.shared, stack.statistics = stack.mean(own), stack.mean(statistics)
        stack.own, stack.own_statistics = own, statistics


ALGORITHMS_UNDER_SKEW: dict[str, Callable[[], SkewedAlgorithm]] = {
    "bsp": _Bsp,
    "gaia": _Gaia,
    "fedavg": _FedAvg,
    "dgc": _Dgc,
}
"""The algorithms by name."""

RUN_OPTIONS: dict[str, dict[str, Any]] = {
    "bsp": {},
    "gaia": {"algorithm": "local:1,ahead=yes,outer=sum", "codec": f"significant:{THRESHOLD},decay=none"},
    "fedavg": {"algorithm": f"local:{LOCAL_STEPS}"},
    "dgc": {"codec": f"topk:{DENSITIES[-1]},warmup={'/'.join(map(str, DENSITIES[:-1]))}"},
}
"""The options of `lambdaml.train` that make each algorithm. With `gaia` the job's rate is that of the study over W."""


def demand_algorithm(name: str) -> None:
    """Make sure that an algorithm exists. Raises SettingsError if it does not."""
    if name not in ALGORITHMS_UNDER_SKEW:
        raise SettingsError(f"there is no algorithm {name!r}{nearest(name, ALGORITHMS_UNDER_SKEW)}")


def _at_shared(stack: Stack, gradients: Gradients) -> Tensor:
    """Return the gradient of each partition's batch at the shared model, whose statistics become the mean of theirs."""
    statistics = stack.spread(stack.statistics)
    found = gradients(stack.spread(stack.shared), statistics)
    stack.statistics = stack.mean(statistics)
    return found


def _largest(rows: Tensor, count: int) -> Tensor:
    """Return where the `count` numbers of each row with the largest magnitudes are; of equal ones the first, as in
    `lambdaml.codecs.selection`."""
    magnitudes = rows.abs()
    least = magnitudes.topk(count, 1).values[:, -1:]
    above, equal = magnitudes > least, magnitudes == least
    return above | (equal & (equal.cumsum(1) <= count - above.sum(1, keepdim=True)))


def _step(stack: Stack, sent: Tensor) -> None:
    """Take a step along the mean of what was sent; all partitions have the shared model afterwards."""
    stack.shared -= stack.mean(sent) * stack.rate
    stack.own, stack.own_statistics = stack.spread(stack.shared), stack.spread(stack.statistics)

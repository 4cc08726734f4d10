"""Delayed delivery of updates to P caches, as Dai et al. (ICLR 2019, arXiv 1810.03264) simulate it.

Update `u_p^t`, which worker p computed at iteration t from its own cache, arrives in the cache of every worker p',
including p's own, at the start of iteration t + 1 + r, where r is drawn independently for each pair (p, p'). Updates
that arrive together are summed in the order of (iteration sent, sender) and then added to the cache. This order is
fixed, so runs are bitwise repeatable, and with all delays 0 a cache equals, bit for bit, the parameters of synchronous
training.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from lambdaml.traces.delays import Delays

_CHUNK = 128


class Delivery:
    """The updates under way in several settings of P workers each. In a stack, row g * P + p is worker p of setting g.

    Updates wait, as they were sent, in a ring of the last R iterations. An arrival is a row of that ring, and one
    `embedding_bag` sums the arrivals of all caches.

    Args:
        delays: The delays of each setting. They are hashable and, with `seeds`, a pure function of the iteration.
        size: The number of floats in an update.
    """

    def __init__(self, delays: Sequence[Delays], seeds: Sequence[int], workers: int, size: int, kind: torch.dtype):
        self._delays, self._seeds, self._workers = list(delays), list(seeds), workers
        self._settings = np.arange(len(delays))  # the settings still alive, by their number at the start
        self._rows = torch.arange(len(delays) * workers)
        self._ring = torch.zeros(1, len(delays) * workers, size, dtype=kind)
        self._drawn = 0
        # The updates under way, sorted by all columns: arrival, setting, receiver, sent, sender.
        self._under_way: NDArray[np.int64] = np.empty((5, 0), np.int64)
        self._from = 0

    def exchange(self, iteration: int, updates: Tensor) -> Tensor:
        """Send an iteration's updates, and return the sums arriving before the next one: both [settings * P, size]."""
        if iteration >= self._drawn:
            self._draw(iteration)
        self._ring[iteration % len(self._ring)].index_copy_(0, self._rows, updates)
        until = int(np.searchsorted(self._under_way[0, self._from :], iteration, "right")) + self._from
        _, setting, receiver, sent, sender = self._under_way[:, self._from : until]
        self._from = until
        ring = self._ring.view(-1, self._ring.shape[2])
        rows = (sent % len(self._ring)) * self._ring.shape[1] + setting * self._workers + sender
        position = np.searchsorted(self._settings, setting) * self._workers + receiver
        offsets = np.searchsorted(position, np.arange(len(self._rows)))
        return embedding_bag(torch.from_numpy(rows), ring, torch.from_numpy(offsets), mode="sum")

    def keep(self, which: Sequence[int]) -> None:
        """Continue with these settings alone, given as positions among those still alive."""
        self._settings = self._settings[list(which)]
        first = torch.from_numpy(self._settings) * self._workers
        self._rows = (first[:, None] + torch.arange(self._workers)).flatten()
        column = self._under_way[:, self._from :]
        self._under_way, self._from = column[:, np.isin(column[1], self._settings)], 0

    def _draw(self, iteration: int) -> None:
        """Draw the delays of the next iterations, and make the ring reach as far back as they need."""
        workers = self._workers
        drawn = np.stack(
            [_drawn(cast(Hashable, self._delays[g]), self._seeds[g], workers, iteration) for g in self._settings]
        )
        index, sent, sender, receiver = np.indices(drawn.shape).reshape(4, -1)
        sent += iteration
        new = np.stack([sent + drawn.ravel(), self._settings[index], receiver, sent, sender])
        both = np.concatenate([self._under_way[:, self._from :], new], axis=1)
        arrives, setting, receiver, sent, sender = both
        cache = (arrives * (setting.max() + 1) + setting) * workers + receiver
        order = np.argsort((cache * (iteration + _CHUNK) + sent) * workers + sender)
        self._under_way, self._from = both[:, order], 0
        self._drawn = iteration + _CHUNK
        reach = int(drawn.max()) + 1
        if reach > len(self._ring):
            longer = self._ring.new_zeros(reach, *self._ring.shape[1:])
            for t in range(max(0, iteration - len(self._ring)), iteration):
                longer[t % reach] = self._ring[t % len(self._ring)]
            self._ring = longer


@lru_cache(512)
def _drawn(delays: Delays, seed: int, workers: int, first: int) -> NDArray[np.int64]:
    """Draw delays for `_CHUNK` iterations, [iterations, P, P], the same for all algorithms and models to compare."""
    found = np.stack([delays.matrix(t, workers, workers, seed) for t in range(first, first + _CHUNK)])
    found.flags.writeable = False
    return found

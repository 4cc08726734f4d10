"""Cohorts: in each round only K of the N workers take part, in bulk synchronous parallel.

The workers of the log are the K slots of a round, so leases, keys, polls and state grow with K, not with N. Which worker
takes a slot is a pure function of the run's seed and the round, sorted by worker: `cohort:N` is `bsp`, bit for bit.

Source: McMahan et al. (arXiv 1602.05629), where the server chooses a random set of clients for each round.
"""

from __future__ import annotations

from lambdaml.schedules.bsp import Bsp


class Cohort(Bsp):
    """Takes the mean of the updates of `size` workers, drawn for each round.

    Args:
        size: The number of workers that take part in a round, K.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size must be 1 or more, not {size}")
        self.cohort = size

"""Cohorts: in each round only K of the N workers take part, in bulk synchronous parallel.

The workers of the log are the K slots of a round, so leases, keys, polls and state grow with K, not with N. Which worker
takes a slot is a pure function of the run's seed and the round, sorted by worker: `cohort:N` is `bsp`, bit for bit.

Source: McMahan et al. (arXiv 1602.05629), where the server chooses a random set of clients for each round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from lambdaml.schedules.bsp import Bsp
from lambdaml.seeds import random_state

if TYPE_CHECKING:
    from lambdaml.settings import Settings

_KEPT = 16
"""The cohorts of this many rounds are kept."""


class Cohort(Bsp):
    """Takes the mean of the updates of `size` workers, drawn for each round.

    Args:
        size: The number of workers that take part in a round, K.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size must be 1 or more, not {size}")
        self.cohort = size


class Cohorts:
    """Draws the workers of each round.

    Args:
        workers: The number of all workers.
        slots: The number of workers that take part in a round.
    """

    def __init__(self, workers: int, slots: int, seed: int) -> None:
        self._workers, self._slots, self._seed = workers, slots, seed
        self.members = lru_cache(maxsize=_KEPT)(self._draw)

    def _draw(self, turn: int) -> Sequence[int]:
        """Return the workers that take part in a round, in rising order. Each set of them is equally likely.

        The time that it takes does not depend on the number of all workers. Source: Floyd's algorithm, in Bentley and
        Floyd, "A sample of brilliance", Communications of the ACM 30(9), 1987.
        """
        random, drawn = random_state("cohort", self._seed, turn), set[int]()
        for last in range(self._workers - self._slots, self._workers):
            one = int(random.randint(last + 1))
            drawn.add(last if one in drawn else one)
        return sorted(drawn)


class Turns:
    """Knows in which slot and round each worker took its latest turn. It is quick for rounds that rise."""

    def __init__(self, settings: Settings) -> None:
        self._cohorts = Cohorts(settings.sharers, settings.workers, settings.seed)
        self._latest: dict[int, tuple[int, int]] = {}
        self._rounds = 0

    def latest(self, slot: int, turn: int) -> tuple[int, int] | None:
        """Return the slot and the round of the latest turn, before this one, of the worker who takes this slot in this
        round; None if it had none."""
        return self._before(turn).get(self._cohorts.members(turn)[slot])

    def superseded(self, memories: Iterable[tuple[int, int]], turn: int) -> list[tuple[int, int]]:
        """Return those memories, each given by its slot and the number of updates that it follows, that no round from this
        one on can need, since its worker took another turn before."""
        kept = set(self._before(turn).values())
        return [(slot, seq) for slot, seq in memories if seq <= turn and (slot, seq - 1) not in kept]

    def _before(self, turn: int) -> Mapping[int, tuple[int, int]]:
        if turn < self._rounds:
            self._latest, self._rounds = {}, 0
        for number in range(self._rounds, turn):
            for slot, worker in enumerate(self._cohorts.members(number)):
                self._latest[worker] = slot, number
        self._rounds = turn
        return self._latest

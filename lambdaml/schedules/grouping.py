"""The groups of each round of a run whose workers average models in groups."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

_KEPT = 256
"""The groups of this many rounds are kept."""


class RoundGroups:
    """The groups of each round, each a list of workers in rising order. Subclasses have `_groups`, which finds them."""

    def __init__(self) -> None:
        self.of = lru_cache(maxsize=_KEPT)(self._groups)

    def around(self, turn: int, worker: int) -> Sequence[int]:
        """Return the group of a worker in a round."""
        return next(group for group in self.of(turn) if worker in group)

    def _groups(self, turn: int) -> list[list[int]]:
        raise NotImplementedError

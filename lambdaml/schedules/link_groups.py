"""Groups by links: workers whose links to the store are alike average their models, so that a slow link holds up few.

The workers are put in bands: a worker whose link takes more than `_ALIKE` times as long as the fastest of a band begins the
next. In each round the workers of a band are shuffled over groups of about G, whose sizes may differ by one. Bands would
never learn from each other, so in every `mix`-th round all workers are shuffled together, and then a slow link holds up those
it meets.

DS-Sync (the later version of arXiv 2007.03298) forms groups of unequal sizes from the topology and moves workers between them;
its rules are not published in code, so these are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from lambdaml.schedules.grouping import RoundGroups
from lambdaml.seeds import random_state

_ALIKE = 2.0


class LinkGrouping(RoundGroups):
    """The groups of each round, each a list of workers in rising order.

    Args:
        size: The number of workers of a group, G, about.
        links: The seconds that a worker's transfers take, or any numbers in proportion to them.
        mix: The number of rounds after which all workers are shuffled together.
    """

    def __init__(self, size: int, links: Sequence[float], mix: int, seed: int) -> None:
        self._size, self._mix, self._seed, self._workers = size, mix, seed, len(links)
        self._bands = bands(links)
        super().__init__()

    def _groups(self, turn: int) -> list[list[int]]:
        together = turn % self._mix == self._mix - 1
        found: list[list[int]] = []
        for number, band in enumerate([list(range(self._workers))] if together else self._bands):
            order = random_state("link groups", self._seed, turn, number).permutation(band).tolist()
            count = max(1, round(len(band) / self._size))
            bounds = [place * len(band) // count for place in range(count + 1)]
            found += [sorted(order[start:end]) for start, end in itertools.pairwise(bounds)]
        return sorted(found)


def bands(links: Sequence[float]) -> list[list[int]]:
    """Return the workers of each band, the fastest links first."""
    found: list[list[int]] = []
    for worker in sorted(range(len(links)), key=lambda worker: (links[worker], worker)):
        if not found or links[worker] > _ALIKE * links[found[-1][0]]:
            found.append([])
        found[-1].append(worker)
    return found


def parse_links(text: str) -> list[float]:
    """Read numbers such as `1+1+0.8+10`.

    Raises:
        ValueError: If they are none, or not above 0.
    """
    try:
        links = [float(number) for number in text.split("+")]
    except ValueError:
        raise ValueError(f"links are numbers such as '1+1+8', one for each worker, not {text!r}") from None
    if not all(0 < link < float("inf") for link in links):
        raise ValueError(f"links must be numbers above 0, not {text!r}")
    return links

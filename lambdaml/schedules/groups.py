"""Groups: each worker has a model of its own, and averages it with those of a small group, another one in each round.

In round r every worker takes its steps from its own model, and publishes the whole model that it has then. Its next model
is the mean of those of its group. So a round costs N puts and N(G - 1) gets, where `bsp` takes N(N - 1), and whoever is
late holds up its group alone, and those who are later grouped with it. What keeps the models together is that the groups
are shuffled. Which they are is a pure function of the run's seed and the round.

| shuffle | groups of round r | all agree, without learning, after |
|---|---|---|
| `grid` | rows, columns and so on of a grid that is G wide, in turn | log_G N rounds, if N is a power of G |
| `halves` | neighbours, then those who are N / G apart, in turn | 2 rounds, if N / G divides G |
| `random` | drawn anew | never quite |
| `none` | neighbours, always | never: this is a control |

Nobody waits for the log. Each header tells of the latest `every` rounds of its worker, so whoever writes the log reads N
headers every so many rounds and writes one entry for all of these. No worker gets more than `ENTRIES_AHEAD` times as many ahead.

Source: DS-Sync of Wang et al. (arXiv 2007.03298), whose scripts have `halves` for four workers.
"""

from __future__ import annotations

from collections.abc import Sequence

from lambdaml.errors import SettingsError
from lambdaml.log.records import Update
from lambdaml.log.state import LogState
from lambdaml.schedules import Decision
from lambdaml.schedules.grouping import RoundGroups
from lambdaml.schedules.link_groups import LinkGrouping, parse_links
from lambdaml.seeds import random_state

ENTRIES_AHEAD = 4
"""No worker is more than this many log entries ahead of the log."""


class Grouping(RoundGroups):
    """The groups of each round, each a list of workers in rising order.

    Args:
        size: The number of workers of a group, G, which divides that of all.
    """

    def __init__(self, size: int, shuffle: str, workers: int, seed: int) -> None:
        self._size, self._shuffle, self._workers, self._seed = size, shuffle, workers, seed
        self._strides = _strides(size, workers) if shuffle == "grid" else [1, workers // size]
        super().__init__()

    def _groups(self, turn: int) -> list[list[int]]:
        if self._shuffle == "random":
            order = random_state("groups", self._seed, turn).permutation(self._workers).tolist()
            return sorted(sorted(order[at : at + self._size]) for at in range(0, self._workers, self._size))
        stride = 1 if self._shuffle == "none" else self._strides[turn % len(self._strides)]
        found: dict[tuple[int, int], list[int]] = {}
        for worker in range(self._workers):
            found.setdefault((worker // (stride * self._size), worker % stride), []).append(worker)
        return list(found.values())


class Groups:
    """Workers that average their models in groups of `size`.

    Args:
        size: The number of workers of a group, G.
        shuffle: How the groups change: `grid`, `halves`, `random` or `none`.
        every: The number of rounds of a log entry.
        average: The place of the averaging in a round: `after` its steps, or `before` them, so that the models after a round
            are those that its steps led to. What is computed is the same.
        links: The seconds that each worker's transfers take, as in `1+1+8`. Then groups are formed by links; see
            `lambdaml.schedules.link_groups`. They need not divide the workers.
        mix: With links, the number of rounds after which all workers are shuffled together.
    """

    deterministic = False

    def __init__(
        self, size: int, shuffle: str = "grid", every: int = 8, average: str = "after", links: str = "", mix: int = 8
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be 1 or more, not {size}")
        if shuffle not in ("grid", "halves", "random", "none"):
            raise ValueError(f"shuffle must be grid, halves, random or none, not {shuffle!r}")
        if every < 1:
            raise ValueError(f"every must be 1 or more, not {every}")
        if average not in ("after", "before"):
            raise ValueError(f"average must be after or before, not {average!r}")
        if links and shuffle != "grid":
            raise ValueError("groups by links are shuffled in a way of their own: leave out shuffle")
        if mix < 1:
            raise ValueError(f"mix must be 1 or more, not {mix}")
        self._size, self._shuffle, self.every, self.after = size, shuffle, every, average == "after"
        self._links, self._mix = parse_links(links) if links else [], mix

    def grouping(self, workers: int, seed: int) -> RoundGroups:
        """Return the groups of so many workers in a run with this seed.

        Raises:
            SettingsError: If the workers cannot be grouped like this.
        """
        size = self._size
        if self._links:
            if len(self._links) != workers:
                raise SettingsError(f"groups have {len(self._links)} links for {workers} workers: give one for each")
            return LinkGrouping(size, self._links, self._mix, seed)
        if workers % size:
            raise SettingsError(
                f"groups of {size} do not divide {workers} workers: choose a size that does, or {workers - workers % size} or "
                f"{workers - workers % size + size} workers"
            )
        apart = workers // size
        if self._shuffle == "halves" and apart > size and apart % size == 0:
            raise SettingsError(
                f"groups of {size} that are halved never mix {workers} workers: use shuffle=grid or shuffle=random"
            )
        return Grouping(size, self._shuffle, workers, seed)

    def needs(self, workers: int) -> int:
        return workers

    def may_start(self, log_state: LogState, worker: int, seq: int, last_base: int) -> bool:
        return seq < log_state.next_seq[worker] + ENTRIES_AHEAD * self.every

    def decide(self, log_state: LogState, arrived: Sequence[Update]) -> Decision | None:
        known = {update.id: update for update in arrived}
        rounds = range(log_state.version, min(log_state.version + self.every, log_state.steps))
        workers = range(log_state.workers)
        if not all((worker, number) in known for number in rounds for worker in workers):
            return None
        return Decision([[known[worker, number] for worker in workers] for number in rounds])

    def progress(self, log_state: LogState) -> float:
        return log_state.version / log_state.steps

    def leaves(self, log_state: LogState, worker: int, seq: int) -> bool:
        return seq >= log_state.steps


def _strides(size: int, workers: int) -> list[int]:
    """Return how far apart neighbours in a group are, for each round in turn."""
    if size == 1:
        return [1]
    strides = [1]
    while workers % (strides[-1] * size * size) == 0:
        strides.append(strides[-1] * size)
    last = workers // size
    return strides if strides[-1] == last else [*strides, last]

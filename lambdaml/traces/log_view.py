"""Follows the end of a run's log without reading all of it.

A look takes one request if nothing has happened, and two if something has: the list of new entries says how many there
are, and only the newest one is read. `look_back` reads some of those that were passed over.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from lambdaml.log import keys
from lambdaml.log.holders import last_of
from lambdaml.log.reads import read_now
from lambdaml.log.records import Commit, Stop
from lambdaml.log.summary import Staleness
from lambdaml.settings import Settings
from lambdaml.storage import ObjectInfo, Store
from lambdaml.storage.backend import BATCH

STALL_S = 15.0
"""A log that has not grown for a shorter time is never said to stall."""

STALL_COMMITS = 5.0
"""A log stalls when it has not grown for this many times the usual time between two entries."""

_SAMPLED = 40
"""So many of the older entries are read, evenly spread."""

_RECENT_UPDATES = 200
_RECENT_LOOKS = 12
"""The recent staleness is that of the first number of updates, the recent pace that of the second number of looks."""


@dataclass(frozen=True, slots=True)
class _Newest:
    """A worker's newest update that was seen in the log, the version it went into, and the clock at that time."""

    seq: int
    version: int
    at: float


class LogView:
    """What is known of a log.

    Args:
        store: The run's bucket.
        settings: The run's settings.
        clock: A monotonic clock, in seconds.
        now: A clock that returns the seconds since 1970.

    Attributes:
        commits: The number of entries that are known to exist.
        version: The version after the newest entry that was read.
        progress: The share of the run that is done after that entry.
        stop: The reason why the run ended, or None.
        losses: The mean loss of the updates of each entry that was read, by version.
        newest: The newest update of each worker.
        generations: The highest generation of each worker's leases.
        refused: The number of refused updates that were seen, by fate.
    """

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float], now: Callable[[], float]) -> None:
        self._store, self._settings = store, settings
        self._clock, self._now = clock, now
        self.commits = self.version = 0
        self.progress = 0.0
        self.stop: Stop | None = None
        self.losses: dict[int, float] = {}
        self.newest: dict[int, _Newest] = {}
        self.generations: dict[int, int] = {}
        self.refused: Counter[str] = Counter()
        self._counts: Counter[int] = Counter()
        self._recent: deque[int] = deque(maxlen=_RECENT_UPDATES)
        self._looks: deque[tuple[float, int, float]] = deque(maxlen=_RECENT_LOOKS)
        self._first = self._last = 0.0  # dates of entries
        self._moved = clock()
        self._read: set[int] = set()
        self._busy = False
        self._begun = False

    @property
    def quiet_s(self) -> float:
        """The seconds since the log is known to have grown."""
        return max(0.0, self._clock() - self._moved)

    @property
    def stalled(self) -> bool:
        """Whether it has not grown for much longer than usual, and does not end the run."""
        least_s = STALL_S if self.commits else max(STALL_S, self._settings.lease_s)
        return self.stop is None and self.quiet_s > max(least_s, STALL_COMMITS * (self.usual_s or 0.0))

    @property
    def elapsed_s(self) -> float:
        """The seconds from the first entry to the newest one."""
        return max(0.0, self._last - self._first)

    @property
    def staleness(self) -> Staleness:
        """The staleness of all updates that were seen."""
        return Staleness.of_counts(self._counts)

    @property
    def recent(self) -> Staleness:
        """The staleness of the latest updates that were seen."""
        return Staleness.of(list(self._recent))

    @property
    def snapshots(self) -> int:
        """The number of snapshots that are due so far, roughly."""
        return int(self.progress * self._settings.steps) // self._settings.snapshot_every

    @property
    def usual_s(self) -> float | None:
        """The seconds between two commits in the recent past, or None if they are not known."""
        seconds, commits, _ = self._pace()
        return seconds / commits if commits else None

    @property
    def left_s(self) -> float | None:
        """The seconds that are left at the recent pace; None if that is not known, or a target decides the end."""
        seconds, _, progress = self._pace()
        if self._settings.target or self.stop or progress <= 0:
            return None
        return (1 - self.progress) * seconds / progress

    def _pace(self) -> tuple[float, int, float]:
        """Return seconds, and the commits and the progress that were made in them."""
        if len(self._looks) > 2:
            (begin, before, done), (end, after, more) = self._looks[0], self._looks[-1]
            return end - begin, after - before, more - done
        return self.elapsed_s, max(0, self.commits - 1) if self.elapsed_s else 0, self.progress

    def follow(self) -> bool:
        """Look for new entries at the end, and return whether there are any.

        Raises:
            BadObject: If the newest entry is damaged.
        """
        if self.stop is not None:
            return False
        found = self._after() if self._begun else self._end()
        self._begun, self._busy = True, found is not None
        if found is None:
            return False
        commit, date = found
        self._last = self._now() if date is None else date
        self._first = self._first or self._last
        ago_s = 0.0 if self.commits else max(0.0, self._now() - self._last)
        self._moved = self._clock() - ago_s
        self.commits, self.version = commit.commit + 1, commit.last_version
        self.progress, self.stop = commit.progress, commit.stop
        self._take(commit)
        self._recent.extend(entry.staleness for entry in commit.applied)
        self._looks.append((self._moved, self.commits, self.progress))
        return True

    def _end(self) -> tuple[Commit, float | None] | None:
        """Find the end of a log of which nothing is known: by one page of a list, and by bisection beyond that."""
        page = list(islice(self._store.list(keys.LOG), BATCH))
        if not page:
            return None
        self._first, info = page[0].modified, page[-1]
        if len(page) == BATCH:
            last = last_of(lambda number: self._store.head(keys.log(number)), BATCH - 1)
            info = last[1] if last else info
        return self._entry(info.key, info)

    def _after(self) -> tuple[Commit, float | None] | None:
        """Look for entries after the newest one: by a list if the last look found some, by its key otherwise."""
        if not self._busy:
            return self._entry(keys.log(self.commits))
        page = list(islice(self._store.list(keys.LOG, after=keys.log(self.commits - 1)), BATCH))
        return self._entry(page[-1].key, page[-1]) if page else None

    def _entry(self, key: str, info: ObjectInfo | None = None) -> tuple[Commit, float | None] | None:
        commit = read_now(self._store, key, Commit.read)
        return None if commit is None else (commit, info.modified if info else None)

    def look_back(self) -> Iterator[None]:
        """Read some entries that were passed over, and yield after each."""
        missing = _SAMPLED - len(self._read)
        if missing <= 0:
            return
        places = {round(self.commits * number / _SAMPLED) for number in range(_SAMPLED)}
        for number in sorted(places - self._read, reverse=True)[:missing]:
            if number < self.commits - 1:
                found = self._entry(keys.log(number))
                if found is not None:
                    self._take(found[0])
                yield

    def _take(self, commit: Commit) -> None:
        if commit.commit in self._read:
            return
        self._read.add(commit.commit)
        losses = [entry.loss for entry in commit.applied if math.isfinite(entry.loss)]
        if losses:
            self.losses[commit.last_version] = sum(losses) / len(losses)
        self._counts.update(entry.staleness for entry in commit.applied)
        self.refused.update(entry.fate for entry in commit.refused)
        for entry in commit.entries:
            known = self.newest.get(entry.worker)
            if known is None or known.seq < entry.seq:
                at = self._moved if commit.commit == self.commits - 1 else self._moved - self._since(commit)
                self.newest[entry.worker] = _Newest(entry.seq, commit.last_version, at)
            self.generations[entry.worker] = max(self.generations.get(entry.worker, 0), entry.generation)

    def _since(self, commit: Commit) -> float:
        """Return the estimated seconds from an older entry to the newest one."""
        return (self.commits - 1 - commit.commit) * (self.usual_s or 0.0)

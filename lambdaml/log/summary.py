"""Adds up the log of a run."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from lambdaml.log.records import Commit, Control


@dataclass(frozen=True, slots=True)
class Staleness:
    """The distribution of staleness over the applied updates.

    The staleness of an update is the number of optimizer steps between the version that it was computed from and the
    step that applied it. A percentile is a value that occurred, as everywhere in lambdaml: the least value such that at
    least that share of all values does not exceed it.

    Attributes:
        mean: The mean, in steps.
        p50: The median, in steps.
        p95: The 95th percentile, in steps.
        max: The greatest staleness that occurred, in steps.
    """

    mean: float
    p50: float
    p95: float
    max: int

    @staticmethod
    def of(values: list[int]) -> Staleness:
        """Return the distribution of these values. For no values, all its numbers are zero."""
        return Staleness.of_counts(Counter(values))

    @staticmethod
    def of_counts(counts: Mapping[int, int]) -> Staleness:
        """Return the distribution in which each value occurs this often. For no values, all its numbers are zero."""
        if not counts:
            return Staleness(0.0, 0.0, 0.0, 0)
        ordered = sorted(counts)
        ends = list(accumulate(counts[value] for value in ordered))
        total = ends[-1]
        p50, p95 = (float(ordered[bisect_left(ends, q * total)]) for q in (0.5, 0.95))
        mean = sum(value * count for value, count in counts.items()) / total
        return Staleness(mean, p50, p95, ordered[-1])


@dataclass(frozen=True, slots=True)
class Summary:
    """The sums over a run's log.

    Attributes:
        commits: The number of log entries.
        version: The version after the last of them, in optimizer steps.
        updates: The number of updates with a fate.
        samples: The number of samples in the applied updates.
        fates: The number of updates for each of the fates `applied`, `discarded` and `rejected`.
        staleness: The distribution of staleness over the applied updates.
        stop: The reason why the run ended, or None if the log does not end it.
        stop_version: The version that the run's result has, or None if the log does not end the run.
        controls: The changes in mid-run that the log holds, such as another learning rate or a lost memory.
    """

    commits: int
    version: int
    updates: int
    samples: int
    fates: dict[str, int]
    staleness: Staleness
    stop: str | None
    stop_version: int | None
    controls: tuple[Control, ...] = ()

    @staticmethod
    def of(log: Iterable[Commit]) -> Summary:
        """Add up a whole log."""
        fates = {"applied": 0, "discarded": 0, "rejected": 0}
        staleness: Counter[int] = Counter()
        commits = version = samples = 0
        stop = None
        controls: list[Control] = []
        for commit in log:
            controls += commit.controls
            commits, version, stop = commits + 1, commit.last_version, commit.stop
            for entry in commit.entries:
                fates[entry.fate] += 1
            staleness.update(entry.staleness for entry in commit.applied)
            samples += sum(entry.samples for entry in commit.applied)
        return Summary(
            commits,
            version,
            sum(fates.values()),
            samples,
            fates,
            Staleness.of_counts(staleness),
            stop.reason if stop else None,
            stop.version if stop and stop.version is not None else version if stop else None,
            tuple(controls),
        )

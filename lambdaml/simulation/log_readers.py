"""All functions that follow the log, at once: when each finds an entry, has read its updates, and has applied it.

This is what `lambdaml.worker.log_reader.LogReader`, `Gather.load` and `Function._apply` do, for arrays of functions. An
entry costs some dozen operations on arrays, however many functions read it and however many updates it holds.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from lambdaml.log import keys
from lambdaml.simulation.draws import ARRAYS, Floats
from lambdaml.simulation.looks import look
from lambdaml.simulation.scenario import Scenario
from lambdaml.worker.poll_timer import BURST, entry_due_s, entry_scale_s


class Known(NamedTuple):
    """The version after a commit, and when functions had the commit queued.

    Attributes:
        version: The version after the commit, in optimizer steps.
        queued_s: The moment at which each function had the commit queued to be applied.
        last_s: The moment at which the last function had it queued.
    """

    version: int
    queued_s: Floats
    last_s: float


class Versions:
    """The versions that functions know.

    Args:
        begun: The moment at which each function begins to work, with version 0.
    """

    def __init__(self, begun: Floats) -> None:
        self._known = deque([Known(0, begun.copy(), float(begun.max()))])

    def add(self, version: int, queued_s: Floats, now: float) -> Known:
        """Note when functions had a commit queued. Commits that all functions had queued by now are forgotten.

        Args:
            version: The version after the commit.
            queued_s: The moment at which each function had it queued to be applied.
            now: The moment at which the writer decided it.
        """
        known = self._known
        known.append(Known(version, queued_s, float(queued_s.max())))
        while known[1].last_s <= now:
            known.popleft()
        return known[-1]

    def at(self, function: int, now: float) -> int:
        """Return the version that the function computes from if it begins now."""
        for known in reversed(self._known):
            if known.queued_s[function] <= now:
                return known.version
        return self._known[0].version


class LogReaders:
    """The position of each function in the log, which function 0 writes.

    Args:
        scenario: The run's input and its counts.
        begun: The moment at which each function begins to work.
        latency_s: The latency that each function measured then, in seconds.

    Attributes:
        core_s: For each function, the moment at which its core will have done all work that it was given.
        applied_s: For each function, the moment at which it has applied the newest commit.
        versions: The versions that functions know.
    """

    def __init__(self, scenario: Scenario, begun: Floats, latency_s: Floats) -> None:
        self._scenario = scenario
        self._latency_s = latency_s
        self._found_s, self._seen_s = begun.copy(), begun.copy()
        self._burst = np.ones(len(begun), np.int64)
        self._asked = np.zeros(len(begun), np.int64)
        self._pipe_s, self.applied_s = np.zeros(len(begun)), begun.copy()
        self._forecast_s = 0.0
        self.core_s = begun.copy()
        self.versions = Versions(begun)

    def read(self, commit: int, visible_s: float, forecast_s: float, size_bytes: float) -> None:
        """Let all functions find the log entry `commit`.

        Args:
            commit: The number of the entry.
            visible_s: The moment from which it can be read.
            forecast_s: The seconds until the next entry, as this one forecasts them.
            size_bytes: The bytes of the entry.
        """
        seen, burst, asked = self._seen_s, self._burst, self._asked
        with_last = asked > commit
        hit = with_last & (seen >= visible_s)
        misses = int((asked - commit)[with_last & ~hit].sum())
        whole = hit & (asked == commit + 1)
        burst[whole] = np.minimum(BURST, 2 * burst[whole])
        burst[with_last & ~hit] = 1
        hit[0] = True
        todo = np.flatnonzero(~hit)
        if todo.size:
            latency_s, asking, since = self._latency_s[todo], burst[todo], self._found_s[todo]
            due = np.where(asking == 1, entry_due_s(since, latency_s, self._forecast_s), since)
            scale_s = entry_scale_s(ARRAYS, latency_s, self._forecast_s)
            looks = look(
                self._scenario, np.maximum(since, due), np.full(todo.size, visible_s), scale_s, float(asking.mean())
            )
            self._found_s[todo], seen[todo] = looks.found_s, looks.seen_s
            late = looks.misses > 0
            misses += int((looks.misses + (asking - 1) * late).sum())
            asked[todo] = commit + np.where(late, 1, asking)
            burst[todo] = np.where(late, 1, np.where(asking == 1, 2, asking))
        self._forecast_s = forecast_s
        self._scenario.got(len(seen) - 1, size_bytes, misses)

    def apply(self, version: int, updates: Floats, own: int, steps: int, done_s: float, now: float) -> Known:
        """Let all functions read the updates of the commit that they lack, and apply it.

        Args:
            version: The version after the commit.
            updates: For each function, the number of updates that it must read.
            own: The number of updates that the commit applies.
            steps: The number of optimizer steps in the commit.
            done_s: The moment at which the writer had the commit.
            now: The moment at which the writer decided it. Commits that all functions had queued by then are forgotten.
        """
        scenario, loaded = self._scenario, self._found_s
        loaded[0] = done_s
        reads = int(updates.sum())
        if reads:
            size = scenario.size_bytes[keys.UPDATES]
            served = scenario.read_limit.serve(loaded, reads / len(loaded))
            arrives = served + scenario.reads.largest(np.maximum(updates, 1.0)) + size / scenario.connection_bytes_per_s
            self._pipe_s = np.maximum(self._pipe_s, served) + updates * (size / scenario.bytes_per_s)
            loaded = np.where(updates > 0, np.maximum(arrives, self._pipe_s), loaded)
            scenario.got(reads, size)
        queued = np.maximum(loaded, self.applied_s)
        self.applied_s = np.maximum(queued, self.core_s)
        cost_s = scenario.costs.apply_s * steps + scenario.costs.apply_update_s * own
        if cost_s:
            work = cost_s * scenario.factors()
            scenario.counted.busy_s += float(work.sum())
            self.applied_s += work
        self.core_s = self.applied_s.copy()
        return self.versions.add(version, queued, now)

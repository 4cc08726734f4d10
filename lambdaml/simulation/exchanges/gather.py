"""Gather in closed form: every function reads every update; see `lambdaml.patterns.gather`.

In rounds, up to `READERS` functions look for each update when their own timers say so. If the run has more functions,
each of the others ends a round together with one of these, which is drawn for each round: functions differ in nothing
but their own updates.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from lambdaml.log import keys
from lambdaml.simulation.draws import Floats
from lambdaml.simulation.exchanges import READERS, Decided, Delivered, Published
from lambdaml.simulation.log_readers import LogReaders
from lambdaml.simulation.network import Network
from lambdaml.simulation.scenario import CatchUp, Scenario
from lambdaml.simulation.watch import Watch
from lambdaml.worker.poll_timer import OWN_UPDATE_FIRST_S
from lambdaml.worker.window import MAX_UNAPPLIED


class GatherRounds:
    """The exchange in rounds.

    Args:
        scenario: The run's input and its counts.
        latency_s: For each function, the latency that it measured at its start, in seconds.
        uploads: The networks of functions towards the store.
    """

    def __init__(self, scenario: Scenario, latency_s: Floats, uploads: Network) -> None:
        workers, functions = scenario.settings.workers, scenario.functions
        self.updates_added = workers
        self._scenario, self._functions, self._workers = scenario, functions, workers
        self._readers = min(functions, READERS)
        self._others = np.arange(workers) % functions != np.arange(self._readers)[:, None]
        self._reader, self._update = np.nonzero(self._others)
        self._watch = Watch(scenario, self._reader, latency_s[: self._readers].copy(), functions / self._readers)
        self._warm = False  # whether functions know that others have published updates

    def decided(self, published: Published) -> Floats:
        """Return when each function has found all others' updates, and has its own."""
        begin, own = published.begin_s, published.own_s
        if self._functions == 1:
            return own
        start = begin[self._reader]
        warm = begin if self._warm else own
        cold = np.minimum(begin + OWN_UPDATE_FIRST_S, warm)[self._reader]
        arrives = np.full(self._others.shape, -np.inf)
        arrives[self._others] = self._watch.find(start, cold, published.stands_s[self._update])
        if published.said_s is not None:
            self._watch.said(published.said_s[self._update])
        self._warm = True
        found = self._downloaded(arrives)
        if self._functions > self._readers:
            found = np.append(found, self._scenario.rng.choice(found, self._functions - self._readers))
        decided: Floats = np.maximum(own, found)
        return decided

    def catch_up(self, rounds: int) -> CatchUp:
        """Return what a function does to catch up on so many rounds."""
        return _catch_up(self._scenario, 0, rounds * self._workers)

    def _downloaded(self, arrives: Floats) -> Floats:
        """Return when each function has received all updates, given when they would arrive if they had no bytes."""
        scenario, size = self._scenario, self._scenario.update_bytes
        last: Floats = arrives.max(axis=1) + size / scenario.connection_bytes_per_s
        each_s = size / scenario.bytes_per_s
        if each_s * self._workers < 1e-4:
            return last
        behind = np.arange(self._workers, 0, -1)  # the number of updates that arrive no earlier
        queued: Floats = (np.sort(arrives, axis=1) + behind * each_s).max(axis=1)
        return np.maximum(last, queued)


class GatherCommits:
    """The exchange in logged runs: all functions read the log and the updates.

    Args:
        scenario: The run's input and its counts.
        begun: The moment at which each function begins to work.
        latency_s: For each function, the latency that it measured then, in seconds.
    """

    def __init__(self, scenario: Scenario, begun: Floats, latency_s: Floats) -> None:
        self._scenario, self._functions = scenario, scenario.functions
        self._readers = LogReaders(scenario, begun, latency_s)
        self._unapplied: deque[float] = deque(maxlen=MAX_UNAPPLIED)

    @property
    def core_s(self) -> Floats:
        """For each function, the moment at which its core will have done all work that it was given."""
        return self._readers.core_s

    @property
    def applied_s(self) -> Floats:
        """For each function, the moment at which it has applied the newest commit."""
        return self._readers.applied_s

    def deliver(self, decided: Decided) -> Delivered:
        """Let all functions read the log entry and the updates that they lack, and apply the commit."""
        readers, commit, done = self._readers, decided.commit, decided.done_s
        if self._functions > 1:
            readers.read(commit.commit, decided.visible_s, decided.forecast_s, decided.size_bytes)
        applied = commit.applied
        hosts = np.array([entry.worker for entry in applied], np.int64) % self._functions
        missing: Floats = len(applied) - np.bincount(hosts, minlength=self._functions).astype(np.float64)
        missing[0] = 0.0
        steps = len(commit.steps)
        known = readers.apply(commit.last_version, missing, len(applied), steps, done, decided.decided_s)
        if self._unapplied.maxlen == len(self._unapplied):
            done = max(done, self._unapplied[0])
        self._unapplied.append(float(readers.applied_s[0]))
        return Delivered(done, decided.visible_s, known)

    def version_at(self, function: int, now: float) -> int:
        """Return the version that the function computes from if it begins now."""
        return self._readers.versions.at(function, now)

    def catch_up(self, function: int, commits: int, updates: int) -> CatchUp:
        """Return what the function does to catch up on so many commits of so many updates."""
        return _catch_up(self._scenario, commits, updates)


def _catch_up(scenario: Scenario, entries: int, updates: int) -> CatchUp:
    costs = scenario.costs
    work_s = (costs.apply_s + costs.apply_update_s) * updates
    return CatchUp(entries, updates, scenario.size_bytes[keys.UPDATES], work_s)

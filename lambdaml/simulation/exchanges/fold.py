"""Fold in closed form: one function reads the updates and steps, and the others take over its model.

See `lambdaml.patterns.fold`. The writer decides the next commit as soon as the log entry of the last one exists, unless it
has `MAX_UNAPPLIED` commits to apply. It applies the next one when no more than `IN_FLIGHT` models are on their way. So a
commit takes what arrives while a log entry is written; and if the writer's network or core cannot keep pace, what arrives
while `MAX_UNAPPLIED` commits wait.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from lambdaml.log import keys
from lambdaml.patterns.fold import IN_FLIGHT, least_s
from lambdaml.simulation.channel import Pipe
from lambdaml.simulation.draws import ARRAYS, Floats
from lambdaml.simulation.exchanges import Decided, Delivered
from lambdaml.simulation.log_readers import Versions
from lambdaml.simulation.looks import look
from lambdaml.simulation.network import Network
from lambdaml.simulation.scenario import CatchUp, Scenario
from lambdaml.worker.poll_timer import OWN_UPDATE_FIRST_S, entry_due_s, entry_scale_s
from lambdaml.worker.window import MAX_UNAPPLIED


class FoldCommits:
    """The exchange in logged runs.

    Args:
        scenario: The run's input and its counts.
        begun: The moment at which each function begins to work.
        latency_s: For each function, the latency that it measured then, in seconds.

    Attributes:
        core_s: For each function, the moment at which its core will have done all work that it was given.
        applied_s: For each function, the moment at which it has applied the newest commit.
    """

    def __init__(self, scenario: Scenario, begun: Floats, latency_s: Floats) -> None:
        functions = scenario.functions
        self.core_s, self.applied_s = begun.copy(), begun.copy()
        self._scenario, self._versions = scenario, Versions(begun)
        self._downloads = Network(functions, scenario.bytes_per_s, scenario.connection_bytes_per_s)
        self._uplink = Pipe(scenario.bytes_per_s)  # log entries are small, and come between models
        self._followers = np.arange(1, functions)
        self._least_s = least_s(scenario.settings.workers - -(-scenario.settings.workers // functions))
        self._latency_s, self._found_s = latency_s[1:].copy(), begun[1:].copy()
        self._looks_from_s = begun[
            1:
        ].copy()  # from when the others may look, since they have applied the commit before
        self._forecast_s: float | None = None
        self._answered_s: deque[float] = deque(maxlen=IN_FLIGHT)  # when the writer knew of its last models
        self._unapplied_s: deque[float] = deque(maxlen=MAX_UNAPPLIED)
        self._next_s = float(begun[0])  # when the writer may apply the next commit

    def deliver(self, decided: Decided) -> Delivered:
        """Let the writer apply a commit and put its model, and the others find that."""
        scenario, commit, costs = self._scenario, decided.commit, self._scenario.costs
        cost_s = costs.apply_s * len(commit.steps) + costs.apply_update_s * len(commit.applied)
        work_s = cost_s * float(scenario.factors()[0])
        scenario.counted.busy_s += work_s
        queued = max(decided.done_s, self._next_s)
        applied = max(queued, float(self.core_s[0])) + work_s
        self.core_s[0] = self.applied_s[0] = applied
        size = round(scenario.size_bytes[keys.REDUCED] + decided.size_bytes)
        scenario.counted.bytes_sent += round(decided.size_bytes)
        half_s = scenario.writes.next() / 2
        sent = self._uplink.finish(applied, size, scenario.connection_bytes_per_s)
        visible = scenario.write_limit.serve_one(sent + half_s)
        self._next_s = applied
        if len(self._answered_s) == IN_FLIGHT:
            self._next_s = max(applied, self._answered_s[0])
        self._answered_s.append(visible + half_s)
        free = max(decided.done_s, decided.decided_s + self._least_s)
        if len(self._unapplied_s) == MAX_UNAPPLIED:
            free = max(free, self._unapplied_s[0])
        self._unapplied_s.append(self._next_s)
        found = self._find(decided.decided_s, visible, size)
        following = np.maximum(found, self.applied_s[1:])
        self._looks_from_s = self.applied_s[1:].copy()
        self.applied_s[1:] = np.maximum(following, self.core_s[1:])
        known = self._versions.add(commit.last_version, np.append(queued, following), decided.decided_s)
        self._forecast_s = max(decided.forecast_s, self._least_s)
        return Delivered(free, visible, known)

    def version_at(self, function: int, now: float) -> int:
        """Return the version that the function computes from if it begins now."""
        return self._versions.at(function, now)

    def catch_up(self, function: int, commits: int, updates: int) -> CatchUp:
        """Return what the function does to catch up on so many commits of so many updates."""
        costs = self._scenario.costs
        if function:
            return CatchUp(0, commits, self._scenario.size_bytes[keys.REDUCED], 0.0)
        work_s = (costs.apply_s + costs.apply_update_s) * updates
        return CatchUp(commits, updates, self._scenario.size_bytes[keys.UPDATES], work_s)

    def _find(self, decided_s: float, visible_s: float, size_bytes: float) -> Floats:
        """Return when each of the other functions has the model that can be read from `visible_s` on."""
        scenario, followers, latency_s, found = self._scenario, self._followers, self._latency_s, self._found_s
        if not followers.size:
            return found
        forecast_s = self._forecast_s or 0.0
        if self._forecast_s is None:  # they wait until they have published updates themselves
            due = np.maximum(found, np.minimum(found + OWN_UPDATE_FIRST_S, decided_s))
        else:
            due = np.maximum(found, entry_due_s(found, latency_s, forecast_s))
        due = np.maximum(due, self._looks_from_s)
        scale_s = entry_scale_s(ARRAYS, latency_s, forecast_s)
        looks = look(scenario, due, np.full(followers.size, visible_s), scale_s)
        kept = 0.8**looks.misses
        latency_s[:] = kept * latency_s + (1 - kept) * looks.missed_s / np.maximum(looks.misses, 1)
        self._found_s = self._downloads.moved(followers, looks.found_s, size_bytes)
        scenario.got(followers.size, size_bytes, int(looks.misses.sum()))
        return self._found_s

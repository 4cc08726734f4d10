"""Runs in which every function decides every commit by itself, when it has all workers' updates: bsp.

A round is a few dozen operations on arrays: each function computes and publishes here, and `lambdaml.simulation.exchanges`
says when it has what it needs to decide the round.

The limit of `MAX_UNWRITTEN` on the commits that a function may be ahead of the log is left out.
"""

from __future__ import annotations

import numpy as np

from lambdaml.log.commits import build_commit
from lambdaml.log.records import Update
from lambdaml.log.state import LogState
from lambdaml.simulation.draws import Floats
from lambdaml.simulation.exchanges import ROUND_EXCHANGES, Published, RoundFlow
from lambdaml.simulation.network import Network
from lambdaml.simulation.scenario import Bools, FlowResult, Scenario
from lambdaml.worker.requests import SNAPSHOT, exchanged


class SyncFlow:
    """One run, which is simulated once.

    Args:
        scenario: The run's input and its counts.

    Attributes:
        log_state: The log state. It advances only if the caller asked for the commits.
    """

    def __init__(self, scenario: Scenario) -> None:
        workers, functions = scenario.settings.workers, scenario.functions
        self._scenario, self._counted = scenario, scenario.counted
        self._workers, self._functions = workers, functions
        hosted = -(-workers // functions)
        self._mine: Bools = np.arange(functions)[:, None] + functions * np.arange(hosted) < workers
        self._hosts = self._mine.sum(axis=1)
        self._launched, self._decided, latency_s = scenario.launched()
        self._uploads = Network(functions, scenario.bytes_per_s, scenario.connection_bytes_per_s)
        given = {"scenario": scenario, "latency_s": latency_s, "uploads": self._uploads}
        self._exchange: RoundFlow = ROUND_EXCHANGES.make(scenario.settings.pattern, given)
        self._uploads_s: Floats | None = None
        self._ends_s = self._launched + scenario.platform.lifetime_s
        self.log_state = LogState(workers, scenario.settings.steps)
        self._schedule, self._rule = scenario.parts.schedule, scenario.parts.rule

    def run(self, updates: int | None = None) -> FlowResult:
        """Run to the end, or until at least `updates` updates have a fate, and return the result."""
        scenario, counted, settings = self._scenario, self._counted, self._scenario.settings
        rounds = settings.steps if updates is None else -(-updates // self._workers)
        self.log_state.steps = settings.steps if updates is None else rounds + 1
        for number in range(rounds):
            self._round(number)
            if (number + 1) % settings.snapshot_every == 0:
                self._uploads.moved(np.zeros(1, np.int64), self._decided[:1], scenario.snapshot_bytes)
        made = rounds * self._workers
        script, units = exchanged(settings.pattern, self._workers, self._functions)
        scenario.count(script, **{unit: rounds * count for unit, count in units.items()})
        scenario.count(SNAPSHOT, snapshot=rounds // settings.snapshot_every)
        counted.bytes_sent += scenario.entry_bytes * made
        counted.fates["applied"] = counted.late[0] = counted.cycles = made
        counted.commits = counted.version = rounds
        over = self._decided + (self._apply_s() if rounds else 0.0)
        return scenario.finish(self._launched, over, "steps" if updates is None else "updates")

    def _round(self, number: int) -> None:
        """Simulate a round: each function computes, publishes, and finds the others' updates."""
        counted, begin, workers = self._counted, self._decided, self._workers
        core = begin + (self._apply_s() if number else 0.0)
        batches = self._scenario.batches(number)
        counted.batches += workers * batches
        ready, stands, sent = self._publish(begin, core, batches)
        own: Floats = np.where(self._mine, sent, 0.0).max(axis=1)
        computed: Floats = np.where(self._mine, ready, 0.0).max(axis=1)
        uploads_s, said_s = _by_worker(sent - ready, workers), None
        if self._uploads_s is not None:
            said_s = _by_worker(ready - begin[:, None], workers) + self._uploads_s
        self._uploads_s = uploads_s
        there, known = _by_worker(stands, workers), _by_worker(sent, workers)
        self._decided = self._exchange.decided(Published(begin, computed, own, there, known, said_s))
        counted.phases_s["upload"] += float(uploads_s.sum())
        counted.phases_s["read"] += float((self._hosts * self._decided).sum() - _by_worker(sent, workers).sum())
        counted.in_flight_s += float((self._hosts * (self._decided - begin)).sum())
        self._replace(own - begin, number % self._scenario.settings.snapshot_every)
        if number == 0 or self._scenario.on_commit:
            self._commit(number)

    def _replace(self, step_s: Floats, rounds: int) -> None:
        """Replace the functions whose lifetime is nearly over. The new ones catch up on `rounds` rounds."""
        leaving = np.flatnonzero(self._scenario.leaves(self._ends_s - self._decided, step_s))
        if leaving.size:
            begun = self._scenario.replace(self._decided[leaving], self._exchange.catch_up(rounds))
            self._decided[leaving], self._ends_s[leaving] = begun, begun + self._scenario.platform.lifetime_s

    def _apply_s(self) -> Floats:
        costs, added = self._scenario.costs, self._exchange.updates_added
        work: Floats = (costs.apply_s + costs.apply_update_s * added) * self._scenario.factors()
        self._counted.busy_s += float(work.sum())
        return work

    def _publish(self, begin: Floats, core: Floats, batches: int) -> tuple[Floats, Floats, Floats]:
        """Return when each function's workers are ready to send, when their updates exist, and when they know it."""
        scenario, costs, counted = self._scenario, self._scenario.costs, self._counted
        size, mine = scenario.update_bytes, self._mine
        ready, sent = np.empty(mine.shape), np.empty(mine.shape)
        for place, hosts in enumerate(mine.T):
            compute_s = np.where(hosts, batches * costs.step_s * scenario.factors(), 0.0)
            encode_s = np.where(hosts, costs.encode_s * scenario.factors(), 0.0)
            counted.phases_s["queue"] += float((core - begin)[hosts].sum())
            counted.phases_s["compute"] += float(compute_s.sum())
            counted.phases_s["encode"] += float(encode_s.sum())
            counted.busy_s += float(compute_s.sum() + encode_s.sum())
            ready[:, place] = core = core + compute_s + encode_s
            sent[:, place] = core
            sent[hosts, place] = self._uploads.moved(np.flatnonzero(hosts), core[hosts], size)
        half_s = scenario.writes.many(sent.size).reshape(sent.shape) / 2
        stands = sent + half_s
        stands[mine] = scenario.write_limit.serve(stands[mine])
        return ready, stands, stands + half_s

    def _commit(self, number: int) -> None:
        """Make the commit, check that it takes all updates in one step, and give it to a caller that asked for it."""
        scenario, log_state = self._scenario, self.log_state
        arrived = [
            Update(worker, number, log_state.version, 1, "", scenario.samples(worker, number), 0.0, "")
            for worker in range(self._workers)
        ]
        commit = build_commit(
            log_state, self._schedule, self._rule, arrived, max_rejected=scenario.settings.max_rejected
        )
        if commit is None or [len(step) for step in commit.steps] != [self._workers]:
            raise NotImplementedError(
                f"{scenario.settings.schedule} is deterministic, but a commit is not a round of all workers"
            )
        if scenario.on_commit:
            log_state.advance(commit)
            scenario.on_commit(float(self._decided[0]) + scenario.writes.mean_s, commit)


def _by_worker(values: Floats, workers: int) -> Floats:
    """Return the values by worker, given by function and place. Function f hosts workers f, f + F, f + 2F ..."""
    return values.T.ravel()[:workers]

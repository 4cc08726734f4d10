"""Runs in which every function decides every commit by itself, when it has all workers' updates: bsp.

A round is a few dozen operations on arrays (readers x workers). Up to `READERS` functions look for each update when
their own timers say so (`lambdaml.worker.poll_timer`). If the run has more functions, each of the others ends a round
together with one of these, which is drawn for each round: functions differ in nothing but their own updates.

The limit of `MAX_UNWRITTEN` on the commits that a function may be ahead of the log is left out.
"""

from __future__ import annotations

import numpy as np

from lambdaml.log import keys
from lambdaml.log.commits import build_commit
from lambdaml.log.records import Update
from lambdaml.log.state import LogState
from lambdaml.simulation.draws import ARRAYS, Floats
from lambdaml.simulation.log_readers import Ints, look
from lambdaml.simulation.scenario import Bools, FlowResult, Scenario
from lambdaml.worker.poll_timer import OWN_UPDATE_FIRST_S, PollTimer
from lambdaml.worker.requests import AGREED, SNAPSHOT

READERS = 32
"""The looks of at most this many functions are simulated."""


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
        self._readers = min(functions, READERS)
        self._others: Bools = np.arange(workers) % functions != np.arange(self._readers)[:, None]
        self._launched, self._decided, latency_s = scenario.launched()
        self._latency_s = latency_s[: self._readers, None]
        self._timer: PollTimer[Floats] = PollTimer(ARRAYS)  # one for each reader and worker
        self._uploads_s: Floats | None = None
        self._up_s = np.zeros(functions)
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
                self._up_s[0] = max(self._up_s[0], self._decided[0]) + scenario.snapshot_bytes / scenario.bytes_per_s
        made = rounds * self._workers
        reads, snapshots = made * (self._functions - 1), rounds // settings.snapshot_every
        scenario.count((*AGREED, *SNAPSHOT), update=made, read=reads, commit=rounds, snapshot=snapshots)
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
        uploads_s = _by_worker(sent - ready, workers)
        self._decided = self._find(begin, own, _by_worker(stands, workers)) if self._functions > 1 else own
        if self._uploads_s is not None:
            self._timer.said(_by_worker(ready - begin[:, None], workers) + self._uploads_s)
        self._uploads_s = uploads_s
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
            begun = self._scenario.replace(self._decided[leaving], 0, rounds * self._workers)
            self._decided[leaving], self._ends_s[leaving] = begun, begun + self._scenario.platform.lifetime_s

    def _apply_s(self) -> Floats:
        costs, workers = self._scenario.costs, self._workers
        work: Floats = (costs.apply_s + costs.apply_update_s * workers) * self._scenario.factors()
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
            self._up_s = np.where(hosts, np.maximum(core, self._up_s) + size / scenario.bytes_per_s, self._up_s)
            sent[:, place] = np.maximum(core + size / scenario.connection_bytes_per_s, self._up_s)
        half_s = scenario.writes.many(sent.size).reshape(sent.shape) / 2
        stands = sent + half_s
        stands[mine] = scenario.write_limit.serve(stands[mine])
        return ready, stands, stands + half_s

    def _find(self, begin: Floats, own: Floats, stands: Floats) -> Floats:
        """Let each function look for all others' updates, and return when it has them and its own."""
        scenario, readers, others, shape = self._scenario, self._readers, self._others, self._others.shape
        delay_s = self._timer.delay_s()
        if delay_s is None:  # no worker's pace is known yet
            warm = own if self._uploads_s is None else begin
            first = np.minimum(begin + OWN_UPDATE_FIRST_S, warm)[:readers, None]
        else:
            first = begin[:readers, None] + delay_s
        scale_s = np.broadcast_to(self._timer.scale_s(self._latency_s), shape)[others]
        first, stands = np.broadcast_to(first, shape)[others], np.broadcast_to(stands, shape)[others]
        looks = look(scenario, first, stands, scale_s, self._functions / readers)
        arrives, late_s = np.full(shape, -np.inf), np.zeros(shape)
        arrives[others], late_s[others] = looks.found_s, looks.begun_s - first
        self._learn(looks.misses, looks.missed_s)
        self._timer.looked(late_s, self._latency_s)
        found, misses = self._downloaded(arrives), int(looks.misses.sum())
        if self._functions > readers:
            found = np.append(found, scenario.rng.choice(found, self._functions - readers))
            misses = misses * self._functions // readers
        scenario.got(0, misses=misses)
        decided: Floats = np.maximum(own, found)
        return decided

    def _learn(self, misses: Ints, missed_s: Floats) -> None:
        """Update each reader's estimate of a look's seconds by its looks that found nothing, as `Gather` does."""
        reader = np.nonzero(self._others)[0]
        count, elapsed_s = (np.bincount(reader, each, self._readers)[:, None] for each in (misses, missed_s))
        kept = 0.8**count
        self._latency_s = kept * self._latency_s + (1 - kept) * elapsed_s / np.maximum(count, 1.0)

    def _downloaded(self, arrives: Floats) -> Floats:
        """Return when each function has received all updates, given when they would arrive if they had no bytes."""
        scenario, size = self._scenario, self._scenario.size_bytes[keys.UPDATES]
        last: Floats = arrives.max(axis=1) + size / scenario.connection_bytes_per_s
        each_s = size / scenario.bytes_per_s
        if each_s * self._workers < 1e-4:
            return last
        behind = np.arange(self._workers, 0, -1)  # the number of updates that arrive no earlier
        queued: Floats = (np.sort(arrives, axis=1) + behind * each_s).max(axis=1)
        return np.maximum(last, queued)

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

"""Runs in which every function decides every commit by itself, when it has all workers' updates: bsp.

A round is a few dozen operations on arrays (readers x workers). Up to `READERS` functions, each looks for each update
when its own pace says so (`lambdaml.worker.poll_timer`). Of more functions, so many do; the others come to a round's end when one of
these does, drawn anew each round, for they are alike in all but their own updates.

Left out: that a function may be no more than `MAX_UNWRITTEN` commits ahead of the log.
"""

from __future__ import annotations

import numpy as np

from lambdaml.log.commits import build_commit
from lambdaml.log.records import Update
from lambdaml.log.state import LogState
from lambdaml.simulation.draws import Floats
from lambdaml.simulation.scene import FIRST_LOOK_S, Bools, Ints, OnCommit, Scene
from lambdaml.worker.poll_timer import _HIT_STEP, _MARGIN_LIMIT, _MISS_STEP, _WINDOW

READERS = 32
"""Functions whose looks are simulated."""


class Rounds:
    """One run.

    Attributes:
        view: as far as it is kept; commits are made only for a caller who wants them.
    """

    def __init__(self, scene: Scene, on_commit: OnCommit | None) -> None:
        workers, functions = scene.settings.workers, scene.functions
        self._scene, self._tally, self._on_commit = scene, scene.tally, on_commit
        self._workers, self._functions = workers, functions
        hosted = -(-workers // functions)
        self._mine: Bools = np.arange(functions)[:, None] + functions * np.arange(hosted) < workers
        self._hosts = self._mine.sum(axis=1)
        self._readers = min(functions, READERS)
        self._others: Bools = np.arange(workers) % functions != np.arange(self._readers)[:, None]
        self._launched, self._decided, latency_s = scene.launched()
        self._latency_s = latency_s[: self._readers]
        self._margin_s, self._jitter_s = np.zeros(self._others.shape), np.zeros(self._others.shape)
        self._said: list[Floats] = []  # of the last few updates of each worker: from its start until it stood
        self._uploads_s: Floats | None = None
        self._up_s = np.zeros(functions)
        self._ends_s = self._launched + scene.platform.lifetime_s
        self.log_state = LogState(workers, scene.settings.steps)
        self._schedule, self._rule = scene.parts.schedule, scene.parts.rule

    def run(self, updates: int | None = None) -> tuple[float, str]:
        """Run to the end, or for at least so many updates; returns when the last function ended, and why."""
        scene, tally, settings = self._scene, self._tally, self._scene.settings
        rounds = settings.steps if updates is None else -(-updates // self._workers)
        self.log_state.steps = settings.steps if updates is None else rounds + 1
        for number in range(rounds):
            self._round(number)
            if (number + 1) % settings.snapshot_every == 0:
                tally.put("create", 1, scene.snapshot_bytes)
                self._up_s[0] = max(self._up_s[0], self._decided[0]) + scene.snapshot_bytes / scene.bytes_per_s
        made = rounds * self._workers
        tally.put("create", rounds, scene.commit_bytes + scene.entry_bytes * self._workers)
        tally.put("create", made, scene.update_bytes)
        tally.fates["applied"] = tally.staleness[0] = tally.cycles = made
        over = self._decided + (self._apply_s() if rounds else 0.0)
        tally.commits = tally.version = rounds
        return scene.finish(self._launched, over, made), "steps" if updates is None else "updates"

    def _round(self, number: int) -> None:
        """Compute, publish, and find what the others published."""
        tally, begin, workers = self._tally, self._decided, self._workers
        core = begin + (self._apply_s() if number else 0.0)
        ready, sent, latency_s = self._publish(begin, core)
        own: Floats = np.where(self._mine, sent, 0.0).max(axis=1)
        stands, uploads_s = _by_worker(sent - latency_s / 2, workers), _by_worker(sent - ready, workers)
        self._decided = self._find(begin, own, stands) if self._functions > 1 else own
        if self._uploads_s is not None:
            self._said = [*self._said[1 - _WINDOW :], _by_worker(ready - begin[:, None], workers) + self._uploads_s]
        self._uploads_s = uploads_s
        tally.phases_s["upload"] += float(uploads_s.sum())
        tally.phases_s["read"] += float((self._hosts * self._decided).sum() - _by_worker(sent, workers).sum())
        tally.flight_s += float((self._hosts * (self._decided - begin)).sum())
        self._replace(own - begin, number % self._scene.settings.snapshot_every)
        if number == 0 or self._on_commit:
            self._commit(number)

    def _replace(self, step_s: Floats, rounds: int) -> None:
        """Replace the functions whose lifetime is nearly over; `rounds` since the last snapshot are to be caught up."""
        leaving = np.flatnonzero(self._scene.leaves(self._ends_s - self._decided, step_s))
        if leaving.size:
            begun = self._scene.replace(self._decided[leaving], rounds, rounds * self._workers)
            self._decided[leaving], self._ends_s[leaving] = begun, begun + self._scene.platform.lifetime_s

    def _apply_s(self) -> Floats:
        costs, workers = self._scene.costs, self._workers
        work: Floats = (costs.apply_s + costs.apply_update_s * workers) * self._scene.factors()
        self._tally.busy_s += float(work.sum())
        return work

    def _publish(self, begin: Floats, core: Floats) -> tuple[Floats, Floats, Floats]:
        """When each function's workers are ready to send, when they have sent, and what latency the store took."""
        scene, costs, tally = self._scene, self._scene.costs, self._tally
        size = scene.update_bytes
        ready, sent = np.empty(self._mine.shape), np.empty(self._mine.shape)
        latency_s = scene.writes.many(ready.size).reshape(ready.shape)
        for place, mine in enumerate(self._mine.T):
            compute_s = np.where(mine, costs.step_s * scene.factors(), 0.0)
            encode_s = np.where(mine, costs.encode_s * scene.factors(), 0.0)
            tally.phases_s["queue"] += float((core - begin)[mine].sum())
            tally.phases_s["compute"] += float(compute_s.sum())
            tally.phases_s["encode"] += float(encode_s.sum())
            tally.busy_s += float(compute_s.sum() + encode_s.sum())
            core = core + compute_s + encode_s
            self._up_s = np.where(mine, np.maximum(core, self._up_s) + size / scene.bytes_per_s, self._up_s)
            ready[:, place] = core
            sent[:, place] = np.maximum(core + size / scene.connection_bytes_per_s, self._up_s) + latency_s[:, place]
        return ready, sent, latency_s

    def _find(self, begin: Floats, own: Floats, stands: Floats) -> Floats:
        """Each function looks for all others' updates; when it has them, its own too."""
        scene, readers, functions, workers = self._scene, self._readers, self._functions, self._workers
        usual: Floats | None = np.median(self._said, axis=0) if self._said else None
        if usual is not None:
            first = begin[:readers, None] + np.maximum(0.0, usual + self._margin_s)
        else:  # nobody's pace is known yet
            warm = own if self._uploads_s is None else begin
            first = np.repeat(np.minimum(begin + FIRST_LOOK_S, warm)[:readers, None], workers, axis=1)
        arrives, late, misses = self._look(first, np.broadcast_to(stands, first.shape))
        self._learn(late, usual if usual is not None else np.zeros(workers))
        found = self._downloaded(arrives)
        if functions > readers:
            found = np.append(found, scene.rng.choice(found, functions - readers))
            misses = misses * functions // readers
        gets = workers * (functions - 1)
        scene.tally.get(gets, scene.update_bytes, misses)
        limited_s = scene.limit.delay_s(float(begin.mean()), gets + misses)
        decided: Floats = np.maximum(own, found) + limited_s
        return decided

    def _look(self, first: Floats, stands: Floats) -> tuple[Floats, Floats, int]:
        """Looks from `first` on until the update stands: when it arrives, how late the look was that found it (0 for
        the first), and how many found nothing. Functions learn from those how long a look takes."""
        scene, readers, workers = self._scene, self._readers, self._workers
        arrives, late = np.full(first.size, -np.inf), np.zeros(first.size)
        todo: Ints = np.flatnonzero(self._others)
        look, at, first = first.ravel()[todo], stands.ravel()[todo], first.ravel()
        pause = np.clip(np.maximum(self._latency_s[:, None], self._jitter_s).ravel()[todo] / 4, 0.001, 1.0)
        counts, elapsed_s = np.zeros(readers), np.zeros(readers)
        while True:
            latency_s = scene.reads.many(todo.size)
            hit = look + latency_s / 2 >= at
            done = todo[hit]
            arrives[done], late[done] = (look + latency_s)[hit], look[hit] - first[done]
            if done.size == todo.size:
                break
            left = np.flatnonzero(~hit)
            todo, latency_s, pause = todo[left], latency_s[left], pause[left]
            counts += np.bincount(todo // workers, minlength=readers)
            elapsed_s += np.bincount(todo // workers, latency_s, readers)
            look, at = look[left] + latency_s + pause * (0.75 + 0.5 * scene.rng.random(todo.size)), at[left]
            pause = np.minimum(1.0, pause * 1.5)
        kept = 0.8**counts
        self._latency_s = kept * self._latency_s + (1 - kept) * elapsed_s / np.maximum(counts, 1.0)
        return arrives.reshape(self._others.shape), late.reshape(self._others.shape), int(counts.sum())

    def _learn(self, late: Floats, usual: Floats) -> None:
        """As `Pace.looked`."""
        latency_s = self._latency_s[:, None]
        self._jitter_s += 0.1 * (np.minimum(late, _MARGIN_LIMIT * latency_s + usual) - self._jitter_s)
        scale_s = np.maximum(latency_s, self._jitter_s)
        margin_s = self._margin_s + np.where(late > 0, _MISS_STEP, -_HIT_STEP) * scale_s
        self._margin_s = np.minimum(_MARGIN_LIMIT * scale_s, np.maximum(-latency_s, margin_s))

    def _downloaded(self, arrives: Floats) -> Floats:
        """When each function has received all, given when the updates would arrive if they had no bytes."""
        scene, size = self._scene, self._scene.update_bytes
        last: Floats = arrives.max(axis=1) + size / scene.connection_bytes_per_s
        each_s = size / scene.bytes_per_s
        if each_s * self._workers < 1e-4:
            return last
        order = np.argsort(-arrives, axis=1)
        behind = np.arange(1, self._workers + 1)  # how many arrive no earlier
        queued: Floats = (np.take_along_axis(arrives, order, axis=1) + behind * each_s).max(axis=1)
        return np.maximum(last, queued)

    def _commit(self, number: int) -> None:
        """Hand the commit to the caller; in any case, see once that the schedule takes all in one step."""
        scene, log_state = self._scene, self.log_state
        arrived = [
            Update(worker, number, log_state.version, 1, "", scene.sampler.count(worker, number), 0.0, "")
            for worker in range(self._workers)
        ]
        commit = build_commit(log_state, self._schedule, self._rule, arrived, max_rejected=scene.settings.max_rejected)
        if commit is None or [len(step) for step in commit.steps] != [self._workers]:
            raise NotImplementedError(
                f"{scene.settings.schedule} is deterministic, but a commit is not a round of all workers"
            )
        if self._on_commit:
            log_state.advance(commit)
            self._on_commit(float(self._decided[0]) + scene.writes.mean_s, commit)


def _by_worker(values: Floats, workers: int) -> Floats:
    """(function, place) -> worker: function f hosts f, f + F, f + 2F ..."""
    return values.T.ravel()[:workers]

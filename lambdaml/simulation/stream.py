"""Runs whose commits are decided by the holder of worker 0 and read from the log by the others: asp, ssp, quorum.

One event an update: its arrival at the writer. All before that follows from the moment its worker may start, which
follows from the commit that lets it; so when a commit is made, the next updates of its workers are computed, sent and
found in closed form (`_begin`), with every draw, look and pause that the real code would make.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

import numpy as np

from lambdaml.log.commits import build_commit
from lambdaml.log.records import Commit, Update
from lambdaml.log.state import LogState
from lambdaml.simulation.channel import Pipe
from lambdaml.simulation.draws import Floats
from lambdaml.simulation.reading import Readers
from lambdaml.simulation.scene import FIRST_LOOK_S, OnCommit, Scene
from lambdaml.worker.poll_timer import Backoff, PollTimer
from lambdaml.worker.window import MAX_UNAPPLIED

_Event = tuple[float, int, int, Update | None, bool]
"""When, a serial number, the worker, its update (None: it may start), and whether the update's bytes still have to
come through the writer's network."""

_QUICK_S = 1e-5
"""Updates whose transfer is shorter than this take no turns on the network."""


class Stream:
    """One run."""

    def __init__(self, scene: Scene, on_commit: OnCommit | None) -> None:
        settings = scene.settings
        self._scene, self._tally, self._on_commit = scene, scene.tally, on_commit
        self._workers, self._functions = settings.workers, scene.functions
        self.schedule, self.rule = scene.parts.schedule, scene.parts.rule
        self.head = LogState(settings.workers, settings.steps)
        self._launched, begun, latency_s = scene.launched()
        self._readers = Readers(scene, begun, latency_s)
        self._latency_s = float(latency_s[0])  # what the writer takes a look to last
        self._heap: list[_Event] = []
        self._serial = 0
        self._arrived: dict[tuple[int, int], Update] = {}
        self._early: dict[
            tuple[int, int], Update
        ] = {}  # read before the one before it, for which everybody looks first
        self._since: dict[tuple[int, int], float] = {}  # when an update's worker started, until it has its fate
        self._uploads = [Pipe(scene.bytes_per_s) for _ in range(self._functions)]
        self._download = Pipe(scene.bytes_per_s)
        self._paces = [PollTimer() for _ in range(self._workers)]
        self._delays_s = np.zeros(self._workers)  # the paces', for the forecast
        self._fated_s = np.full(self._workers, begun[0])
        self._seq = [0] * self._workers
        self._base = [-1] * self._workers
        self._started = [0.0] * self._workers
        self._sent = [0.0] * self._workers  # when the put of the newest update ended
        self._arrival = [0.0] * self._workers  # of the newest update, at the writer
        self._look_from = [float(begun[0])] * self._workers
        self._upload_s: list[float | None] = [None] * self._workers
        self._sending_s = (0.0, 0.0)  # when the writer's network is busy with the last large object it was given
        self._warm_s = float("inf")
        self._held_up: dict[int, None] = {}  # workers whose last update has its fate, and that may not start yet
        # Whether a worker may start before its last update has its fate.
        ahead = LogState(settings.workers, settings.steps)
        ahead.version = 1
        self._ahead = self.schedule.may_start(ahead, 0, 1, 0)
        self._in_flight: dict[int, None] = {}
        self._unapplied: deque[float] = deque(maxlen=MAX_UNAPPLIED)
        self._free_s = float(begun[0])
        self._read_s, self._write_s = scene.reads.next, scene.writes.next
        self._transfer_s = scene.upload_s(scene.update_bytes)
        self._quick = self._transfer_s < _QUICK_S
        self._misses = self._remote = 0  # looks of the writer that found nothing; updates that it had to look for
        self._sums = [0.0] * 4
        self._decided = 0
        self._ends_s = (self._launched + scene.platform.lifetime_s).tolist()
        self._back_s = begun.tolist()  # when the function's present incarnation could begin
        for worker in range(self._workers):
            if worker % self._functions:
                self._push(float(begun[worker % self._functions]), worker)
            else:
                self._begin(worker, float(begun[0]), 0)

    def run(self, updates: int | None = None) -> tuple[float, str]:
        """Run to the end, or until so many updates have a fate; returns when the last function ended, and why."""
        settings, heap, tally = self._scene.settings, self._heap, self._tally
        now = 0.0
        if updates is not None:
            self.head.steps = updates  # nobody comes to an end before
        while self.head.stop is None and (updates is None or self._decided < updates):
            now = max(now, self._free_s)
            while heap and heap[0][0] <= now:
                self._handle(heapq.heappop(heap))
            commit = build_commit(
                self.head, self.schedule, self.rule, list(self._arrived.values()), max_rejected=settings.max_rejected
            )
            if commit is not None:
                self._commit(commit, now)
            elif heap:
                arrived = False
                while heap and not arrived:
                    now = heap[0][0]
                    arrived = self._handle(heapq.heappop(heap))
            else:
                raise RuntimeError("all workers wait for each other")
        self._settle()
        tally.commits, tally.version = self.head.commit, self.head.version
        ended = self._scene.finish(self._launched, self._readers.applied_s, self._decided)
        return ended, self.head.stop.reason if self.head.stop else "updates"

    def _settle(self) -> None:
        """Hand in what was counted on the way."""
        tally, size = self._tally, self._scene.update_bytes
        tally.put("create", self._decided + len(self._arrived), size)
        tally.get(self._remote, size, self._misses)
        tally.phases_s.update(dict(zip(("queue", "compute", "encode", "upload"), self._sums, strict=True)))
        tally.busy_s += self._sums[1] + self._sums[2]

    def _push(self, moment: float, worker: int, update: Update | None = None, transfer: bool = False) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (moment, self._serial, worker, update, transfer))

    def _handle(self, event: _Event) -> bool:
        """Whether an update arrived."""
        now, _, worker, update, transfer = event
        scene = self._scene
        if update is None:
            self._begin(worker, now, self._readers.version_at(worker % self._functions, now))
            return False
        if transfer:
            moment = self._download.finish(now, scene.update_bytes, scene.connection_bytes_per_s)
            self._arrival[worker] = moment
            self._push(moment, worker, update)
            return False
        if update.seq > self.head.next_seq[worker] and (worker, update.seq - 1) not in self._arrived:
            self._early[update.id] = update
            return False
        self._arrived[update.id] = update
        following = self._early.pop((worker, update.seq + 1), None)
        if following is not None:
            self._arrived[following.id] = following
        return True

    def _begin(self, worker: int, start: float, base: int) -> None:
        """A worker starts its next update; its arrival at the writer follows."""
        scene, function, seq, sums = self._scene, worker % self._functions, self._seq[worker], self._sums
        if self._ends_s[function] < math.inf and self._replaced(function, worker, start):
            return
        core_s = self._readers.core_s
        core, factor = float(core_s[function]), scene.stragglers.factor
        computing = max(start, core)
        compute_s = scene.costs.step_s * factor(function, scene.uniform) / scene.speed
        encode_s = scene.costs.encode_s and scene.costs.encode_s * factor(function, scene.uniform) / scene.speed
        core_s[function] = ready = computing + compute_s + encode_s
        up = ready + self._transfer_s
        if not self._quick:
            up = self._uploads[function].finish(ready, scene.update_bytes, scene.connection_bytes_per_s)
        latency_s = self._write_s()
        sent = up + latency_s
        upload_s, self._upload_s[worker] = self._upload_s[worker], sent - ready
        samples = scene.sampler.count(worker, seq)
        update = Update(worker, seq, base, 1, "", samples, 0.0, "", ready - start, compute_s, encode_s, upload_s)
        self._since[worker, seq] = self._started[worker] = start
        self._seq[worker], self._base[worker], self._sent[worker] = seq + 1, base, sent
        if function:
            self._look(worker, update, up + latency_s / 2)
        else:
            self._sending_s = (ready, up)
            self._warm_s = min(self._warm_s, sent)
            self._arrival[worker] = sent
            self._push(sent, worker, update)
        if upload_s is not None:
            self._paces[worker].said(ready - start + upload_s)
        if self._ahead:
            self._in_flight[worker] = None
        sums[0] += computing - start
        sums[1] += compute_s
        sums[2] += encode_s
        sums[3] += sent - ready

    def _replaced(self, function: int, worker: int, start: float) -> bool:
        """Whether the worker must wait for a new function, because the lifetime of its own is nearly over."""
        remaining_s, step_s = self._ends_s[function] - start, self._sent[worker] - self._started[worker]
        if self._scene.leaves(np.array([remaining_s]), np.array([step_s]))[0]:
            every = self._scene.settings.updates_per_snapshot
            updates = self.head.progress % every
            commits = self.head.commit * updates // max(1, self.head.progress)
            back_s = float(self._scene.replace(np.array([start]), commits, updates)[0])
            self._back_s[function], self._ends_s[function] = back_s, back_s + self._scene.platform.lifetime_s
            if not function:
                self._free_s = max(self._free_s, back_s)
        if start < self._back_s[function]:
            self._push(self._back_s[function], worker)
            return True
        return False

    def _look(self, worker: int, update: Update, stands_s: float) -> None:
        """The writer looks for an update until it is there; see `lambdaml.patterns.gather`."""
        pace, look, read_s = self._paces[worker], self._look_from[worker], self._read_s
        delay_s = pace.delay_s()
        if delay_s is None:
            look = max(look, min(look + FIRST_LOOK_S, self._warm_s))
        else:
            look += delay_s
        first, misses, backoff = look, 0, None
        latency_s = read_s()
        while look + latency_s / 2 < stands_s:
            if backoff is None:
                backoff = Backoff(pace.scale_s(self._latency_s))
            misses += 1
            self._latency_s += 0.2 * (latency_s - self._latency_s)
            look += latency_s + backoff.next_s(self._scene.uniform())
            latency_s = read_s()
        pace.looked(look - first if misses else None, self._latency_s)
        self._misses += misses
        if self._quick:
            self._arrival[worker] = look = look + latency_s + self._transfer_s
            self._push(look, worker, update)
        else:
            self._push(look + latency_s, worker, update, transfer=True)

    def _commit(self, commit: Commit, now: float) -> None:
        """The writer creates a log entry, and everyone follows."""
        scene, tally = self._scene, self._tally
        entries, applied = commit.entries, commit.applied
        workers = [entry.worker for entry in entries]
        size = scene.commit_bytes + scene.entry_bytes * len(entries)
        latency_s = scene.writes.next()
        begin, end = self._sending_s  # what the log entry finds on the network; updates are booked ahead of time
        up = (end if begin <= now < end else now) + scene.upload_s(size)
        visible, done = up + latency_s / 2, up + latency_s
        tally.put("create", 1, size)
        next_s = self._forecast_s(workers, now)
        before = self.head.progress
        self.head.advance(commit)
        readers = self._readers
        if self._functions > 1:
            readers.read(commit.commit, visible, next_s, size)
        hosts = np.array([entry.worker for entry in applied], np.int64) % self._functions
        missing: Floats = len(applied) - np.bincount(hosts, minlength=self._functions).astype(np.float64)
        missing[0] = 0.0
        known = readers.apply(commit.last_version, missing, len(applied), len(commit.steps), done, now)
        if self._unapplied.maxlen == len(self._unapplied):
            done = max(done, self._unapplied[0])
        self._unapplied.append(readers.writer_applied_s)
        self._free_s = done
        self._snapshot(before, done)
        self._account(commit, done)
        self._fated_s[workers] = done
        self._release(workers, known.queued_s.tolist(), visible, done)
        if self._on_commit:
            self._on_commit(visible, commit)

    def _forecast_s(self, workers: list[int], now: float) -> float:
        """As `Gather.forecast_s`."""
        delays = self._delays_s
        delays[workers] = [self._paces[worker].delay_s() or 0.0 for worker in workers]
        ready = np.maximum(0.0, self._fated_s + delays - now)
        ready[workers] = delays[workers]
        needs = self.schedule.needs(len(ready))
        return float(ready.min() if needs == 1 else np.partition(ready, needs - 1)[needs - 1]) + self._latency_s

    def _account(self, commit: Commit, done: float) -> None:
        tally, arrived, since = self._tally, self._arrived, self._since
        applied, refused = commit.applied, commit.refused
        for entry in commit.entries:
            key = entry.worker, entry.seq
            del arrived[key]
            tally.flight_s += done - since.pop(key)
            self._remote += entry.worker % self._functions > 0
        for entry in refused:
            tally.fates[entry.fate] += 1
        tally.fates["applied"] += len(applied)
        tally.staleness.update([entry.staleness for entry in applied])
        self._decided += len(applied) + len(refused)

    def _release(self, workers: list[int], queued: list[float], visible: float, done: float) -> None:
        """Let those start that now may: of the commit's workers, of those held up, and where updates may overlap, of
        all others."""
        head, may_start, leaves = self.head, self.schedule.may_start, self.schedule.leaves
        wait_s = read_s = 0.0
        cycles = 0
        for worker in dict.fromkeys([*self._held_up, *workers, *self._in_flight]):
            seq = self._seq[worker]
            if not may_start(head, worker, seq, self._base[worker]):
                if not self._ahead:
                    self._held_up[worker] = None
                continue
            self._held_up.pop(worker, None)
            self._in_flight.pop(worker, None)
            if leaves(head, worker, seq):
                continue
            arrival, sent, start = self._arrival[worker], self._sent[worker], queued[worker % self._functions]
            self._look_from[worker] = max(done, arrival)
            cycles += 1
            if sent > start:
                self._push(sent, worker)
                continue
            stood = max(visible, sent)
            wait_s += stood - sent
            read_s += start - stood
            self._begin(worker, start, head.version)
        self._tally.cycles += cycles
        self._tally.phases_s["commit"] += wait_s
        self._tally.phases_s["read"] += read_s

    def _snapshot(self, before: int, now: float) -> None:
        every = self._scene.settings.updates_per_snapshot
        if self.head.progress // every > before // every:
            size = self._scene.snapshot_bytes
            self._uploads[0].finish(now, size, self._scene.connection_bytes_per_s)
            self._sending_s = (now, self._uploads[0].free_at)
            self._tally.put("create", 1, size)

"""Runs whose commits are decided by the holder of worker 0 and read from the log by the others: asp, ssp, quorum.

An update has three events: its worker starts, its put begins, and it arrives at the writer. All that happens between
them is computed in closed form, with every draw, look and pause that the real code would make. So are the consequences
of a commit.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lambdaml.log import keys
from lambdaml.log.commits import build_commit
from lambdaml.log.records import Commit, Update
from lambdaml.log.state import LogState
from lambdaml.simulation.channel import Pipe
from lambdaml.simulation.exchanges import COMMITS, CommitFlow, Decided
from lambdaml.simulation.scenario import FlowResult, Scenario
from lambdaml.worker.poll_timer import FLOATS, OWN_UPDATE_FIRST_S, Backoff, PollTimer
from lambdaml.worker.requests import SNAPSHOT, exchanged

_QUICK_S = 1e-5
"""Updates whose transfer is shorter than this take no turns on the network."""


@dataclass(slots=True)
class _Worker:
    """One worker: the base and the moments of its newest update, and its pace as far as the writer knows it.

    Attributes:
        look_from_s: The moment from which the writer may look for its next update.
        seq: The sequence number of its next update.
        base: The version that its newest update was computed from.
        started_s: The moment at which it started its newest update.
        sent_s: The moment at which the put of its newest update was answered.
        arrival_s: The moment at which its newest update had arrived at the writer.
        upload_s: The seconds that its last put took.
        timer: The writer's poll timer for this worker.
    """

    number: int
    function: int
    look_from_s: float
    seq: int = 0
    base: int = -1
    started_s: float = 0.0
    sent_s: float = 0.0
    arrival_s: float = 0.0
    upload_s: float | None = None
    timer: PollTimer[float] = field(default_factory=lambda: PollTimer(FLOATS))


_Action = Callable[[float, _Worker, Update], bool]
_START = Update(0, 0, 0, 0, "", 0, 0.0, "")  # for events without an update


class AsyncFlow:
    """One run, which is simulated once.

    Args:
        scenario: The run's input and its counts.
    """

    def __init__(self, scenario: Scenario) -> None:
        settings, functions = scenario.settings, scenario.functions
        self._scenario, self._counted = scenario, scenario.counted
        self._functions = functions
        self.schedule, self.rule = scenario.parts.schedule, scenario.parts.rule
        self.head = LogState(settings.workers, settings.steps)
        self._launched, begun, latency_s = scenario.launched()
        given = {"scenario": scenario, "begun": begun, "latency_s": latency_s}
        self._exchange: CommitFlow = COMMITS.make(settings.pattern, given)
        self._latency_s = float(latency_s[0])  # the writer's estimate of the seconds that a look takes
        self._heap: list[tuple[float, int, _Action, _Worker, Update]] = []
        self._serial = 0
        self._arrived: dict[tuple[int, int], Update] = {}
        self._early: dict[
            tuple[int, int], Update
        ] = {}  # read before its predecessor, which every function looks for first
        self._since: dict[tuple[int, int], float] = {}  # the moment of an update's start, kept until it has its fate
        self._uploads = [Pipe(scenario.bytes_per_s) for _ in range(functions)]
        self._download = Pipe(scenario.bytes_per_s)
        self._delays_s = np.zeros(settings.workers)  # the delays of the timers, for the forecast
        self._decided_s = np.full(settings.workers, begun[0])
        self._waiting: dict[int, None] = {}  # workers that wait for nothing but a commit
        ahead = LogState(settings.workers, settings.steps)
        ahead.version = 1
        self._ahead = self.schedule.may_start(ahead, 0, 1, 0)  # a worker may start before its last update has its fate
        self._free_s = self._done_s = float(begun[0])
        self._transfer_s = scenario.upload_s(scenario.update_bytes)
        self._quick = self._transfer_s < _QUICK_S
        self._misses = self._remote = 0  # the writer's looks that found nothing; updates that it had to look for
        self._sums = [0.0] * 4  # the seconds of the first four phases
        self._ends_s = (self._launched + scenario.platform.lifetime_s).tolist()
        self._visible_s = float(begun[0])  # the moment from which the newest commit can be read
        self._queued_s = begun.tolist()  # the moment at which each function has it queued
        self._back_s = begun.tolist()  # the moment at which the function's present life could begin
        self._workers = [_Worker(n, n % functions, float(begun[0])) for n in range(settings.workers)]
        for worker in self._workers:
            if worker.function:
                self._push(float(begun[worker.function]), self._start, worker)
            else:
                self._begin(worker, float(begun[0]), 0)
        first_put = min(moment for moment, _, _, worker, _ in self._heap if not worker.function)
        self._warm_s = first_put + self._transfer_s + scenario.writes.mean_s  # about when the writer has an update

    def run(self, updates: int | None = None) -> FlowResult:
        """Run to the end, or until `updates` updates have a fate, and return the result."""
        settings, heap = self._scenario.settings, self._heap
        now = 0.0
        if updates is not None:
            self.head.steps = updates  # no worker ends before that
        while self.head.stop is None and (updates is None or self.head.progress < updates):
            now = max(now, self._free_s)
            while heap and heap[0][0] <= now:
                self._handle()
            commit = build_commit(
                self.head, self.schedule, self.rule, list(self._arrived.values()), max_rejected=settings.max_rejected
            )
            if commit is not None:
                self._commit(commit, now)
                continue
            arrived = False
            while not arrived:
                if not heap:
                    raise RuntimeError("all workers wait for each other")
                now = heap[0][0]
                arrived = self._handle()
        self._settle()
        stop = self.head.stop.reason if self.head.stop else "updates"
        return self._scenario.finish(self._launched, self._exchange.applied_s, stop)

    def _settle(self) -> None:
        """Add the sums that were kept here to the scenario's counts."""
        counted, scenario, head = self._counted, self._scenario, self.head
        counted.commits, counted.version = head.commit, head.version
        script, _ = exchanged(scenario.settings.pattern, head.workers, self._functions, 1)
        scenario.count(script, update=counted.updates + len(self._arrived), commit=head.commit, sum=head.commit)
        scenario.got(self._remote, scenario.update_bytes, self._misses)
        counted.phases_s.update(dict(zip(("queue", "compute", "encode", "upload"), self._sums, strict=True)))
        counted.busy_s += self._sums[1] + self._sums[2]

    def _push(self, moment: float, action: _Action, worker: _Worker, update: Update = _START) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (moment, self._serial, action, worker, update))

    def _handle(self) -> bool:
        """Let the next event happen, and return whether an update arrived."""
        now, _, action, worker, update = heapq.heappop(self._heap)
        return action(now, worker, update)

    def _start(self, now: float, worker: _Worker, _: Update) -> bool:
        self._begin(worker, now, self._exchange.version_at(worker.function, now))
        return False

    def _begin(self, worker: _Worker, start: float, base: int) -> None:
        """Let a worker start its next update, and schedule its put."""
        scenario, function, seq, sums = self._scenario, worker.function, worker.seq, self._sums
        if self._ends_s[function] < math.inf and self._replaced(worker, start):
            return
        core_s, costs, factor = self._exchange.core_s, scenario.costs, scenario.stragglers.factor
        computing = max(start, float(core_s[function]))
        compute_s = scenario.batches(seq) * costs.step_s * factor(function, scenario.uniform) / scenario.speed
        encode_s = costs.encode_s and costs.encode_s * factor(function, scenario.uniform) / scenario.speed
        core_s[function] = ready = computing + compute_s + encode_s
        samples = scenario.samples(worker.number, seq)
        update = Update(worker.number, seq, base, 1, "", samples, 0.0, "", ready - start)
        self._since[update.id] = worker.started_s = start
        worker.seq, worker.base = seq + 1, base
        self._push(ready, self._put, worker, update)
        sums[0] += computing - start
        sums[1] += compute_s
        sums[2] += encode_s

    def _put(self, now: float, worker: _Worker, update: Update) -> bool:
        """Send an update to the store, and let the writer look for it."""
        scenario, half_s = self._scenario, self._scenario.writes.next() / 2
        up = now + self._transfer_s if self._quick else self._upload(worker.function, now, scenario.update_bytes)
        stands = scenario.write_limit.serve_one(up + half_s)
        worker.sent_s = sent = stands + half_s
        before_s, worker.upload_s = worker.upload_s, sent - now
        self._sums[3] += sent - now
        if worker.function:
            self._look(worker, update, stands)
        else:
            worker.arrival_s = sent
            self._push(sent, self._arrive, worker, update)
        if before_s is not None:
            worker.timer.said(update.ready_s + before_s)
        if self._ahead:
            self._waiting[worker.number] = None
            self._go_on(worker)
        return False

    def _upload(self, function: int, now: float, size_bytes: int) -> float:
        return self._uploads[function].finish(now, size_bytes, self._scenario.connection_bytes_per_s)

    def _receive(self, now: float, worker: _Worker, update: Update) -> bool:
        """Begin to transfer an update through the writer's network."""
        scenario = self._scenario
        worker.arrival_s = self._download.finish(now, scenario.update_bytes, scenario.connection_bytes_per_s)
        self._push(worker.arrival_s, self._arrive, worker, update)
        return False

    def _arrive(self, now: float, worker: _Worker, update: Update) -> bool:
        """Give an update to the writer. If its predecessor is missing, it waits for that."""
        if update.seq > self.head.next_seq[worker.number] and (worker.number, update.seq - 1) not in self._arrived:
            self._early[update.id] = update
            return False
        self._arrived[update.id] = update
        following = self._early.pop((worker.number, update.seq + 1), None)
        if following is not None:
            self._arrived[following.id] = following
        return True

    def _replaced(self, worker: _Worker, start: float) -> bool:
        """Return whether the worker must wait for a new function, because the lifetime of its own is nearly over."""
        scenario, function, head = self._scenario, worker.function, self.head
        remaining_s, step_s = self._ends_s[function] - start, worker.sent_s - worker.started_s
        if scenario.leaves(np.array([remaining_s]), np.array([step_s]))[0]:
            updates = head.progress % scenario.settings.updates_per_snapshot
            commits = head.commit * updates // max(1, head.progress)
            behind = self._exchange.catch_up(function, commits, updates)
            back_s = float(scenario.replace(np.array([start]), behind)[0])
            self._back_s[function], self._ends_s[function] = back_s, back_s + scenario.platform.lifetime_s
            if not function:
                self._free_s = max(self._free_s, back_s)
                self._done_s = self._free_s
        if start < self._back_s[function]:
            self._push(self._back_s[function], self._start, worker)
            return True
        return False

    def _look(self, worker: _Worker, update: Update, stands_s: float) -> None:
        """Let the writer look for an update until it finds it; see `lambdaml.patterns.gather`."""
        timer, look, scenario = worker.timer, worker.look_from_s, self._scenario
        read_s, serve = scenario.reads.next, scenario.read_limit.serve_one
        delay_s = timer.delay_s()
        look = max(look, min(look + OWN_UPDATE_FIRST_S, self._warm_s)) if delay_s is None else look + delay_s
        first, misses, backoff = look, 0, None
        half_s = read_s() / 2
        while (reached := serve(look + half_s)) < stands_s:
            backoff = backoff or Backoff(FLOATS, timer.scale_s(self._latency_s))
            misses += 1
            self._latency_s += 0.2 * (reached + half_s - look - self._latency_s)
            look = reached + half_s + backoff.next_s(scenario.uniform())
            half_s = read_s() / 2
        timer.looked(look - first, self._latency_s)
        self._misses += misses
        worker.arrival_s = found = reached + half_s + (self._transfer_s if self._quick else 0.0)
        self._push(found, self._arrive if self._quick else self._receive, worker, update)

    def _commit(self, commit: Commit, now: float) -> None:
        """Let the writer create a log entry, and all functions read and apply it."""
        scenario, counted, head, entries = self._scenario, self._counted, self.head, commit.entries
        workers = [entry.worker for entry in entries]
        reasons_bytes = sum(len(entry.fate) + len(entry.reason) for entry in commit.refused)
        written_bytes = scenario.entry_bytes * len(entries) + reasons_bytes
        size = scenario.size_bytes[keys.LOG] + written_bytes
        counted.bytes_sent += written_bytes
        half_s = scenario.writes.next() / 2
        visible = scenario.write_limit.serve_one(self._upload(0, now, size) + half_s)
        done = visible + half_s
        forecast_s, before = self._forecast_s(workers, now), head.progress
        head.advance(commit)
        decided = Decided(commit, now, visible, done, forecast_s, size)
        self._free_s, self._visible_s, known = self._exchange.deliver(decided)
        self._done_s = done
        every = scenario.settings.updates_per_snapshot
        if head.progress // every > before // every:
            self._upload(0, done, scenario.snapshot_bytes)
            scenario.count(SNAPSHOT, snapshot=1)
        for entry in entries:
            key = entry.worker, entry.seq
            del self._arrived[key]
            counted.in_flight_s += done - self._since.pop(key)
            self._remote += entry.worker % self._functions > 0
            counted.fates[entry.fate] += 1
        counted.batches += sum(scenario.batches(entry.seq) for entry in commit.applied)
        counted.late.update([entry.staleness for entry in commit.applied])
        self._decided_s[workers] = done
        self._queued_s = known.queued_s.tolist()
        for number in [*self._waiting] if self._ahead else dict.fromkeys([*self._waiting, *workers]):
            self._go_on(self._workers[number])
        if scenario.on_commit:
            scenario.on_commit(visible, commit)

    def _forecast_s(self, workers: Sequence[int], now: float) -> float:
        """Return the seconds until enough updates for the next commit will have been read; see `Gather.forecast_s`."""
        delays = self._delays_s
        delays[workers] = [self._workers[number].timer.delay_s() or 0.0 for number in workers]
        ready = np.maximum(0.0, self._decided_s + delays - now)
        ready[workers] = delays[workers]
        needs = self.schedule.needs(len(ready))
        return float(ready.min() if needs == 1 else np.partition(ready, needs - 1)[needs - 1]) + self._latency_s

    def _go_on(self, worker: _Worker) -> None:
        """Let a worker start its next update if it may, when it has sent its last one and knows the newest commit."""
        head, number, sent, phases_s = self.head, worker.number, worker.sent_s, self._counted.phases_s
        start = self._queued_s[worker.function]
        if not self.schedule.may_start(head, number, worker.seq, worker.base):
            self._waiting[number] = None
            return
        self._waiting.pop(number, None)
        if self.schedule.leaves(head, number, worker.seq):
            return
        worker.look_from_s = max(self._done_s, worker.arrival_s)
        self._counted.cycles += 1
        if sent > start:
            self._push(sent, self._start, worker)
            return
        stood = max(self._visible_s, sent)
        phases_s["commit"] += stood - sent
        phases_s["read"] += start - stood
        self._begin(worker, start, head.version)

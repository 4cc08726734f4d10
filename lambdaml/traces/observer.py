"""Watches a run from outside, by reading its bucket alone, at a bounded pace.

An observer asks no function for anything. It makes at most `OPENING` requests, and one more in `PACE_S`, and one more for
every `1 / SHARE` requests of the run itself. After 320 s that is less than one request in two seconds or less than 1 % of
the run's requests. While nothing moves, it makes up to one request in `STALL_PACE_S` of all the time that it has watched.
It looks at the end of the log and for evaluations, and in turn learns, piece by piece, what else there is to know:
what functions measured and used, who holds which worker, older entries of the log for the curves, and,
when nothing moves, for whom the run waits.

    observer = Observer("s3://bucket/run-1")
    while not (seen := observer.look()).over:
        print(seen.version, seen.left_s)
        time.sleep(1)
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean
from typing import Any

from lambdaml.log import keys, wire
from lambdaml.log.lease import Lease
from lambdaml.log.reader import RunReader, metrics_in
from lambdaml.log.reads import read_now
from lambdaml.log.status import status
from lambdaml.log.trace_parts import meter_reading, unpack_rows
from lambdaml.log.usage import Usage
from lambdaml.schedules import SCHEDULES
from lambdaml.storage import MeterReading, open_store
from lambdaml.storage.backend import BATCH
from lambdaml.traces.log_view import LogView
from lambdaml.traces.seen import Seen, SeenWorker, condensed

OPENING = 16
"""An observer may begin with this many requests."""

PACE_S = 2.5
"""An observer may make one more request in so many seconds."""

STALL_PACE_S = 2.0
"""An observer may have made one request in so many seconds if the run stalls."""

SHARE = 0.001
"""An observer may make this share of the run's own requests, in addition."""

_LOOK_S = 1.0
"""The end of the log is looked at once in so many seconds, if the pace allows that."""

_LOOK_SHARE = 0.05
"""It is looked at later if it has not grown for long: after this share of that time, but at most `_SWEEP_S`."""

_SWEEP_S = 5.0
"""All the rest is looked at once in so many seconds, if the pace allows that."""

_PART_S = 15.0
"""A function writes a part of its trace once in so many seconds."""

_EVALUATIONS = 60
"""At most so many evaluations are read at once, evenly spread over the run."""

_USAGE_SWEEPS = 4
"""Who has ended is looked up once in so many sweeps."""


@dataclass(slots=True)
class _Function:
    """What a function, or a process that started some, has reported.

    Attributes:
        part: The number of the next part of its trace.
        due: The moment from which on that part may be there.
        ended: Whether its usage is known, so that it will report no more.
        died: Whether it could not report to its end.
        launcher: Whether it is a process that started functions.
        seconds: The seconds that it has lasted.
        platform: The platform that bills it; "" as long as it is not known.
        reading: The requests that it has made.
        phases: The mean seconds of the updates in its latest part, by phase.
        parts: The mean of each named part of their loss.
    """

    part: int = 0
    due: float = 0.0
    ended: bool = False
    died: bool = False
    launcher: bool = False
    seconds: float = 0.0
    platform: str = ""
    reading: MeterReading = field(default_factory=MeterReading)
    phases: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)


class Observer:
    """Looks at a run again and again, and keeps what it has seen.

    Args:
        url: The run's URL.
        clock: A monotonic clock, in seconds.
        now: A clock that returns the seconds since 1970, to compare with the store's dates.

    Raises:
        RunNotFound: If there is no run.
        NewerSchema, BadObject: If run.json cannot be read.
    """

    def __init__(
        self, url: str, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        self._store = open_store(url)
        self.run = RunReader(self._store)
        self._clock, self._now = clock, now
        self._began = clock()
        self._log = LogView(self._store, self.run.settings, clock, now)
        self._functions: dict[str, _Function] = {}
        self._leases: dict[int, Lease] = {}
        self._metrics: dict[int, dict[str, float]] = {}
        self._evaluated = keys.METRICS
        self._snapshots = 0
        self._generations: dict[int, int] = {}
        self._handovers = 0
        self._awaited: set[int] = set()
        self._sweeps = 0
        self._checked_s = self.run.settings.lease_s
        self._stopped = False
        self._requests = 0
        self._lanes = deque((self._follow(), self._evaluate(), self._live(), self._sweep_on()))

    @property
    def asked(self) -> MeterReading:
        """The requests that were made so far."""
        return self._store.meter.snapshot()

    def look(self) -> Seen:
        """Make the requests that are due and allowed now, and return what has been seen so far.

        Raises:
            BadObject: If an object of the run is damaged.
        """
        idle = 0
        while idle < len(self._lanes) and self._allowed():
            idle = 0 if next(self._lanes[0]) else idle + 1
            self._lanes.rotate(-1)
        return self.seen()

    def finish(self) -> Seen:
        """Look at everything once more, at whatever pace, and return it. It takes a few requests for each function."""
        self._log.follow()
        self._sweeps = 0
        for _ in (*self._log.look_back(), *self._look_at_evaluations(), *self._sweep()):
            pass
        return self.seen()

    def _allowed(self) -> bool:
        seconds = self._clock() - self._began
        allowed = OPENING + seconds / PACE_S + SHARE * self._requests
        return self.asked.total < (max(allowed, seconds / STALL_PACE_S) if self._log.stalled else allowed)

    def _follow(self) -> Iterator[bool]:
        """Look at the end of the log, and yield whether it was time for that; so do the other lanes."""
        looked = -math.inf
        while True:
            pause_s = min(max(_LOOK_S, self._log.quiet_s * _LOOK_SHARE), _SWEEP_S)
            due = self._log.stop is None and self._clock() - looked >= pause_s
            if due:
                looked = self._clock()
                if self._log.follow():
                    self._stopped, self._checked_s = False, self.run.settings.lease_s
                    self._awaited.clear()
            yield due

    def _evaluate(self) -> Iterator[bool]:
        return self._whenever(lambda: self._log.snapshots != self._snapshots, self._look_at_evaluations)

    def _live(self) -> Iterator[bool]:
        lease_s = self.run.settings.lease_s
        return self._whenever(lambda: self._log.stop is None and self._log.quiet_s > lease_s, self._look_for_life)

    def _whenever(self, due: Callable[[], bool], look: Callable[[], Iterator[None]]) -> Iterator[bool]:
        looked = -math.inf
        while True:
            if due() and self._clock() - looked >= _SWEEP_S:
                looked = self._clock()
                yield from (True for _ in look())
            yield False

    def _sweep_on(self) -> Iterator[bool]:
        while True:
            began, stalled = self._clock(), self._log.stalled
            for _ in self._sweep():
                yield True
                if self._log.stalled and not stalled:
                    break  # there is something more urgent to look for
            else:
                while self._clock() - began < _SWEEP_S:
                    yield False

    def _sweep(self) -> Iterator[None]:
        """Look at all the rest once, and yield after each request or few."""
        if self._log.stalled:
            yield from self._look_for_updates()
            yield from self._look_at_holders()
        yield from self._look_at_functions()
        yield from self._look_at_holders()
        yield from self._log.look_back()

    def _look_for_life(self) -> Iterator[None]:
        """Find out whether anybody works on a run whose log does not grow.

        Who works and publishes nothing renews its leases, and one page of a list shows that. Only if it does not, all that
        `status` asks for is asked for, and the sooner it was done, the later it is done again.
        """
        lease_s, newest = self.run.settings.lease_s, 0.0
        for info in islice(self._store.list(keys.LEASES), BATCH):
            worker = int(info.key.split("/")[1])
            newest = max(newest, info.modified)
            self._generations[worker] = max(keys.number(info.key), self._generations.get(worker, 0))
        yield
        self._stopped = self._stopped and self._now() - newest > lease_s
        if self._now() - newest > lease_s and self._log.quiet_s > self._checked_s:
            self._checked_s = 2 * self._log.quiet_s
            self._stopped = status(self.run).state == "stopped"
            yield

    def _look_at_evaluations(self) -> Iterator[None]:
        snapshots = self._log.snapshots
        infos = list(self._store.list(keys.METRICS, after=self._evaluated))
        if infos:
            self._evaluated, self._snapshots = infos[-1].key, snapshots
        yield
        step = -(-len(infos) // _EVALUATIONS) or 1
        for info in infos[::-1][::step]:  # the newest first
            record = read_now(self._store, info.key, wire.load_json)
            if record is not None:
                self._metrics[record["version"]] = metrics_in(record)
            yield

    def _look_at_holders(self) -> Iterator[None]:
        """Read the newest leases that are known to exist, those of awaited workers first."""
        for worker, generation in self._log.generations.items():
            self._generations[worker] = max(generation, self._generations.get(worker, 0))
        for worker in sorted(self._generations, key=lambda worker: (worker not in self._awaited, worker)):
            known, generation = self._leases.get(worker), self._generations[worker]
            if known is None or known.generation < generation:
                lease = read_now(self._store, keys.lease(worker, generation), Lease.read)
                if lease is not None:
                    self._handovers += known is not None and known.function != lease.function
                    self._leases[worker] = lease
                    self._functions.setdefault(lease.function, _Function())
                yield

    def _look_at_functions(self) -> Iterator[None]:
        self._sweeps += 1
        if self._sweeps == 1:
            for count, info in enumerate(self._store.list(keys.TRACE), 1):
                function = self._functions.setdefault(info.key.split("/")[1], _Function())
                function.part = max(function.part, keys.number(info.key))
                if count % BATCH == 0:
                    yield  # the list has another page
            yield
        for name, function in list(self._functions.items()):
            while not function.launcher and not function.ended and self._clock() >= function.due:
                rows = read_now(self._store, keys.trace_part(name, function.part), unpack_rows)
                if rows is None:
                    function.due = self._clock() + _PART_S / 2
                else:
                    function.part += 1
                    self._note(function, rows)
                yield
        if self._sweeps % _USAGE_SWEEPS == 1:
            for info in list(self._store.list(keys.USAGE)):
                name = info.key.removeprefix(keys.USAGE).removesuffix(".json")
                function = self._functions.setdefault(name, _Function())
                if not function.ended:
                    self._end(function, read_now(self._store, info.key, Usage.read))
                    yield
            yield

    def _end(self, function: _Function, usage: Usage | None) -> None:
        if usage is None:
            return
        function.ended, function.died = True, not usage.complete
        function.launcher, function.platform = usage.launcher, usage.platform
        function.seconds, function.reading = usage.seconds, usage.reading
        self._count()

    def _note(self, function: _Function, rows: list[dict[str, Any]]) -> None:
        for row in [row for row in rows if row["kind"] == "meter"][-1:]:
            function.seconds, function.reading = row["seconds"], meter_reading(row)
        updates = [row for row in rows if row["kind"] == "update" and "applied_s" in row]
        if updates:
            function.phases = {
                "compute": fmean(row["compute_s"] + row["encode_s"] for row in updates),
                "store": fmean(row["upload_s"] + row["download_s"] for row in updates),
                "wait": fmean(row["wait_s"] for row in updates),
            }
        function.parts = _part_means(updates) or function.parts
        self._count()

    def _count(self) -> None:
        self._requests = sum(each.reading.total for each in self._functions.values())

    def _look_for_updates(self) -> Iterator[None]:
        """Find out which workers have not published their part of the commit that is missing."""
        if not SCHEDULES.make(self.run.settings.schedule).deterministic:
            return
        for worker in sorted(self._awaited or self._log.newest):
            there = self._store.head(keys.update(worker, self._log.newest[worker].seq + 1)) is not None
            (self._awaited.discard if there else self._awaited.add)(worker)
            yield

    def seen(self) -> Seen:
        """Return what has been seen so far, without a request."""
        log, settings, functions = self._log, self.run.settings, list(self._functions.values())
        names = dict.fromkeys(name for metrics in self._metrics.values() for name in metrics)
        return Seen(
            run=self.run.url,
            state=log.stop.reason if log.stop else "stopped" if self._stopped else "running",
            schedule=settings.schedule,
            target=settings.target or "",
            version=log.version,
            commits=log.commits,
            progress=log.progress,
            stalled=log.stalled and not self._stopped,
            elapsed_s=log.elapsed_s,
            quiet_s=log.quiet_s,
            usual_s=log.usual_s,
            left_s=log.left_s,
            loss=condensed(sorted(log.losses.items())),
            metrics={
                name: condensed(
                    [(v, self._metrics[v][name]) for v in sorted(self._metrics) if name in self._metrics[v]]
                )
                for name in names
            },
            workers=tuple(self._worker(worker) for worker in range(settings.workers)),
            staleness=log.staleness,
            recent=log.recent,
            phases=_means([each.phases for each in functions]),
            reading=sum((each.reading for each in functions), start=MeterReading()),
            lifetimes_s=tuple(each.seconds for each in functions if not each.launcher),
            platform=next((each.platform for each in functions if each.platform), ""),
            functions=sum(not each.launcher for each in functions),
            died=sum(each.died for each in functions),
            handovers=self._handovers,
            refused=dict(log.refused),
            asked=self.asked,
            parts=_means([each.parts for each in functions]),
        )

    def _worker(self, worker: int) -> SeenWorker:
        newest, lease = self._log.newest.get(worker), self._leases.get(worker)
        return SeenWorker(
            worker=worker,
            seq=newest.seq if newest else None,
            version=newest.version if newest else None,
            age_s=max(0.0, self._clock() - newest.at) if newest else None,
            holder=lease.function if lease else "",
            generation=lease.generation if lease else 0,
            awaited=worker in self._awaited,
        )


def _part_means(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each part of the loss that the job names over those of a trace's rows that have it."""
    known = [json.loads(row["parts"]) for row in rows if row.get("parts")]
    return _means([{name: value for name, value in parts.items() if value is not None} for parts in known])


def _means(known: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each value over those that have it."""
    names = dict.fromkeys(name for each in known for name in each)
    return {name: fmean(each[name] for each in known if name in each) for name in names}

"""The common part of both kinds of run in closed form: their input, their counts, and how functions start and end.

All counts are sums; nothing is kept for each update.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lambdaml.algorithms import covers_batches
from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.memory import Memory, PendingUpdate
from lambdaml.log.partial import Partial
from lambdaml.log.records import Commit, Entry, Update
from lambdaml.log.state import LogState
from lambdaml.log.summary import Staleness
from lambdaml.log.wire import canonical
from lambdaml.parts import Parts
from lambdaml.patterns.gather import LOOKAHEAD
from lambdaml.schedules import rounds_at_once
from lambdaml.settings import Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.draws import Floats, Latency, uniforms
from lambdaml.simulation.limit import Limit
from lambdaml.simulation.platform import DETECT_S, Platform
from lambdaml.simulation.stragglers import Even, Stragglers
from lambdaml.simulation.stub_replica import Costs, StubState
from lambdaml.training.sampling import sampler_of
from lambdaml.worker.remembering import updates_per_memory
from lambdaml.worker.requests import (
    END,
    LEAVE,
    RECALL,
    REMEMBER,
    SNAPSHOT,
    START,
    SUCCEED,
    Script,
    count_requests,
)
from lambdaml.worker.stop_watcher import RUN_POLL, STOP_POLL_S
from lambdaml.worker.tracing import FLUSH_S
from lambdaml.worker.worker import LEAVE_MARGIN

Bools = NDArray[np.bool_]
"""An array of truth values."""

OnCommit = Callable[[float, Commit], None]
"""A function that is called with the virtual second from which a commit can be read, and with the commit."""

_ROW_BYTES = 285
"""The approximate bytes of an update's row in the trace."""

_PART_BYTES = 1100
"""The approximate bytes of a part of the trace without those rows.

They hold the meter's reading, which grows with the variety of latencies.
"""


@dataclass(slots=True)
class FlowResult:
    """The result of a run in closed form.

    Attributes:
        seconds: The seconds from the request for functions until the last one ended.
        stop: The reason why the run ended; `updates` if the caller limited their number.
        commits: The number of log entries.
        version: The version after the last of them, in optimizer steps.
        fates: The number of updates with each fate.
        late: The number of applied updates for each staleness in steps.
        requests: The number of requests by kind, as a meter names them (`lambdaml.storage.meter`).
        errors: The number of refused requests, as a meter names them.
        batches: The number of batches that the applied updates cover.
        bytes_sent: The bytes that all functions sent.
        bytes_received: The bytes that all functions received.
        function_seconds: The seconds that all functions lasted, added up.
        busy_s: The seconds of compute of all functions, added up.
        phases_s: The seconds of all workers' `cycles`, by phase: `queue` (waiting for the core), `compute`, `encode`,
            `upload`, `commit` (until the log entry can be read) and `read` (until the worker may start again). In bsp
            the phase `commit` is missing, since no function reads the log.
        cycles: The number of cycles of all workers, each from one start to the next.
        in_flight_s: The seconds from an update's start to its fate, added up over all updates.
    """

    seconds: float = 0.0
    stop: str = ""
    commits: int = 0
    version: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    late: Counter[int] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    function_seconds: float = 0.0
    busy_s: float = 0.0
    phases_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    cycles: int = 0
    in_flight_s: float = 0.0

    @property
    def updates(self) -> int:
        """The number of updates with a fate."""
        return self.fates.total()

    @property
    def staleness(self) -> Staleness:
        """The staleness of the applied updates."""
        return Staleness.of_counts(self.late)

    @property
    def cycle_s(self) -> dict[str, float]:
        """The mean seconds of a worker's cycle, by phase."""
        return {phase: seconds / max(1, self.cycles) for phase, seconds in self.phases_s.items()}

    @property
    def flight_s(self) -> float:
        """The mean seconds from an update's start to its fate."""
        return self.in_flight_s / max(1, self.updates)


class CatchUp(NamedTuple):
    """What a function does that takes the place of another, for the commits since the newest snapshot.

    Attributes:
        entries: The number of log entries that it reads.
        reads: The number of other objects that it reads.
        read_bytes: The bytes of each of these.
        work_s: The seconds that it computes, at nominal speed.
    """

    entries: int
    reads: int
    read_bytes: float
    work_s: float


@dataclass
class Scenario:
    """A run that is simulated once. Its input has the same names as in `lambdaml.simulation.engine.VirtualRun`.

    Attributes:
        settings: The run's settings.
        functions: The number of functions.
        costs: The seconds of compute and the bytes that the functions' work takes.
        channel: The model of the store.
        platform: The model of the platform that the functions run on.
        stragglers: The model of how a function's speed varies.
        seed: The seed of everything that is drawn.
        on_commit: Is called with every commit, and with the moment from which it can be read.
        counted: The counts so far.
        read_limit, write_limit: The store's limits on requests; see `Channel.reads_per_s`.
        size_bytes: The bytes of an object, for each prefix of keys. A log entry grows by `entry_bytes` for each update,
            and a sum of updates by `row_bytes` for each.
    """

    settings: Settings
    functions: int
    costs: Costs
    channel: Channel
    platform: Platform
    stragglers: Stragglers = field(default_factory=Even)
    seed: int = 0
    on_commit: OnCommit | None = None

    def __post_init__(self) -> None:
        settings, channel = self.settings, self.channel
        self.counted, self.parts = FlowResult(), Parts.of(settings)
        _demand_closed_form(self.parts, settings)
        # Without clocks it is the same for all workers.
        self.sampler = sampler_of(settings)
        algorithm, share = self.parts.algorithm, self.sampler.share
        self._assigned = lru_cache(lambda seq: algorithm.assign(settings, share(0, seq), 0, seq, None, {}))
        self.rng = np.random.Generator(np.random.PCG64(self.seed))
        self.uniform = uniforms(self.rng)
        self.reads, self.writes = Latency(channel, "get", self.rng), Latency(channel, "create", self.rng)
        errors = self.counted.errors
        coarse, random = settings.pattern == "gather", self.rng.random
        self.read_limit = Limit("get", channel.reads_per_s, self.reads, random, errors, coarse)
        self.write_limit = Limit("create", channel.writes_per_s, self.writes, random, errors, coarse)
        self.speed = self.platform.speed()
        self.bytes_per_s, self.connection_bytes_per_s = (
            self.platform.bandwidth_bytes_per_s,
            channel.bandwidth_bytes_per_s,
        )
        update = Update(0, 1000, 1000, 1, "f0.0", 8, 0.1234567890123456, settings.codec, 0.123456, 0.123456, 0.0, 0.1)
        if covers_batches(self.parts.algorithm):
            update.batches = (1000, 10)
        if self.parts.remembers:
            update.memory = "0" * 64
        pending = {1000: PendingUpdate(np.zeros(1, np.int64), {})}
        memory = Memory(100, 1000, values={"batches": 1000}, pending=pending)
        entry = Entry(100, 1000, 1000, 1, 8, 0.12345678901234, 10, 1.0)
        commit = Commit(1000, 1000, (), time_s=10.123456, next_s=0.123456, progress=0.123)
        state = StubState({"log_state": LogState(settings.workers, settings.steps).dump(), "chain": "0" * 32})
        self.entry_bytes = len(canonical(entry.dump())) + 3
        summed = [Partial(1000, [update] * count, waited_s=[0.123] * count) for count in (100, 200)]
        self.row_bytes = (len(summed[1].pack()) - len(summed[0].pack())) / 100
        dense_bytes = max(4 * settings.parameters // self.parts.algorithm.fragments, self.costs.update_bytes)
        self.size_bytes = {
            keys.RUN: len(settings.dump()),
            keys.UPDATES: len(update.pack()) + self.costs.update_bytes,
            keys.LOG: len(commit.pack()),
            keys.REDUCED: len(Partial(1000, [], waited_s=[]).pack()) + round(dense_bytes / max(1, self.parts.slices)),
            keys.SNAPSHOTS: len(state.dump()) + self.costs.snapshot_bytes,
            keys.LEASES: 110,
            keys.MEMORY: len(memory.dump(1000)) + self.costs.memory_bytes,
            keys.TRACE: _PART_BYTES,
            keys.MODEL: self.costs.snapshot_bytes or 100,
        }
        self.update_bytes, self.snapshot_bytes = self.size_bytes[keys.UPDATES], self.size_bytes[keys.SNAPSHOTS]

    def count(self, script: Script, **units: float) -> None:
        """Count the requests of a script, and their bytes."""
        self.counted.requests += count_requests(script, **units)
        for kind, about, per in script:
            if kind not in ("get", "get_range", "put", "create"):
                continue
            share = 1 / self.parts.slices if kind == "get_range" else 1.0
            moved = round(units.get(per.replace(" ", "_"), 0) * self.size_bytes[about] * share)
            self.counted.bytes_received += moved if kind.startswith("get") else 0
            self.counted.bytes_sent += moved if not kind.startswith("get") else 0

    def batches(self, seq: int) -> int:
        """Return the number of batches that an update of this number covers."""
        return self._assigned(seq).batches * self.parts.algorithm.summands

    def samples(self, worker: int, seq: int) -> int:
        """Return the number of samples of an update."""
        due = self._assigned(seq)
        numbers = range(due.first_batch, due.first_batch + due.batches)
        share = self.sampler.share(worker, seq).number
        return sum(self.sampler.count(share, batch) for batch in numbers)

    def factors(self) -> Floats:
        """Draw the factor by which each function's next piece of work takes longer, its speed included."""
        if isinstance(self.stragglers, Even):
            return np.full(self.functions, 1 / self.speed)
        factor, uniform = self.stragglers.factor, self.uniform
        return np.array([factor(index, uniform) for index in range(self.functions)]) / self.speed

    def upload_s(self, size_bytes: float) -> float:
        """Return the seconds that these bytes take on an idle network."""
        return size_bytes / min(self.bytes_per_s, self.connection_bytes_per_s)

    def launched(self) -> tuple[Floats, Floats, Floats]:
        """Return when the functions are launched, when they begin to work, and the latency that each measures then."""
        count, platform = self.functions, self.platform
        launched = np.array([platform.start_delay_s(index) for index in range(count)])
        starts = np.array([platform.start_s(self.uniform) for _ in range(count)])
        return launched, *self._restore(launched + starts, self.settings.workers)

    def _restore(self, now: Floats, workers: int) -> tuple[Floats, Floats]:
        """Start functions that take this many workers.

        Returns:
            The moments at which the functions begin to work, and the latency that each measured.
        """
        count, reads, writes = len(now), self.reads, self.writes
        self.count(START, function=count, worker=workers)
        looked = reads.many(count)  # a head of their own object, to learn the latency and the store's clock
        asked = sum(kind in ("get", "head", "list") for kind, _, _ in START)
        quick: Floats = looked + sum(reads.many(count) for _ in range(asked - 1)) + writes.many(count)
        hosted = workers / count
        begun = now + quick + self.upload_s(self.snapshot_bytes) + writes.largest(np.full(count, max(1.0, hosted)))
        return self.write_limit.serve(self.read_limit.serve(begun, asked), 1 + hosted), looked

    def leaves(self, remaining_s: Floats, step_s: Floats) -> Bools:
        """Return which functions leave now, before their lifetime is over; see `lambdaml.worker.worker`."""
        few: Bools = remaining_s < np.maximum(LEAVE_MARGIN * step_s, 2 * min(1.0, self.settings.lease_s / 8))
        return few

    def replace(self, now: Floats, behind: CatchUp) -> Floats:
        """Let functions leave at these moments and others replace them, and return when these have caught up."""
        count = len(now)
        hosted = max(1, self.settings.workers // self.functions)
        self.count((*LEAVE, *SUCCEED), function=count, worker=hosted * count)
        released = now + self.writes.many(count) + self.writes.largest(np.full(count, float(hosted)))
        if self.parts.remembers:
            self.count((*REMEMBER, *RECALL), worker=hosted * count)
            released += self.writes.largest(np.full(count, float(hosted))) + self.reads.many(count)
            released += 2 * self.upload_s(hosted * self.size_bytes[keys.MEMORY])
        starts = np.array([self.platform.start_s(self.uniform, warm=True) for _ in range(count)])
        self.counted.function_seconds -= count * DETECT_S
        begun, _ = self._restore(released + DETECT_S + starts, hosted * count)
        self.got(count * behind.entries, self.size_bytes[keys.LOG])
        self.got(count * behind.reads, behind.read_bytes)
        read_s = 3 * self.reads.many(count) + 2 * -(-behind.entries // LOOKAHEAD) * self.reads.mean_s
        return begun + read_s + behind.reads * behind.read_bytes / self.bytes_per_s + behind.work_s / self.speed

    def got(self, count: int, size_bytes: float = 0.0, misses: int = 0) -> None:
        """Count `count` reads of objects of this size, and `misses` looks that found nothing."""
        self.counted.requests["get"] += count
        self.counted.requests["get_miss"] += misses
        self.counted.bytes_received += round(count * size_bytes)

    def finish(self, launched: Floats, over: Floats, stop: str) -> FlowResult:
        """Count the functions' work besides their updates and at the end, and return the result.

        Args:
            launched: The moment at which each function was launched.
            over: The moment at which each function has applied the last commit.
            stop: The reason why the run ended.
        """
        counted, writes, updates = self.counted, self.writes, self.counted.updates
        ended = over + writes.many(len(over))
        snapshots = int(updates % self.settings.updates_per_snapshot > 0)  # else the snapshot exists already
        for _ in range(snapshots + 1):  # the last one is the result
            ended[0] += writes.next() + self.upload_s(self.snapshot_bytes)
        self.count((*SNAPSHOT, *END), snapshot=snapshots, run=1, function=len(over))
        if self.parts.remembers and updates:
            each_s = (counted.phases_s["compute"] + counted.phases_s["encode"]) / updates
            settings, workers = self.settings, self.settings.workers
            rounds_kept = settings.rounds_kept(workers * self.update_bytes)
            every = updates_per_memory(each_s, settings.recover_s, rounds_kept)
            self.count(REMEMBER, worker=updates // (workers * every) * workers)
        parts = int(((over - launched) // (FLUSH_S + writes.mean_s)).sum())
        counted.requests["put"] += parts
        counted.bytes_sent += parts * _PART_BYTES + updates * _ROW_BYTES
        looks = int((over[0] - launched[0]) / (STOP_POLL_S + self.reads.mean_s))
        counted.requests["get_miss"] += looks - looks // RUN_POLL
        counted.requests["head"] += looks // RUN_POLL
        counted.requests += Counter()  # drops the kinds that did not occur
        counted.function_seconds += float((ended - launched).sum())
        counted.seconds, counted.stop = float(ended.max()), stop
        return counted


def _demand_closed_form(parts: Parts, settings: Settings) -> None:
    """Make sure that a run can be simulated in closed form.

    Raises:
        SettingsError: If it cannot.
    """
    if parts.algorithm.clocked:
        raise SettingsError(
            f"algorithm {settings.algorithm!r} cannot be simulated in closed form, because clocks decide its number of "
            "steps: simulate every request"
        )
    if parts.remembers and settings.takes_turns:
        raise SettingsError(
            f"schedule {settings.schedule!r} cannot be simulated in closed form if workers remember something: simulate "
            "every request"
        )
    if settings.announce_s is not None:
        raise SettingsError("announced updates cannot be simulated in closed form: simulate every request")
    if parts.delay:
        raise SettingsError(
            f"schedule {settings.schedule!r} cannot be simulated in closed form, because its rounds overlap: simulate "
            "every request"
        )
    if rounds_at_once(parts.schedule):
        raise SettingsError(
            f"schedule {settings.schedule!r} cannot be simulated in closed form, because workers have models of their own: "
            "simulate every request"
        )

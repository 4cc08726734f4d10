"""What the two halves of `lambdaml.simulation.flow` share: what is given, what is counted, how functions start and end.

Everything is accumulated; nothing is kept per update.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lambdaml.log.records import Commit, Entry, Update
from lambdaml.log.state import LogState
from lambdaml.log.wire import canonical
from lambdaml.parts import Parts
from lambdaml.patterns.gather import LOOKAHEAD
from lambdaml.settings import Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.draws import Floats, Latency, uniforms
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stragglers import Even, Stragglers
from lambdaml.simulation.stub_replica import Costs, StubState
from lambdaml.training.sampling import Sampler
from lambdaml.worker.stop_watcher import RUN_POLL, STOP_POLL_S
from lambdaml.worker.tracing import FLUSH_S
from lambdaml.worker.worker import LEAVE_MARGIN

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
OnCommit = Callable[[float, Commit], None]

DETECT_S = 0.5
"""Seconds until an engine replaces a function that left; as in `lambdaml.simulation.engine`."""

FIRST_LOOK_S = 2.0
"""As in `lambdaml.patterns.gather`."""

_ROW_BYTES = 285
"""Of an update's row in the trace, about."""

_HELLO_BYTES = 200
"""Of the part that a function writes first, about."""

_METER_BYTES = 1100
"""Of the meter's reading that ends each part of the trace, about; it grows with the variety of latencies."""


@dataclass(slots=True)
class Tally:
    """What is counted. Seconds are sums over updates, by phase of a worker's cycle."""

    requests: Counter[str] = field(default_factory=Counter)
    sent_bytes: float = 0.0
    received_bytes: float = 0.0
    busy_s: float = 0.0
    fates: Counter[str] = field(default_factory=Counter)
    staleness: Counter[int] = field(default_factory=Counter)
    phases_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    cycles: int = 0
    flight_s: float = 0.0
    commits: int = 0
    version: int = 0

    def put(self, kind: str, count: int, size_bytes: float) -> None:
        self.requests[kind] += count
        self.sent_bytes += count * size_bytes

    def get(self, count: int, size_bytes: float = 0.0, misses: int = 0) -> None:
        self.requests["get"] += count
        self.requests["get_miss"] += misses
        self.received_bytes += count * size_bytes


class Limit:
    """A store's limit on reads, as a queue: what exceeds it waits. (Really it is refused, and tried again.)"""

    def __init__(self, rate_per_s: float | None) -> None:
        self._gap_s = 1 / rate_per_s if rate_per_s else 0.0
        self._due = -math.inf

    def delay_s(self, now: float, requests: int) -> float:
        """How much later the last of these requests is served than it would be without the limit."""
        self._due = max(self._due, now - 1.0 + self._gap_s) + requests * self._gap_s  # a second's worth may burst
        return max(0.0, self._due - now)


class Scene:
    """A run's functions, channel and clockwork, as `Flow` was given them."""

    def __init__(
        self,
        settings: Settings,
        functions: int,
        costs: Costs,
        channel: Channel,
        platform: Platform,
        stragglers: Stragglers,
        seed: int,
    ) -> None:
        self.settings, self.functions, self.costs = settings, functions, costs
        self.parts = Parts.of(settings)
        self.channel, self.platform, self.stragglers = channel, platform, stragglers
        self.tally = Tally()
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.uniform = uniforms(self.rng)
        self.reads, self.writes = Latency(channel, "get", self.rng), Latency(channel, "create", self.rng)
        self.limit = Limit(channel.reads_per_s)
        self.sampler = Sampler(settings.samples, settings.workers, settings.batch_size, settings.seed)
        self.speed = platform.speed()
        self.bytes_per_s, self.connection_bytes_per_s = platform.bandwidth_bytes_per_s, channel.bandwidth_bytes_per_s
        self._sizes()
        self.function_seconds = 0.0

    def _sizes(self) -> None:
        """Bytes of the objects, by packing one of each."""
        settings, costs = self.settings, self.costs
        update = Update(0, 1000, 1000, 1, "f0.0", 8, 0.1234567890123456, settings.codec, 0.123456, 0.123456, 0.0, 0.1)
        self.update_bytes = len(update.pack()) + costs.update_bytes
        entry = Entry(100, 1000, 1000, 1, 8, 0.12345678901234, 10, 1.0)
        self.entry_bytes = len(canonical(entry.dump())) + 3
        self.commit_bytes = len(Commit(1000, 1000, (), time_s=10.123456, next_s=0.123456, progress=0.123).pack())
        log_state = LogState(settings.workers, settings.steps)
        self.snapshot_bytes = (
            len(StubState({"log_state": log_state.dump(), "chain": "0" * 32}).dump()) + costs.snapshot_bytes
        )
        self.lease_bytes = 110

    def factors(self) -> Floats:
        """By how much each function's next piece of work takes longer, speed included; drawn."""
        if isinstance(self.stragglers, Even):
            return np.full(self.functions, 1 / self.speed)
        factor, uniform = self.stragglers.factor, self.uniform
        return np.array([factor(index, uniform) for index in range(self.functions)]) / self.speed

    def upload_s(self, size_bytes: float) -> float:
        """Seconds that these bytes take on an idle network."""
        return size_bytes / min(self.bytes_per_s, self.connection_bytes_per_s)

    def launched(self) -> tuple[Floats, Floats, Floats]:
        """When the functions were launched, when they begin to work, and the latency each measured then."""
        count, platform = self.functions, self.platform
        launched = np.array([platform.start_delay_s(index) for index in range(count)])
        starts = np.array([platform.start_s(self.uniform) for _ in range(count)])
        begun, measured = self.restore(launched + starts, self.settings.workers)
        return launched, begun, measured

    def restore(self, now: Floats, leases: int, lists: int = 2) -> tuple[Floats, Floats]:
        """Functions read run.json, write their first part of the trace, read the snapshot and take their leases."""
        count, tally, reads, writes = len(now), self.tally, self.reads, self.writes
        looked = reads.many(count)  # a head of what they wrote, to learn the latency and the store's clock
        quick = reads.many(count) + looked + reads.many(count) + reads.many(count) + reads.many(count)
        hosted = np.full(count, max(1.0, leases / count))
        tally.get(count, len(self.settings.dump()))
        tally.get(count, self.snapshot_bytes)
        tally.requests["head"] += count
        tally.requests["list"] += lists * count
        tally.put("put", count, _HELLO_BYTES)
        tally.put("create", leases, self.lease_bytes)
        done = now + quick + writes.many(count) + self.upload_s(self.snapshot_bytes) + writes.largest(hosted)
        return done, looked

    def leaves(self, remaining_s: Floats, step_s: Floats) -> Bools:
        """Which functions leave before their lifetime is over; see `lambdaml.worker.worker`."""
        few: Bools = remaining_s < np.maximum(LEAVE_MARGIN * step_s, 2 * min(1.0, self.settings.lease_s / 8))
        return few

    def replace(self, now: Floats, commits: int, updates: int) -> Floats:
        """Functions leave, and others take their place; returns when these have caught up.

        Args:
            commits, updates: since the last snapshot, to be read and applied.
        """
        count, platform, tally, costs = len(now), self.platform, self.tally, self.costs
        hosted = max(1, self.settings.workers // self.functions)
        released = now + self.writes.many(count) + self.writes.largest(np.full(count, float(hosted)))
        starts = np.array([platform.start_s(self.uniform, warm=True) for _ in range(count)])
        self.function_seconds -= count * DETECT_S
        begun, _ = self.restore(released + DETECT_S + starts, hosted * count, lists=2 + hosted)
        tally.put("put", count, _METER_BYTES)
        tally.put("create", hosted * count, self.lease_bytes)
        tally.get(hosted * count, self.lease_bytes, hosted * count)
        tally.get(count * commits, self.commit_bytes)
        tally.get(count * updates, self.update_bytes)
        bursts = -(-commits // LOOKAHEAD)
        read_s = 3 * self.reads.many(count) + 2 * bursts * self.reads.mean_s
        work_s = (costs.apply_s + costs.apply_update_s) * updates / self.speed
        return begun + read_s + updates * self.update_bytes / self.bytes_per_s + work_s

    def finish(self, launched: Floats, over: Floats, updates: int) -> float:
        """Count what functions do besides their updates, and what they do at the end; returns when all have ended.

        Args:
            over: when each function has applied the last commit.
        """
        tally, writes = self.tally, self.writes
        ended = over.copy()
        snapshots = int(updates % self.settings.updates_per_snapshot > 0)  # else it stands already
        for _ in range(snapshots + 1):  # and the result
            ended[0] += self.writes.next() + self.upload_s(self.snapshot_bytes)
        tally.put("create", snapshots, self.snapshot_bytes)
        tally.put("create", 1, self.costs.snapshot_bytes or 100)
        parts = 1 + np.floor((over - launched) / (FLUSH_S + writes.mean_s))
        ended += writes.many(len(ended))
        tally.put("put", int(parts.sum()), _METER_BYTES)
        tally.sent_bytes += updates * _ROW_BYTES
        looks = int((over[0] - launched[0]) / (STOP_POLL_S + self.reads.mean_s))
        tally.requests["get_miss"] += looks - looks // RUN_POLL
        tally.requests["head"] += looks // RUN_POLL
        self.function_seconds += float((ended - launched).sum())
        return float(ended.max())

"""The model of a run that its own trace gives: how long its work, its store and its starts took. It can be run again.

    recorded = Recorded.of(run)
    recorded.again().seconds                                    # about as long as the run took
    replace(recorded, starts_s=()).again().seconds              # the same with functions that start at once

`again` simulates a window of the run, with the schedule, the pattern and the algorithm that it really had, and extends
the window's pace to all of the run's updates. Where the run had few functions, every request of the window is simulated.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median, median_low, quantiles
from typing import Any

from lambdaml.cost.billing.tariff import Quantities
from lambdaml.errors import SettingsError, UserError
from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.log.usage import Usage
from lambdaml.parts import Parts
from lambdaml.settings import Settings
from lambdaml.simulation.channel import CHANNELS, Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.flow import Flow
from lambdaml.simulation.platform import Platform, Uniform
from lambdaml.simulation.stub_replica import HEADER_BYTES, Costs
from lambdaml.storage import MeterReading
from lambdaml.storage.meter import bin_number, bin_s

EXACT_FUNCTIONS = 8
"""Every request is simulated for up to this many functions."""

_REQUESTS = 2_000
"""A window of so many requests is simulated one by one, if that is not less than `_ROUNDS` rounds."""

_ROUNDS = (6, 100)
"""The least and the most rounds of a window."""

_CLOSED_ROUNDS = 40
"""The rounds of a window that is simulated in closed form."""

_MOSTLY = 1.5
"""An update has slices of its own if its function sent so many times as many bytes as its object has."""

_SHARED = 1.3
"""Reads share the network if the slowest of several takes so many times as long for its bytes as the mean one."""

_ENOUGH = 0.25
"""Small writes tell the latency of writes if there are so many for each update."""

_TOLD_APART = 0.1
"""Bytes take time if requests that move them take longer than others by this share."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Pace:
    """The gradients of each function as slow as they were. It is a `lambdaml.simulation.stragglers.Stragglers`.

    Attributes:
        factors: The factors by which each function's steps took longer than the nominal step, in ascending order.
    """

    factors: tuple[tuple[float, ...], ...]

    def factor(self, function_index: int, uniform: Uniform) -> float:
        mine = self.factors[function_index % len(self.factors)]
        return mine[int(uniform() * len(mine))]

    @property
    def medians(self) -> list[float]:
        """The median factor of each function."""
        return [median(each) for each in self.factors]

    def alike(self) -> Pace:
        """Return the pace if all functions were like the median one."""
        usual = median_low(self.medians)
        return Pace((next(each for each in self.factors if median(each) == usual),))

    def even(self) -> Pace:
        """Return the pace if all steps of a function took the same time."""
        return Pace(tuple((fmean(each),) for each in self.factors))


@dataclass(frozen=True, slots=True)
class Again:
    """The outcome of a simulated window, extended to the whole run.

    Attributes:
        start_s: The seconds until the slowest function had started.
        work_s: The seconds from then until the last function ended.
        used: The quantities that a bill of it would have, but for storage.
    """

    start_s: float
    work_s: float
    used: Quantities

    @property
    def seconds(self) -> float:
        """The seconds from asking for functions until the last of them ended."""
        return self.start_s + self.work_s


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run's own costs.

    Attributes:
        settings: The run's settings.
        functions: The number of functions that worked at once.
        updates: The number of updates that got a fate.
        span_s: The seconds from asking for functions until the last of them ended.
        costs: The seconds of its work at the pace of the usual function, and the bytes of its objects.
        pace: The factors by which functions were slower than that.
        channel: The latencies of its store, and the bandwidth of a connection.
        network_bytes_per_s: The bandwidth that all connections of a function shared; infinity if none is seen.
        starts_s: The seconds that each function took to start; empty if they started at once.
        lost: The number of functions that died.
    """

    settings: Settings
    functions: int
    updates: int
    span_s: float
    costs: Costs
    pace: Pace
    channel: Channel
    network_bytes_per_s: float = math.inf
    starts_s: tuple[float, ...] = field(default=())
    lost: int = 0

    @staticmethod
    def of(run: RunReader, rows: Rows, usage: Sequence[Usage], store: str = "disk") -> Recorded:
        """Read a run's own costs from what its functions measured.

        Args:
            run: The run.
            rows: Its trace.
            usage: The usage of its functions.
            store: The channel whose limits of requests its store has.

        Raises:
            UserError: If nothing was measured.
        """
        measured = [row for row in rows if row.get("compute_s") is not None and row.get("applied_s") is not None]
        if not measured:
            raise UserError(f"{run.url} has no measured update: there is nothing to explain yet")
        settings, functions = run.settings, len({row["function"] for row in measured if row["seq"] == 0}) or 1
        hosts: dict[str, int] = {}
        for row in measured:
            hosts.setdefault(row["function"], row["worker"] % functions)
        lives = {each.function: each for each in usage if not each.launcher}
        reading = run.requests()
        update_bytes = _update_bytes(run, measured, reading)
        costs, pace = _work(run, measured, functions, update_bytes)
        channel, network = _store(reading, measured, update_bytes, CHANNELS[store])
        span: defaultdict[int, float] = defaultdict(float)
        for name, index in hosts.items():
            span[index] += lives[name].seconds
        return Recorded(
            settings=settings,
            functions=functions,
            updates=len(rows),
            span_s=max(span.values()),
            costs=costs,
            pace=pace,
            channel=channel,
            network_bytes_per_s=network,
            starts_s=_starts(run, hosts, lives),
            lost=sum(not each.complete for each in lives.values()),
        )

    @property
    def slowest(self) -> tuple[list[int], float]:
        """The workers of the slowest function, and how many times as long as usual its steps took."""
        medians = self.pace.medians
        index = medians.index(max(medians))
        workers = list(range(index, self.settings.workers, len(medians)))
        return workers, medians[index] / max(median_low(medians), 1e-9)

    def with_settings(self, **changes: Any) -> Recorded:
        """Return the run with other settings, in the bracket that goes with them."""
        return replace(self, settings=self.settings.model_copy(update={"bracket": None, **changes}))

    def again(self) -> Again:
        """Simulate the run.

        All functions of the window start at once; the run is longer by the slowest start.

        Raises:
            SettingsError: If there is no such run, or it cannot be simulated.
        """
        closed, (least, most) = self.functions > EXACT_FUNCTIONS, _ROUNDS
        rounds = _CLOSED_ROUNDS if closed else _REQUESTS // (2 * self.functions * self.settings.workers)
        steps = min(self.settings.steps, max(least, min(most, rounds)))
        window = self.settings.model_copy(update={"steps": steps})
        Parts.of(window)
        platform = Platform("recorded", bandwidth_bytes_per_s=self.network_bytes_per_s)
        place = (window, self.functions, self.costs, self.channel, platform, self.pace)
        if closed:
            try:
                return self._closed(Flow(*place))
            except SettingsError:
                pass  # there is no closed form for it
        return self._exact(VirtualRun(*place))

    def _exact(self, virtual: VirtualRun) -> Again:
        virtual.run()
        moments = [(commit.time_s, len(commit.entries)) for commit in virtual.log()]
        read = virtual.run_of().requests()
        lasted = [life.ended_s or virtual.kernel.now for life in virtual.lives]
        return self._extended(moments, lasted, read.requests, (read.bytes_sent, read.bytes_received))

    def _closed(self, flow: Flow) -> Again:
        moments: list[tuple[float, int]] = []
        flow.on_commit = lambda now, commit: moments.append((now, len(commit.entries)))
        found = flow.run()
        lasted = [found.seconds, *[found.function_seconds / self.functions] * (self.functions - 1)]
        return self._extended(moments, lasted, found.requests, (found.bytes_sent, found.bytes_received))

    def _extended(
        self,
        moments: Sequence[tuple[float, int]],
        lasted_s: Sequence[float],
        requests: Mapping[str, int],
        moved: tuple[int, int],
    ) -> Again:
        """Return the outcome for all updates, given when a window's commits were made, and of how many updates each."""
        made = sum(count for _, count in moments)
        first_s, first = moments[0]
        pace_s = (moments[-1][0] - first_s) / max(1, made - first)
        more_s, times = pace_s * (self.updates - made), self.updates / made
        sent, received = (round(times * size) for size in moved)
        counted = {kind: round(times * count) for kind, count in requests.items()}
        worked = [max(0.0, seconds + more_s) for seconds in lasted_s]
        start_s = max(self.starts_s, default=0.0)
        lives = [start_s + seconds for seconds in worked]
        return Again(start_s, max(worked), Quantities(lives, counted, sent, received))


def _work(run: RunReader, rows: Rows, functions: int, update_bytes: float) -> tuple[Costs, Pace]:
    """Return the costs of a run's work, and the pace of its functions."""
    summands = Parts.of(run.settings).algorithm.summands
    steps: defaultdict[int, list[float]] = defaultdict(list)
    for row in rows:
        steps[row["worker"] % functions].append(row["compute_s"] / (summands * (row.get("batches") or 1)))
    step_s = max(median_low([median(each) for each in steps.values()]), 1e-6)
    paces = [sorted(value / step_s for value in steps.get(index, [step_s])) for index in range(functions)]
    added = len(rows) / len({row["commit"] for row in rows})
    apply_s = median([row["apply_s"] for row in rows])
    snapshot_bytes, memory_bytes = (_size(run, prefix) for prefix in (keys.SNAPSHOTS, keys.MEMORY))
    costs = Costs(
        step_s=step_s,
        encode_s=median([row["encode_s"] for row in rows]),
        apply_s=0.8 * apply_s,
        apply_update_s=0.2 * apply_s / added,
        update_bytes=max(0, round(update_bytes) - HEADER_BYTES),
        snapshot_bytes=snapshot_bytes,
        memory_bytes=memory_bytes,
    )
    return costs, Pace(tuple(map(tuple, paces)))


def _size(run: RunReader, prefix: str) -> int:
    """Return the size of some object whose key begins with the prefix, or 0 if there is none."""
    return next((info.size_bytes for info in run.store.list(prefix)), 0)


def _update_bytes(run: RunReader, rows: Rows, reading: MeterReading) -> float:
    """Return the mean bytes of an update. Its slices, if they are objects of their own, are counted by the meter only."""
    others = sum(info.size_bytes for prefix in (keys.SNAPSHOTS, keys.MEMORY) for info in run.store.list(prefix))
    whole = fmean(row["bytes_sent"] for row in rows)
    sent = (reading.bytes_sent - others) / len(rows)
    return sent if sent > _MOSTLY * whole else whole


def _store(reading: MeterReading, rows: Rows, update_bytes: float, like: Channel) -> tuple[Channel, float]:
    """Return the store as the run met it, and the bandwidth that the connections of a function share.

    Reads that find nothing show the latency of reads, and small writes that of writes. What others take more is for
    their bytes. If the slowest of several reads at once takes much longer than the mean one, they share the network.
    """
    misses, gets = _added(reading, "get_miss", "head"), _added(reading, "get", "get_range")
    miss_s, get_s, each_bytes = _mean_s(misses), _mean_s(gets), reading.bytes_received / max(1, gets.total())
    uploads_s = [row["upload_s"] for row in rows]
    several = [row for row in rows if (row.get("gets") or 0) > 1]
    network, alone = math.inf, _bandwidth(miss_s, get_s, each_bytes)
    if several and math.isfinite(alone):
        slowest_s = fmean(row["download_s"] for row in several) - miss_s
        if slowest_s > _SHARED * (get_s - miss_s):
            alone = network = fmean(row["gets"] for row in several) * each_bytes / slowest_s
    at_least = update_bytes / max(quantiles(uploads_s, n=20)[0] if len(uploads_s) > 1 else uploads_s[0], 1e-9)
    if math.isfinite(alone) and at_least > _SHARED * alone:
        alone = network = at_least  # an upload alone was faster than the reads, which came several at once
    writes = _added(reading, "put", "create", "create_lost")
    small = writes.total() - len(rows)
    if not gets and small > _ENOUGH * len(rows):
        small_s = (_mean_s(writes) * writes.total() - math.fsum(uploads_s)) / small
        alone = _bandwidth(max(0.0, small_s), fmean(uploads_s), update_bytes)
    created = Counter(bin_number(seconds - update_bytes / alone) for seconds in uploads_s)
    reads = misses + gets if math.isinf(alone) else misses or gets
    latency = {"get_miss": reads or created, "create": created}
    return Channel.measured(MeterReading(latency=latency), alone, like), network


def _bandwidth(small_s: float, large_s: float, large_bytes: float) -> float:
    """Return the bytes per second, given how long requests without and with bytes take; infinity if that is alike."""
    more_s = large_s - small_s
    return large_bytes / more_s if more_s > _TOLD_APART * small_s + 1e-4 else math.inf


def _added(reading: MeterReading, *kinds: str) -> Counter[int]:
    return sum((Counter(reading.latency.get(kind, {})) for kind in kinds), start=Counter())


def _mean_s(bins: Mapping[int, int]) -> float:
    return sum(bin_s(number + 0.5) * count for number, count in bins.items()) / max(1, sum(bins.values()))


def _starts(run: RunReader, hosts: Mapping[str, int], lives: Mapping[str, Usage]) -> tuple[float, ...]:
    """Return how long the first life of each function took from the request for it until it could work."""
    worked_s = {name: row["seconds"] for name, _, row in run.trace_rows("meter")}
    first: dict[int, str] = {}
    for name, index in hosts.items():
        first.setdefault(index, name)
    known = [name for name in first.values() if lives[name].complete]
    return tuple(max(0.0, lives[name].seconds - worked_s[name]) for name in _or(known, first.values()))


def _or(some: Sequence[str], every: Iterable[str]) -> Sequence[str]:
    return some or list(every)

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
from statistics import fmean, median, median_low
from typing import Any

from lambdaml.cost.billing.tariff import Quantities
from lambdaml.errors import SettingsError, UserError
from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.log.trace_parts import meter_reading
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

_REQUESTS = 3_000
"""A window of so many requests is simulated one by one, if that is not less than `_ROUNDS` rounds."""

_ROUNDS = (6, 100)
"""The least and the most rounds of a window."""

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
        seconds: The seconds from asking for functions until the last of them ended.
        used: The quantities that a bill of it would have, but for storage.
    """

    seconds: float
    used: Quantities


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
        channel: The latencies and the bandwidth of its store.
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
        costs, pace = _work(run, measured, functions)
        span = Counter[int]()
        for name, index in hosts.items():
            span[index] += lives[name].seconds
        return Recorded(
            settings=settings,
            functions=functions,
            updates=len(rows),
            span_s=max(span.values()),
            costs=costs,
            pace=pace,
            channel=_channel(run.requests(), measured, CHANNELS[store]),
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

        Raises:
            SettingsError: If there is no such run, or it cannot be simulated.
        """
        least, most = _ROUNDS
        rounds = max(least, min(most, _REQUESTS // (2 * self.functions * self.settings.workers)))
        window = self.settings.model_copy(update={"steps": min(self.settings.steps, rounds)})
        Parts.of(window)
        ramp = tuple((count, seconds) for count, seconds in enumerate(sorted(self.starts_s), start=1))
        place = (window, self.functions, self.costs, self.channel, Platform("recorded", ramp=ramp), self.pace)
        if self.functions > EXACT_FUNCTIONS:
            try:
                return self._closed(Flow(*place))
            except SettingsError:
                pass  # it cannot be simulated in closed form
        return self._exact(VirtualRun(*place))

    def _exact(self, virtual: VirtualRun) -> Again:
        virtual.run()
        moments = [(commit.time_s, len(commit.entries)) for commit in virtual.log()]
        read = virtual.run_of().requests()
        ends = [life.ended_s or virtual.kernel.now for life in virtual.lives]
        lasted = [end - life.started_s for end, life in zip(ends, virtual.lives, strict=True)]
        return self._extended(moments, max(ends), lasted, read.requests, (read.bytes_sent, read.bytes_received))

    def _closed(self, flow: Flow) -> Again:
        moments: list[tuple[float, int]] = []
        flow.on_commit = lambda now, commit: moments.append((now, len(commit.entries)))
        found = flow.run()
        lasted = [found.function_seconds / self.functions] * self.functions
        return self._extended(moments, found.seconds, lasted, found.requests, (found.bytes_sent, found.bytes_received))

    def _extended(
        self,
        moments: Sequence[tuple[float, int]],
        end_s: float,
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
        lives = [max(0.0, seconds + more_s) for seconds in lasted_s]
        return Again(max(0.0, end_s + more_s), Quantities(lives, counted, sent, received))


def _work(run: RunReader, rows: Rows, functions: int) -> tuple[Costs, Pace]:
    """Return the costs of a run's work, and the pace of its functions."""
    summands = Parts.of(run.settings).algorithm.summands
    steps: defaultdict[int, list[float]] = defaultdict(list)
    for row in rows:
        steps[row["worker"] % functions].append(row["compute_s"] / (summands * (row.get("batches") or 1)))
    step_s = max(median_low([median(each) for each in steps.values()]), 1e-6)
    paces = [sorted(value / step_s for value in steps.get(index, [step_s])) for index in range(functions)]
    added = len(rows) / len({row["commit"] for row in rows})
    apply_s = median([row["apply_s"] for row in rows])
    sizes = {
        prefix: next((info.size_bytes for info in run.store.list(prefix)), 0)
        for prefix in (keys.SNAPSHOTS, keys.MEMORY)
    }
    costs = Costs(
        step_s=step_s,
        encode_s=median([row["encode_s"] for row in rows]),
        apply_s=0.8 * apply_s,
        apply_update_s=0.2 * apply_s / added,
        update_bytes=max(0, round(fmean(row["bytes_sent"] for row in rows)) - HEADER_BYTES),
        snapshot_bytes=sizes[keys.SNAPSHOTS],
        memory_bytes=sizes[keys.MEMORY],
    )
    return costs, Pace(tuple(map(tuple, paces)))


def _channel(reading: MeterReading, rows: Rows, like: Channel) -> Channel:
    """Return the store as the run met it. Reads that find nothing show its latency, and the others how fast bytes are."""
    misses = _added(reading, "get_miss", "head")
    gets = _added(reading, "get", "get_range")
    writes = _added(reading, "put", "create", "create_lost")
    uploads_s, update_bytes = [row["upload_s"] for row in rows], fmean(row["bytes_sent"] for row in rows)
    bandwidth = _bandwidth(_mean_s(misses), 0.0, _mean_s(gets), reading.bytes_received / max(1, gets.total()))
    if math.isinf(bandwidth):
        each_bytes = reading.bytes_sent / max(1, writes.total())
        bandwidth = _bandwidth(_mean_s(writes), each_bytes, fmean(uploads_s), update_bytes)
    reads = misses + gets if math.isinf(bandwidth) else misses or gets
    created = Counter(bin_number(seconds - update_bytes / bandwidth) for seconds in uploads_s)
    latency = {"get_miss": reads or created, "create": created}
    return Channel.measured(MeterReading(latency=latency), bandwidth, like)


def _bandwidth(small_s: float, small_bytes: float, large_s: float, large_bytes: float) -> float:
    """Return the bytes per second, given how long smaller and larger requests take; infinity if they take equally long."""
    more_s = large_s - small_s
    told = more_s > _TOLD_APART * small_s + 1e-4 and large_bytes > small_bytes
    return (large_bytes - small_bytes) / more_s if told else math.inf


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

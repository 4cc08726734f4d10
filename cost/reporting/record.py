"""Reads a run's own model from what its functions measured: the trace, the meters and the usage."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, median, median_low, quantiles
from typing import Any

from lambdaml.cost.reporting.recorded import Pace, RecordedRun
from lambdaml.errors import UserError
from lambdaml.log import keys
from lambdaml.log.left_out import LEFT_OUT
from lambdaml.log.reader import RunReader
from lambdaml.log.usage import Usage
from lambdaml.parts import Parts
from lambdaml.simulation.channel import CHANNELS, Channel
from lambdaml.simulation.stub_replica import HEADER_BYTES, Costs
from lambdaml.storage import MeterReading
from lambdaml.storage.meter import bin_number, bin_s

_Row = Mapping[str, Any]

_EXACT_FUNCTIONS = 4
"""Every request is simulated for up to this many functions, and as many more as a change may give them."""

_SHARED = 1.3
"""Reads share the network if the slowest of several takes so many times as long for its bytes as one alone would."""

_ENOUGH = 0.25
"""Small writes tell the latency of writes if there are so many for each update."""

_TOLD_APART = 0.1
"""Bytes take time if requests that move them take longer than others by this share."""


def record(run: RunReader, rows: Sequence[_Row], usage: Sequence[Usage], store: str = "disk") -> RecordedRun:
    """Return a run's own model.

    Args:
        run: The run.
        rows: Its trace.
        usage: The usage of its functions.
        store: The channel whose limits of requests its store has.

    Raises:
        UserError: If nothing was measured.
    """
    computed = [row for row in rows if row["reason"] != LEFT_OUT]
    measured = [row for row in computed if row.get("compute_s") is not None and row.get("applied_s") is not None]
    if not measured:
        raise UserError(f"{run.url} has no measured update yet: there is nothing to explain")
    measured.sort(key=lambda row: row["seq"])
    first_hosts: dict[int, str] = {}
    for row in measured:
        first_hosts.setdefault(row["worker"], row["function"])
    functions = len(set(first_hosts.values()))
    lives: dict[str, list[_Row]] = defaultdict(list)
    for row in measured:
        lives[row["function"]].append(row)
    steps = {name: [row["compute_s"] for row in own[1:] or own] for name, own in lives.items()}
    index_of = {name: own[0]["worker"] % functions for name, own in lives.items()}
    used = {each.function: each for each in usage if not each.launcher}
    span_s: defaultdict[int, float] = defaultdict(float)
    for name, index in index_of.items():
        span_s[index] += used[name].seconds
    reading = run.requests()
    update_bytes = _update_bytes(run, measured, reading)
    step_s, pace = _pace(steps, index_of, functions)
    channel, network = _store(reading, measured, update_bytes, CHANNELS[store])
    batches = Parts.of(run.settings).algorithm.summands * fmean(row.get("batches") or 1 for row in measured)
    worked_s = {name: row["seconds"] for name, _, row in run.trace_rows("meter")}
    starts = {
        name: used[name].seconds - worked_s[name] + lives[name][0]["compute_s"] - median(steps[name])
        for name in set(first_hosts.values())
        if used[name].complete
    }
    return RecordedRun(
        settings=run.settings,
        functions=functions,
        updates=len(rows),
        span_s=max(span_s.values()),
        costs=_costs(run, measured, step_s / batches, update_bytes),
        pace=pace,
        channel=channel,
        network_bytes_per_s=network,
        starts_s=tuple(max(0.0, start_s) for start_s in starts.values()),
        exact=functions <= _EXACT_FUNCTIONS,
        lost=sum(not each.complete for each in used.values()),
    )


def _pace(steps: Mapping[str, list[float]], index_of: Mapping[str, int], functions: int) -> tuple[float, Pace]:
    """Return the seconds of the usual function's median step, and the pace of all functions relative to it."""
    by_index: defaultdict[int, list[float]] = defaultdict(list)
    for name, seconds in steps.items():
        by_index[index_of[name]] += seconds
    usual_s = max(median_low([median(each) for each in by_index.values()]), 1e-6)
    factors = [sorted(value / usual_s for value in by_index.get(index, [usual_s])) for index in range(functions)]
    return usual_s, Pace(tuple(map(tuple, factors)))


def _costs(run: RunReader, rows: Sequence[_Row], step_s: float, update_bytes: float) -> Costs:
    apply_s, added = median(row["apply_s"] for row in rows), len(rows) / len({row["commit"] for row in rows})
    snapshot_bytes, memory_bytes = (_size(run, prefix) for prefix in (keys.SNAPSHOTS, keys.MEMORY))
    return Costs(
        step_s=step_s,
        encode_s=median(row["encode_s"] for row in rows),
        apply_s=0.8 * apply_s,  # shared out as `lambdaml.simulation.costs` does
        apply_update_s=0.2 * apply_s / added,
        update_bytes=max(0, round(update_bytes) - HEADER_BYTES),
        snapshot_bytes=snapshot_bytes,
        memory_bytes=memory_bytes,
    )


def _size(run: RunReader, prefix: str) -> int:
    """Return the size of some object whose key begins with the prefix, or 0 if there is none."""
    return next((info.size_bytes for info in run.store.list(prefix)), 0)


def _update_bytes(run: RunReader, rows: Sequence[_Row], reading: MeterReading) -> float:
    """Return the mean bytes of an update. Slices that are objects of their own, and vectors of virtual runs, are known to the
    meter only."""
    whole, slices = fmean(row["bytes_sent"] for row in rows), Parts.of(run.settings).slices
    if whole > HEADER_BYTES and not slices:
        return whole
    others = sum(info.size_bytes for prefix in (keys.SNAPSHOTS, keys.MEMORY) for info in run.store.list(prefix))
    if slices:
        others += 4 * run.settings.parameters * len({row["commit"] for row in rows})  # their sums
    return max(whole, (reading.bytes_sent - others) / len(rows))


def _store(reading: MeterReading, rows: Sequence[_Row], update_bytes: float, like: Channel) -> tuple[Channel, float]:
    """Return the store as the run met it, and the bandwidth that the connections of a function share.

    Reads that find nothing show the latency of reads, and small writes that of writes. What others take more is for
    their bytes. If the slowest of several reads at once takes much longer than one alone would, they share the network.
    """
    misses, gets = _added(reading, "get_miss", "head"), _added(reading, "get", "get_range")
    miss_s, get_s, each_bytes = _mean_s(misses), _mean_s(gets), reading.bytes_received / max(1, gets.total())
    uploads_s = [row["upload_s"] for row in rows]
    several = [row for row in rows if (row.get("gets") or 0) > 1]
    network, alone = math.inf, _bandwidth(miss_s, get_s, each_bytes)
    if several and math.isfinite(alone):
        slowest_s = fmean(row["download_s"] for row in several) - miss_s
        if slowest_s > _SHARED * update_bytes / alone:
            alone = network = fmean(row["gets"] for row in several) * update_bytes / slowest_s
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

"""Measures the time of a round under each pattern against the smallest time that any pattern can take, modelled.

    python benchmarks/floors.py

The virtual world runs the real protocol, request by request, on a store of 40 ms a request. The seconds of a round are
those beyond computing the gradient. What checking and adding up cost is measured here, by NumPy and zlib, and charged.
L is the latency, S the bytes of an update, c the bandwidth of a connection and B that of a function, here the same:

    gather    2 L + S/c + (N - 1) S/B                         put; read N - 1 updates
    scatter   4 L + S/c + 2 (N - 1) S/(N B) + S/(N c)         put; read slices; put a piece; read the others
    star      4 L + 2 S/c + (N - 1) S/B + S/B                 put; one reads all, puts the sum; the others read that

The floor of a cell is the smallest of the three.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import replace
from itertools import pairwise
from statistics import median

import numpy as np

from lambdaml.settings import JobSettings, Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs

LATENCY_S, STEP_S, ROUNDS, SKIPPED = 0.04, 0.5, 14, 4


def floor_s(pattern: str, workers: int, size: float, bandwidth: float) -> float:
    """Return what a round takes at least under this pattern, in seconds."""
    others, move_s = workers - 1, size / bandwidth
    if pattern == "gather":
        return 2 * LATENCY_S + move_s + others * move_s
    if pattern == "scatter":
        return 4 * LATENCY_S + move_s + 2 * others * move_s / workers + move_s / workers
    return 4 * LATENCY_S + 2 * move_s + others * move_s + move_s


def added_s(size: int = 10**7) -> float:
    """Return the seconds that it takes to check and add up a byte of an update."""
    vector, total = np.ones(size // 4, np.float32), np.zeros(size // 4, np.float32)
    data, took = vector.tobytes(), []
    for _ in range(7):
        began = time.perf_counter()
        zlib.crc32(data)
        np.add(total, vector, out=total)
        took.append(time.perf_counter() - began)
    return median(took) / size


def round_s(pattern: str, workers: int, size: int, bandwidth: float, add_s: float) -> float:
    """Return the median seconds of a round beyond computing the gradient."""
    settings = Settings(
        job=JobSettings(spec="none"),
        workers=workers,
        steps=ROUNDS,
        pattern=pattern,
        batch_size=8,
        samples=8 * workers * ROUNDS,
        steps_per_epoch=ROUNDS,
        parameters=1,
        snapshot_every=10 * ROUNDS,
        token="floors",
    )
    costs = Costs(step_s=STEP_S, apply_update_s=add_s * size, update_bytes=size)
    channel = Channel.parse(f"40ms:bandwidth={bandwidth / 1e6:g}MB/s")
    platform = replace(Platform.parse("local"), bandwidth_bytes_per_s=bandwidth)
    virtual = VirtualRun(settings, workers, costs, channel, platform)
    virtual.run()
    moments = [commit.time_s for commit in virtual.log()][SKIPPED:]
    return median(later - earlier for earlier, later in pairwise(moments)) - STEP_S


def main() -> None:
    """Print the table."""
    add_s = added_s()
    print(f"checking and adding: {1e9 * add_s:.2f} ms a MB\n")
    print("| bandwidth | N | MB | floor | gather | scatter | star | best / floor |\n|--:|--:|--:|--:|--:|--:|--:|--:|")
    for bandwidth in (260e6, 78.6e6):
        for workers in (4, 8):
            for size in (10**6, 10**7, 10**8):
                patterns = {"gather": "gather", "scatter": "scatter", "star": f"tree:{workers}"}
                least = min(floor_s(name, workers, size, bandwidth) for name in patterns)
                found = [round_s(spec, workers, size, bandwidth, add_s) for spec in patterns.values()]
                cells = " | ".join(f"{seconds:.2f}" for seconds in found)
                print(
                    f"| {bandwidth / 1e6:g} MB/s | {workers} | {size / 1e6:g} | {least:.2f} | {cells} | "
                    f"{min(found) / least:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

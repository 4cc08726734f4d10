"""Compare functions as Ray tasks with functions of the local engine: as many processes, the same job, the same store.

    python benchmarks/engines.py
    python benchmarks/engines.py --steps 60 --rounds 1

Updates per second are taken from the dates that the store gives to log entries, without the first ones. Engines take
turns, so that a busy period affects both. Reported separately are the seconds that Ray itself takes to start, and those
from the call of `train` to the first log entry. The first run on Ray also starts its worker processes, which later ones
use again. Ray must reach at least 0.9 of the local engine's throughput.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import ray

import lambdaml
from lambdaml.engines.ray import RayEngine
from lambdaml.log import keys
from lambdaml.storage import open_store

sys.path.insert(0, str(Path(__file__).parent))

WARM = 20
"""The number of log entries that are left out."""


def measure(engine: str, url: str, functions: int, steps: int, schedule: str) -> tuple[float, float]:
    """Return the updates per second, and the seconds until the first log entry."""
    spec = f"{Path(__file__).parent / 'jobs.py'}:Convolutions"
    began = time.time()
    options = {"workers": functions, "functions": functions, "snapshot_every": 10**6, "schedule": schedule}
    lambdaml.train(spec, url, engine=engine, steps=steps, **options)
    store = open_store(url)
    dates = [info.modified for info in store.list(keys.LOG)]
    store.close()
    updates = functions * steps * (len(dates) - 1 - WARM) / len(dates)
    return updates / (dates[-1] - dates[WARM]), dates[0] - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--functions", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--schedule", default="bsp")
    chosen = parser.parse_args()
    began = time.monotonic()
    held = RayEngine("local")
    held.start()
    print(f"Ray started in {time.monotonic() - began:.1f} s")
    rates: dict[str, list[float]] = {"local": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(chosen.rounds):
            for engine, found in rates.items():
                url = f"file://{folder}/{engine}-{number}"
                rate, first_s = measure(engine, url, chosen.functions, chosen.steps, chosen.schedule)
                found.append(rate)
                print(f"{engine:>6} {rate:8.1f} updates/s, the first log entry after {first_s:.1f} s", flush=True)
    held.close()
    ratios = [ours / theirs for ours, theirs in zip(rates["ray"], rates["local"], strict=True)]
    print(f"median: local {median(rates['local']):.1f}, ray {median(rates['ray']):.1f} updates/s on {ray.__version__}")
    print(f"ray / local, median of {chosen.rounds} rounds: {median(ratios):.3f}")


if __name__ == "__main__":
    main()

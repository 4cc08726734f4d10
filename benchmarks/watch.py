"""Count the requests that watching a run of 32 workers takes, beside those of the run.

    python benchmarks/watch.py
    python benchmarks/watch.py --workers 32 --functions 4 --steps 200

The run goes on in a process of its own, and its store answers as slowly as S3. Watching must take at most 1 % of
the run's requests, or one request in two seconds. Two views of the same run are counted: one that is there from the beginning,
and one that comes when half of the run is over, which must find out what was before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lambdaml.errors import RunNotFound
from lambdaml.log.reader import RunReader
from lambdaml.traces.observer import Observer
from lambdaml.traces.seen import Seen

LOOK_S = 0.5


def watched(observer: Observer, until: float) -> tuple[Seen, float]:
    """What is seen when this share of the run is done, and after how many seconds."""
    began = time.monotonic()
    while not (seen := observer.look()).over and seen.progress < until:
        time.sleep(LOOK_S)
    return seen, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--functions", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--schedule", default="bsp")
    chosen = parser.parse_args()
    job = f"{Path(__file__).resolve().parents[1] / 'examples' / 'digits.py'}:Digits"
    with tempfile.TemporaryDirectory() as folder:
        given = [f"--{name}={getattr(chosen, name)}" for name in ("workers", "functions", "steps", "schedule")]
        place = ["--store", f"file://{folder}/run?latency=s3-standard", "--set", "hidden=64"]
        command = [sys.executable, "-m", "lambdaml.cli", "train", job, *given, *place]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as training:
            first = None
            while first is None:
                try:
                    first = Observer(f"file://{folder}/run")
                except RunNotFound:
                    time.sleep(0.1)
            _, half_s = watched(first, 0.5)
            late = Observer(f"file://{folder}/run")
            began, views = time.monotonic(), {"from the beginning": first, "from the middle": late}
            while {each.look().over for each in views.values()} != {True}:
                time.sleep(LOOK_S)
            seconds = time.monotonic() - began
            taken = {name: each.asked.total for name, each in views.items()}
            training.wait()
        run = RunReader(f"file://{folder}/run")
        requests = sum(each.reading.total for each in run.usage())
    print(f"{chosen.workers} workers on {chosen.functions} functions: {requests:,} requests of the run")
    for name, count in taken.items():
        lasted_s = seconds + (half_s if name == "from the beginning" else 0)
        print(
            f"{name}: {count} requests in {lasted_s:.0f} s: {count / requests:.2%} of the run's, {count / lasted_s:.2f} a second"
        )


if __name__ == "__main__":
    main()

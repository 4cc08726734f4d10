"""Compare a BSP round with its floor, and count the requests that it takes.

    python benchmarks/rounds.py

Four functions with one worker each exchange gradients of 1 MB through a store with 40 ms per request and 65 MB/s per
connection. The floor of a round is one put and then the gets, all at once: twice 40 ms + 1 MB / 65 MB/s. A round may
take at most 1.25 times that. Requests are counted by the functions' meters between two moments of the same run: N puts
of updates and N(N-1) gets, at most one put for the log, at most one 404 for every two updates awaited, no list and no
delete.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median

import lambdaml

SPEC = f"{Path(__file__).parent / 'jobs.py'}:Payload"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--floats", type=int, default=250_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--latency", default="40ms")
    parser.add_argument("--bandwidth", default="65MB/s")
    parser.add_argument("--schedule", default="bsp")
    options = parser.parse_args()

    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        url = f"file://{folder}/run?latency={options.latency}&bandwidth={options.bandwidth}"
        result = lambdaml.train(
            SPEC,
            url,
            workers=options.workers,
            functions=options.workers,
            schedule=options.schedule,
            steps=options.steps,
            snapshot_every=10**6,
            args={"floats": options.floats},
        )
        run = lambdaml.Run(f"file://{folder}/run")
        rows, numerics = run.trace(), run.settings.numerics
        half = [row for row in rows if row["seq"] >= options.steps // 10]
        for worker in range(options.workers):
            mine = [row for row in half if row["worker"] == worker]
            times += [row["applied_s"] - row["started_s"] for row in mine if "applied_s" in row]
    n = options.workers
    latency, bandwidth = float(options.latency[:-2]) / 1e3, float(options.bandwidth[:-4]) * 1e6
    floor = 2 * (latency + 4 * options.floats / bandwidth)
    gets, polls = (sum(row.get(key, 0) for row in half) for key in ("gets", "polls"))
    rounds = len(half) / n
    print(f"functions {numerics}")
    print(f"{n} workers, {4 * options.floats / 1e6:.2f} MB, {options.latency} a request, {options.bandwidth}")
    print(f"round: median {median(times) * 1e3:.1f} ms, floor {floor * 1e3:.1f} ms, ratio {median(times) / floor:.3f}")
    phases = Counter(
        {
            key: sum(row.get(key, 0.0) for row in half) / len(half) * 1e3
            for key in ("compute_s", "encode_s", "upload_s", "wait_s", "download_s", "apply_s")
        }
    )
    print("phases, mean ms: " + ", ".join(f"{name[:-2]} {ms:.1f}" for name, ms in phases.items()))
    print(
        f"per round: {n} update puts, {gets / rounds:.2f} gets ({n * (n - 1)} needed), {polls / rounds:.2f} polls "
        f"({polls / max(1, gets):.3f} per awaited update, 0.5 allowed)"
    )
    print("whole run:", json.dumps(result.requests), f"staleness {result.staleness.mean:.2f}, {result.seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main())

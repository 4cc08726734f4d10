"""Rounds in which few of many clients take part: what they learn, and that time and memory do not grow with the clients.

    python benchmarks/cohorts.py              # 5,000 and 50,000 clients, 100 rounds of 10
    python benchmarks/cohorts.py --digits     # federated averaging of the digits: 100 clients of two shards, 10 a round

For the first, a fresh process trains with the engine `local` and two functions, on a store in this machine's file system.
Its seconds are those from its first line to its last, all its processes included; its memory is the sum of the peaks of
the process that starts the run and of the functions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET, ROUNDS, COHORT = 0.90, 100, 10


def train(clients: int) -> None:
    """Train on this many clients, and print seconds, memory and accuracy."""
    begin = time.monotonic()
    import lambdaml

    with tempfile.TemporaryDirectory() as folder:
        done = lambdaml.train(
            f"{HERE / 'jobs.py'}:Clients",
            f"file://{folder}/run",
            args={"clients": clients},
            workers=clients,
            schedule=f"cohort:{COHORT}",
            algorithm="local:epochs=1",
            steps=ROUNDS,
            functions=2,
            snapshot_every=ROUNDS // 2,
        )
        memory = sum(each.memory_bytes for each in lambdaml.Run(done.run).usage())
    took_s = time.monotonic() - begin
    print(
        json.dumps(
            {"seconds": took_s, "bytes": memory, "accuracy": done.metrics["accuracy"], "requests": done.requests}
        )
    )


def scale(counts: list[int], tries: int) -> None:
    """Print the seconds and the memory for each number of clients: the least of several tries, taken in turn."""
    best: dict[int, dict[str, float]] = {}
    for _ in range(tries):
        for clients in counts:
            command = [sys.executable, __file__, "--only", str(clients)]
            found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
            old = best.setdefault(clients, found)
            best[clients] = found | {name: min(old[name], found[name]) for name in ("seconds", "bytes")}
    for clients, found in best.items():
        requests = sum(found["requests"].values())  # type: ignore[attr-defined]
        print(
            f"{clients:>7,} clients: {found['seconds']:.2f} s, {found['bytes'] / 1e6:.0f} MB, {requests} requests, "
            f"accuracy {found['accuracy']:.3f}"
        )
    first, last = best[counts[0]], best[counts[-1]]
    print(f"from {counts[0]:,} to {counts[-1]:,} clients: time x {last['seconds'] / first['seconds']:.3f}, ", end="")
    print(f"memory x {last['bytes'] / first['bytes']:.3f}")


def digits(seeds: int) -> None:
    """Print the round at which federated averaging of the digits first has the target accuracy, for several seeds."""
    import lambdaml

    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            done = lambdaml.train(
                f"{HERE.parent / 'examples' / 'digits.py'}:Digits",
                f"file://{folder}/run",
                workers=100,
                schedule="cohort:10",
                partition="shards:2",
                algorithm="local:epochs=5",
                batch_size=10,
                seed=seed,
                steps=200,
                snapshot_every=5,
            )
            metrics = lambdaml.Run(done.run).metrics()
        reached = next((version for version in sorted(metrics) if metrics[version]["accuracy"] >= TARGET), None)
        best = max(each["accuracy"] for each in metrics.values())
        print(
            f"seed {seed}: accuracy {TARGET} at round {reached}, best {best:.3f}, last {done.metrics['accuracy']:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[5000, 50_000])
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        train(asked.only)
    elif asked.digits:
        digits(asked.seeds)
    else:
        scale(asked.clients, asked.tries)


if __name__ == "__main__":
    main()

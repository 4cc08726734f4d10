"""Compare simulated with live runs: the same runs in the virtual world and on this machine.

    python benchmarks/truth.py

Twelve runs of four processes use a directory store made as slow as a cloud's. A gradient takes 30 ms (asleep, so that
four processes do not compete for two cores). The simulation knows the store's latency model and the job's costs as
measured beforehand, and nothing of the live run. As medians over the runs, the time of an update and the mean staleness
must be within 10 %, and requests within 5 %.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import lambdaml
from lambdaml.options import RunOptions
from lambdaml.simulation import simulate
from lambdaml.simulation.costs import measure_costs
from lambdaml.training.asked import resolve_job, settings_for
from lambdaml.training.one_thread import OneThread

sys.path.insert(0, str(Path(__file__).parent))

JOB = f"{Path(__file__).parent / 'jobs.py'}:Asleep"
SCHEDULES = ("bsp", "asp", "ssp:2", "quorum:3")
STORES = ("15ms", "40ms", "s3-standard")
WORKERS, WARM_COMMITS = 4, 5
KINDS = ("get", "get_miss", "create", "create_lost", "put", "list", "head")


def facts(rows: Sequence[dict[str, Any]], requests: dict[str, int]) -> dict[str, float]:
    """Return the facts to compare: time of an update once the run is under way, staleness, requests."""
    moments = sorted({(row["commit"], row["committed_s"]) for row in rows})
    first, last = moments[WARM_COMMITS], moments[-1]
    updates = sum(first[0] < row["commit"] <= last[0] for row in rows)
    stale = sorted(row["staleness"] for row in rows if row["fate"] == "applied")
    return {
        "ms an update": 1e3 * (last[1] - first[1]) / updates,
        "staleness": sum(stale) / len(stale),
        "p95": float(stale[int(0.95 * len(stale))]),
        "requests": float(sum(requests.get(kind, 0) for kind in KINDS)),
    }


def live(schedule: str, store: str, steps: int, folder: str) -> dict[str, float]:
    url = f"file://{folder}/{schedule.replace(':', '-')}-{store}?latency={store}&latency_seed=1"
    options = {"workers": WORKERS, "functions": WORKERS, "steps": steps, "snapshot_every": 10**6}
    lambdaml.train(JOB, url, schedule=schedule, **options)
    run = lambdaml.Run(url.partition("?")[0])
    return facts(run.trace(), dict(run.requests().requests))


def simulated(schedule: str, store: str, steps: int, costs: Any) -> dict[str, float]:
    found: list[Any] = []
    result = simulate(
        workers=WORKERS,
        schedule=schedule,
        steps=steps,
        channel=store,
        platform="local",
        costs=costs,
        snapshot_every=10**6,
        trace=found.append,
    )
    return facts(found[0].rows, result.run.requests)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    job_settings, job = resolve_job(JOB, {})
    settings = settings_for(job, job_settings, RunOptions(workers=WORKERS, steps=steps))
    with OneThread() as compute:
        costs = compute.submit(measure_costs, job, settings).result()
    errors: dict[str, list[float]] = {}
    names = ("ms an update", "staleness", "p95", "requests")
    print(f"{'':24}" + "".join(f"{name:>26}" for name in names) + "\n" + f"{'':24}" + f"{'live  simulated':>26}" * 4)
    with tempfile.TemporaryDirectory() as folder:
        for store in STORES:
            for schedule in SCHEDULES:
                real, model = live(schedule, store, steps, folder), simulated(schedule, store, steps, costs)
                cells = []
                for name in names:
                    off = model[name] / real[name] - 1 if real[name] else 0.0 if not model[name] else 1.0
                    if real[name]:
                        errors.setdefault(name, []).append(abs(off))
                    cells.append(f"{real[name]:10.2f} {model[name]:8.2f} {off:+6.1%}")
                print(f"{schedule:10} {store:13}" + "".join(f"{cell:>26}" for cell in cells), flush=True)
    print("median absolute error: " + ", ".join(f"{name} {median(off):.1%}" for name, off in errors.items()))


if __name__ == "__main__":
    main()

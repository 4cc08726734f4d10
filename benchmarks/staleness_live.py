"""Compare the staleness of real asynchronous workers with the virtual world's, and show where it comes from.

    python benchmarks/staleness_live.py

Eight processes run on a directory store made as slow as a cloud's. A gradient takes `--step` seconds (asleep, so that
they do not compete for two cores). The simulation knows the store's latency model and the job's costs as measured
beforehand, and nothing of the live run. The mean staleness must be within 10 %, and the attribution must sum exactly
for every applied update. Compared are the updates from when every worker has one applied until the first worker is
done, because starts and ends depend on the engine. Processes of one machine share one clock, so the estimated clock
differences can be compared with the truth, which is 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import lambdaml
from lambdaml.options import RunOptions
from lambdaml.simulation import Costs, simulate
from lambdaml.simulation.costs import measure_costs
from lambdaml.traces import Trace
from lambdaml.traces.attribution import PHASES, Explained, explain
from lambdaml.training.asked import resolve_job, settings_for
from lambdaml.training.one_thread import OneThread

JOB = f"{Path(__file__).parent / 'jobs.py'}:Asleep"
NEEDED = 0.10


@dataclass(frozen=True)
class Found:
    """The facts about a trace's steady part, and whether every update is attributed and adds up."""

    steady: Explained
    exact: bool
    updates: int


def steady(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the applied updates from when every worker has had one until one has had its last."""
    applied = [row for row in rows if row["fate"] == "applied"]
    workers = {row["worker"] for row in applied}
    first = max(min(row["version"] for row in applied if row["worker"] == worker) for worker in workers)
    last = min(max(row["version"] for row in applied if row["worker"] == worker) for worker in workers)
    return [row for row in applied if first < row["version"] <= last]


def found_in(trace: Trace) -> Found:
    applied = [row for row in trace.rows if row["fate"] == "applied"]
    exact = all(
        row["tau_wait"] is not None and sum(row[f"tau_{phase}"] for phase in PHASES) == row["staleness"]
        for row in applied
    )
    return Found(explain(steady(trace.rows)), exact, len(applied))


def live(schedule: str, store: str, workers: int, steps: int, step_s: float, folder: str) -> Found:
    """Train with one process for each worker, and analyse the trace."""
    place = f"file://{folder}/{schedule.replace(':', '-')}-{store}"
    options: dict[str, Any] = {"workers": workers, "functions": workers, "steps": steps, "snapshot_every": 10**6}
    lambdaml.train(JOB, f"{place}?latency={store}", schedule=schedule, args={"seconds": step_s}, **options)
    return found_in(Trace.of(lambdaml.Run(place)))


def simulated(schedule: str, store: str, workers: int, steps: int, costs: Costs) -> Found:
    """Simulate the same run in the virtual world."""
    traces: list[Trace] = []
    options: dict[str, Any] = {"platform": "local", "costs": costs, "snapshot_every": 10**6, "trace": traces.append}
    simulate(workers=workers, schedule=schedule, steps=steps, channel=store, **options)
    return found_in(traces[0])


def costs_of(workers: int, step_s: float) -> Costs:
    """Measure the costs of the job here and now."""
    job_settings, job = resolve_job(JOB, {"seconds": step_s})
    settings = settings_for(job, job_settings, RunOptions(workers=workers, steps=10))
    with OneThread() as compute:
        return compute.submit(measure_costs, job, settings).result()


def line(name: str, found: Found) -> str:
    """Format one row of the table."""
    explained = found.steady
    split = [getattr(explained.split, phase) if explained.split else float("nan") for phase in PHASES]
    numbers = [explained.staleness.mean, *split, explained.staleness.p95]
    numbers += [1e3 * explained.ages_s["mean"] if explained.ages_s else float("nan"), 1e3 * (explained.clock_s or 0.0)]
    text = "".join(f"{number:9.2f}" for number in numbers)
    return f"  {name:10}{text}{explained.uncertain or 0.0:9.0%}{'exact' if found.exact else 'NOT EXACT':>11}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--step", type=float, default=0.1, help="seconds a gradient takes")
    parser.add_argument("--schedules", nargs="+", default=["asp", "ssp:3"])
    parser.add_argument("--stores", nargs="+", default=["15ms", "40ms", "s3-standard"])
    options = parser.parse_args()
    costs = costs_of(options.workers, options.step)
    headings = ("tau", *PHASES, "p95", "age ms", "clock ms", "unsure")
    print(f"{options.workers} workers, {options.steps} steps, a gradient of {options.step} s")
    print(f"{'':12}" + "".join(f"{heading:>9}" for heading in headings))
    off: list[float] = []
    exact = True
    with tempfile.TemporaryDirectory() as folder:
        for store in options.stores:
            for schedule in options.schedules:
                real = live(schedule, store, options.workers, options.steps, options.step, folder)
                model = simulated(schedule, store, options.workers, options.steps, costs)
                off.append(model.steady.staleness.mean / real.steady.staleness.mean - 1)
                exact = exact and real.exact and model.exact
                print(f"{schedule}, {store}: {off[-1]:+.1%}")
                print(line("live", real))
                print(line("simulated", model), flush=True)
    print(f"tau: off by {fmean(map(abs, off)):.1%} on the mean, {max(map(abs, off)):.1%} at most; sums exact: {exact}")
    return 0 if exact and max(map(abs, off)) <= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main())

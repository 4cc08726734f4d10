"""Measure the batches to target of every staleness rule, along the same recorded traces.

    python benchmarks/rules.py [--quick] [--svg docs/concepts/rules.svg]

Three runs of `asp` with 8 workers on S3's latency are simulated and their traces kept: equal workers, one that is ten
times slower, and functions that live for only some seconds. Each trace is cut where its first worker is done. Along
each, examples/digits.py is trained with real gradients under every rule: the updates and the versions read are the
same, and only weights or gradients differ. The step size of each rule is the best of a few, found with a separate seed;
then several seeds are measured. A batch is an update that got its fate, used or not. "-" means that a seed did not
reach the target.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lambdaml
from lambdaml.pages.charts import Axis, Chart, point_chart
from lambdaml.pages.figures import figure
from lambdaml.simulation.platform import lambda_arm
from lambdaml.simulation.stub_replica import Costs
from lambdaml.traces import Trace

JOB = f"{Path(__file__).parents[1] / 'examples' / 'digits.py'}:Digits"
WORKERS, TARGET, EVALUATE_EVERY, TUNING_SEED = 8, 0.93, 4, 1000
COSTS = Costs(
    step_s=0.1, encode_s=0.001, apply_s=0.001, apply_update_s=0.0002, update_bytes=40_000, snapshot_bytes=80_000
)

TRACES = {
    "equal workers": {},
    "one 10x slower": {"stragglers": "slow:1,10"},
    "lives of 8 s": {"platform": lambda_arm(lifetime_s=8.0)},
}
RULES = (
    *("constant", "inverse", "sqrt", "polynomial:0.25", "hinge:a=1,b=7", "exponential:percentile=95"),
    *("exponential:percentile=95,boost=all", "adaptive", "discard:16", "ringmaster:decay=0.25", "dc:0.04", "dc-a:0.5"),
    *("ringleader", "nesterov:0.5"),
)
RATES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


def record(options: dict[str, object], steps: int) -> Trace:
    """Return the trace of a simulated run, up to where its first worker is done."""
    found: list[Trace] = []
    lambdaml.simulate(JOB, workers=WORKERS, schedule="asp", steps=steps, costs=COSTS, trace=found.append, **options)
    (trace,) = found
    last = next(row["commit"] for row in trace.rows if row["seq"] == steps - 1)
    rows = [row for row in trace.rows if row["commit"] <= last]
    return Trace(rows, trace.meta | {"commits": last + 1, "stop": None})


def batches(trace: Trace, rule: str, rate: float, seed: int) -> float:
    """Return the updates with a fate until the target is met, or infinity if it never is."""
    replay = lambdaml.replay_trace(
        trace, JOB, args={"lr": rate}, staleness=rule, seed=seed, evaluate_every=EVALUATE_EVERY
    )
    met = [version for version, metrics in replay.metrics.items() if metrics["accuracy"] >= TARGET]
    if not met:
        return math.inf
    rows = replay.trace.rows
    last = next(row["commit"] for row in rows if row["version"] == min(met))
    return sum(row["commit"] <= last for row in rows)


def measure(trace: Trace, rule: str, rates: Sequence[float], seeds: int) -> tuple[float, list[float]]:
    """Return the best step size, and the batches of each seed with it."""
    best = min(rates, key=lambda rate: batches(trace, rule, rate, TUNING_SEED))
    return best, [batches(trace, rule, best, seed) for seed in range(seeds)]


def cell(rate: float, counts: list[float]) -> str:
    if math.inf in counts:
        return f"- ({sum(map(math.isfinite, counts))} of {len(counts)} seeds), lr {rate:g}"
    spread = stdev(counts) if len(counts) > 1 else 0.0
    return f"{mean(counts):.0f} ± {spread:.0f}, lr {rate:g}"


def panel(name: str, found: Mapping[str, Sequence[float]]) -> Chart:
    """Return the chart of one trace, with a row for each rule: each seed is a circle, and their mean a bar."""
    rows: list[dict[str, Any]] = []
    for rule, counts in found.items():
        met = [count for count in counts if count < math.inf]
        label = rule if len(met) == len(counts) else f"{rule} ({len(counts) - len(met)} of {len(counts)} never)"
        rows += [{"rule": label, "batches": count, "kind": "a seed"} for count in met]
        rows += [{"rule": label, "batches": mean(met), "kind": "mean"}] if len(met) == len(counts) else []
    looks = {"a seed": ("var(--series-1)", "circle", 30), "mean": ("var(--series-2)", "diamond", 70)}
    title = f"{name}: batches to {TARGET:.0%}"
    axes = Axis("batches", "batches", zero=True), Axis("rule", "", kind="names")
    return point_chart(
        title, title, rows, *axes, "kind", looks, {"rule": "rule", "batches": "batches"}, height=20 * len(found)
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few rules, step sizes and seeds, to try it")
    parser.add_argument("--svg", type=Path, help="write the figure there")
    options = parser.parse_args()
    rules, rates, seeds, steps = RULES, RATES, 5, 100
    if options.quick:
        rules, rates, seeds, steps = ("constant", "inverse", "ringleader"), (0.2, 0.8), 2, 40
    traces = {name: record(more, steps) for name, more in TRACES.items()}
    for name, trace in traces.items():
        stale = trace.staleness
        print(f"{name}: {len(trace.rows)} updates, staleness mean {stale.mean:.1f} p95 {stale.p95:.0f} max {stale.max}")
    print(f"\nBatches to {TARGET:.0%}, mean ± standard deviation over {seeds} seeds, with the best step size:\n")
    print("| rule | " + " | ".join(traces) + " |\n|---|" + "---|" * len(traces), flush=True)
    results: dict[str, dict[str, list[float]]] = {name: {} for name in traces}
    for rule in rules:
        cells = []
        for name, trace in traces.items():
            rate, results[name][rule] = measure(trace, rule, rates, seeds)
            cells.append(cell(rate, results[name][rule]))
        print(f"| `{rule}` | " + " | ".join(cells) + " |", flush=True)
    if options.svg:
        charts = [panel(name, found) for name, found in results.items()]
        options.svg.write_text(figure(charts, width=260, columns=len(charts)))


if __name__ == "__main__":
    main()

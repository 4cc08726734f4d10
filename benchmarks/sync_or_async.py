"""Sync or async: is the planner right? Worlds of worker speeds x storage latency x model depth, with real gradients.

    python benchmarks/sync_or_async.py

In each world eight workers train digits to a loss on the test set. The truth: every schedule is timed in the virtual
world, request by request, and real gradients are computed along that trace until the target is met; its time is the
median over seeds. The planner knows a profile (pilots on this machine, one for each depth) and the world's latency
and stragglers, and chooses by `minimise="time"`. Its regret is the truth of its choice over the truth of the best.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambdaml.traces import Trace

sys.path.insert(0, str(Path(__file__).parent))

WORKERS = 8
STEP_S = 0.05
SPREADS = ("none", "lognormal:0.5", "slow:7,4")
LATENCIES = ("5ms", "40ms", "200ms")
DEPTHS = (0, 2, 4)
SCHEDULES = ("bsp", "asp", "ssp:3", "quorum:4", "quorum:7", "quorum:4,late=weight")
TARGET = "loss<=0.25"
SEEDS, SYNC_SEEDS, DEEP_SEEDS = range(11, 16), range(11, 14), range(11, 20)
"""By default; of schedules without stale updates, which scatter little; of stale updates at depth 4, which scatter by a
factor of two."""

LONGEST = 1600
"""Optimizer steps after which a schedule is taken never to reach the target."""

ALLOWED = 1.10


@cache
def profile(depth: int):  # type: ignore[no-untyped-def]
    """What the planner knows of the job."""
    from _profiles import quick_profile  # type: ignore[import-not-found]

    from lambdaml.cost.pilot import default_plan

    return quick_profile(_job(), TARGET, {"depth": depth}, default_plan(WORKERS), step_s=STEP_S)


def _job() -> str:
    return f"{Path(__file__).parent / 'deep.py'}:Deep"


def truth(spread: str, latency: str, schedule: str) -> dict[int, float]:
    """Seconds to the target by depth; infinite where half of the seeds never meet it."""
    import torch

    from lambdaml.traces.replay import replay_trace

    torch.set_num_threads(1)
    times: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    bound = float(TARGET.partition("<=")[2])
    trace = _trace(spread, latency, schedule)
    moments = {row["version"]: row["committed_s"] for row in trace.rows if row["fate"] == "applied"}
    start = min(row["started_s"] for row in trace.rows if row["started_s"] is not None)
    stale = any(row["staleness"] for row in trace.rows if row["fate"] == "applied")
    todo = [(d, seed) for d in DEPTHS for seed in ((DEEP_SEEDS if d == 4 else SEEDS) if stale else SYNC_SEEDS)]
    for depth, seed in todo:
        met: list[int] = []
        for part in (_until(trace, 250), trace):
            replay = replay_trace(part, _job(), args={"depth": depth}, seed=seed, evaluate_every=4)
            met = [version for version, metrics in sorted(replay.metrics.items()) if metrics["loss"] <= bound]
            if met:
                break
        times[depth].append(moments[met[0]] - start if met else math.inf)
    return {depth: median(found) for depth, found in times.items()}


def _until(trace: Trace, version: int) -> Trace:
    """Its beginning, which often is enough."""
    from lambdaml.traces import Trace

    last = max(row["commit"] for row in trace.rows if row["version"] is not None and row["version"] <= version)
    return Trace(
        [row for row in trace.rows if row["commit"] <= last], {**trace.meta, "commits": last + 1, "stop": None}
    )


def _trace(spread: str, latency: str, schedule: str) -> Trace:
    """Of a run of this world, simulated request by request."""
    from lambdaml.simulation import simulate
    from lambdaml.traces import Trace

    group = int(schedule.partition(":")[2].partition(",")[0]) if schedule.startswith("quorum") else 1
    updates = WORKERS * 260 if schedule == "bsp" else LONGEST if group == 1 else max(LONGEST, 500 * group)
    traces: list[Trace] = []
    simulate(
        workers=WORKERS,
        schedule=schedule,
        updates=updates,
        channel=latency,
        platform="local",
        stragglers=spread,
        costs=profile(DEPTHS[0]).costs(),
        snapshot_every=10**6,
        trace=traces.append,
    )
    return Trace(traces[0].rows, {**traces[0].meta, "settings": None})


def planned(spread: str, latency: str, depth: int) -> str:
    """The planner's schedule."""
    from lambdaml.cost.candidates import Space
    from lambdaml.cost.plan import Wishes, make_plan

    space = Space(
        workers=(WORKERS, WORKERS),
        schedules=SCHEDULES,
        batch_sizes=(32,),
        codecs=("fp32",),
        channels=(latency,),
        platforms=("local",),
    )
    wishes = Wishes(target=TARGET, minimise="time", space=space, stragglers=spread, snapshot_every=1)
    plan = make_plan(profile(depth), wishes, processes=1)
    best = plan.choice
    return best.candidate.schedule if best else ""


def worlds() -> Iterator[tuple[str, str]]:
    yield from product(SPREADS, LATENCIES)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    todo = [(spread, latency, schedule) for spread, latency in worlds() for schedule in SCHEDULES]
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        found = list(pool.map(truth, *zip(*todo, strict=True)))
    times = {
        (*world, depth): seconds
        for world, by_depth in zip(todo, found, strict=True)
        for depth, seconds in by_depth.items()
    }
    print(f"{'world':32}{'best':>22}{'planned':>22}{'regret':>9}")
    regrets = []
    for (spread, latency), depth in product(worlds(), DEPTHS):
        truths = {schedule: times[spread, latency, schedule, depth] for schedule in SCHEDULES}
        best = min(truths, key=truths.__getitem__)
        choice = planned(spread, latency, depth)
        regret = truths[choice] / truths[best] if choice else math.inf
        regrets.append(regret)
        name = f"{spread}, {latency}, {depth} hidden"
        print(
            f"{name:32}{f'{best} {truths[best]:.1f} s':>22}{choice:>22}{regret - 1:>9.1%}",
            "" if regret <= ALLOWED else "<-",
            flush=True,
        )
        if regret > ALLOWED:
            print("    " + ", ".join(f"{schedule} {seconds:.1f}" for schedule, seconds in truths.items()))
    good = sum(regret <= ALLOWED for regret in regrets)
    print(f"within 10 %: {good} of {len(regrets)} worlds, {good / len(regrets):.0%} (needed: 90 %)")


if __name__ == "__main__":
    main()

"""Measure how fast runs are simulated, beside a bare simpy model of the same size.

    python benchmarks/simulation.py

The simpy model has no protocol at all: each worker is a process with two timeouts an update, its computation and its
request. `Flow` makes the commits that the real schedules make, with fates and staleness of every update, and counts
all requests. `VirtualRun` executes the functions' own code. One core each; every figure is the best of some runs.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import simpy

from lambdaml.settings import JobSettings, Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.flow import Flow
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs

# S3's latencies lack its limits here: at 5,500 reads a second, a thousand functions could read five updates a second.
S3 = "s3-standard:reads_per_s=1000000000"
STEP_S, REQUEST_S = 0.1, 0.05


def bare_simpy(workers: int, updates: int) -> None:
    """Simulate two timeouts for each update, and count."""
    environment, chance = simpy.Environment(), random.Random(1)
    done, made = environment.event(), 0

    def work() -> object:
        nonlocal made
        while True:
            yield environment.timeout(STEP_S * (0.5 + chance.random()))
            yield environment.timeout(REQUEST_S * (0.5 + chance.random()))
            made += 1
            if made == updates:
                done.succeed()

    for _ in range(workers):
        environment.process(work())  # type: ignore[arg-type]
    environment.run(done)


def settings_for(schedule: str, workers: int, steps: int) -> Settings:
    return Settings(
        job=JobSettings(spec="benchmark"),
        workers=workers,
        steps=steps,
        schedule=schedule,
        batch_size=1,
        samples=4 * workers,
        steps_per_epoch=4,
        parameters=1,
        snapshot_every=100,
        token="benchmark",
    )


def flow(schedule: str, workers: int, updates: int) -> None:
    settings, platform = settings_for(schedule, workers, 1), Platform.parse("local")
    run = Flow(settings, workers, Costs(STEP_S), Channel.parse(S3), platform).run(updates)
    assert run.updates >= updates


def virtual(schedule: str, workers: int, updates: int) -> None:
    settings, platform = settings_for(schedule, workers, updates // workers), Platform.parse("local")
    assert VirtualRun(settings, workers, Costs(STEP_S), Channel.parse(S3), platform).run()


def measure(name: str, simulate: Callable[[], None], updates: int, times: int) -> None:
    seconds = []
    for _ in range(times):
        begin = time.process_time()
        simulate()
        seconds.append(time.process_time() - begin)
    print(f"{name:28} {updates:9,} {min(seconds):8.2f} {updates / min(seconds):10,.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    workers, updates, times = options.workers, options.updates, options.times
    print(f"{workers} workers, a function each")
    print(f"{'':28} {'updates':>9} {'seconds':>8} {'updates/s':>10}")
    measure("simpy, two timeouts", lambda: bare_simpy(workers, updates), updates, times)
    for schedule in ("asp", "ssp:2", f"quorum:{workers * 9 // 10}"):
        measure(f"Flow, {schedule}", lambda schedule=schedule: flow(schedule, workers, updates), updates, times)  # type: ignore[misc]
    measure("Flow, bsp", lambda: flow("bsp", workers, 1000 * workers), 1000 * workers, 1)
    for schedule in ("asp", "bsp"):
        measure(f"Flow, {schedule}, 16 workers", lambda s=schedule: flow(s, 16, 10_000), 10_000, times)  # type: ignore[misc]
        measure(f"VirtualRun, {schedule}, 16 workers", lambda s=schedule: virtual(s, 16, 800), 800, 1)  # type: ignore[misc]


if __name__ == "__main__":
    main()

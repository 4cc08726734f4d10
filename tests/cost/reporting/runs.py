"""Runs of the virtual world that leave behind what a real one does: a log, a trace, and the usage of each function."""

from __future__ import annotations

from typing import Any

from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.log.usage import Usage
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stragglers import STRAGGLERS
from lambdaml.simulation.stub_replica import Costs
from tests.lambdaml.simulation.scenes import settings_for

HEALTHY = Platform("healthy", cold_start_s=(0.2, 0.2))


def recorded_run(
    workers: int = 4,
    steps: int = 12,
    *,
    schedule: str = "bsp",
    channel: str = "s3-express",
    platform: Platform = HEALTHY,
    stragglers: str = "none",
    step_s: float = 0.1,
    update_bytes: int = 100_000,
    **settings: Any,
) -> RunReader:
    """Return a run with a function for each worker, which has ended."""
    asked = settings_for(schedule, workers, steps, **settings)
    costs = Costs(step_s, encode_s=0.001, apply_s=0.001, update_bytes=update_bytes, snapshot_bytes=2 * update_bytes)
    place = Channel.parse(channel), platform, STRAGGLERS.make(stragglers)
    virtual = VirtualRun(asked, workers, costs, *place)
    virtual.run()
    run = virtual.run_of()
    for life in virtual.lives:
        lasted_s = (life.ended_s or virtual.kernel.now) - life.started_s
        usage = Usage(life.name, lasted_s, 0, life.world.store.meter.snapshot(), True, "lambda-arm:1769")
        run.store.create(keys.usage(life.name), usage.dump())
    return run

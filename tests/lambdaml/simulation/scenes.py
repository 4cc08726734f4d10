"""One run, simulated exactly (`VirtualRun`) or fast (`Flow`), and what both must agree on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from lambdaml.log.summary import Staleness
from lambdaml.settings import JobSettings, Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.flow import Flow
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs


@dataclass(frozen=True)
class Outcome:
    seconds: float
    updates: int
    staleness: float
    most_stale: int
    requests: dict[str, int]
    errors: dict[str, int]
    received: int
    busy_s: float


def settings_for(schedule: str, workers: int, steps: int, **options: Any) -> Settings:
    return Settings(
        job=JobSettings(spec="test"),
        workers=workers,
        steps=steps,
        schedule=schedule,
        batch_size=8,
        samples=32 * workers,
        steps_per_epoch=4,
        parameters=1,
        snapshot_every=20,
        token="t",
        **options,
    )


def scene(
    schedule: str,
    workers: int,
    steps: int,
    *,
    functions: int | None = None,
    channel: str = "s3-express",
    platform: str = "local",
    step_s: float = 0.1,
    costs: dict[str, Any] | None = None,
    kind: Any = Flow,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A `Flow` or a `VirtualRun`, ready to run."""
    return kind(
        settings_for(schedule, workers, steps, **(settings or {})),
        functions or workers,
        Costs(step_s, **(costs or {})),
        Channel.parse(channel),
        Platform.parse(platform),
        **options,
    )


def fast(**options: Any) -> Outcome:
    run = scene(**options).run()
    stale = run.staleness
    return Outcome(
        run.seconds, run.updates, stale.mean, stale.max, run.requests, run.errors, run.bytes_received, run.busy_s
    )


def exact(**options: Any) -> Outcome:
    virtual = scene(**options, kind=VirtualRun)
    assert virtual.run()
    entries = [entry for commit in virtual.log() for entry in commit.entries]
    stale = Staleness.of([entry.staleness for entry in entries if entry.fate == "applied"])
    readings = [life.world.store.meter.snapshot() for life in virtual.lives]
    requests: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for reading in readings:
        requests.update(reading.requests)
        errors.update(reading.errors)
    return Outcome(
        seconds=virtual.kernel.now,
        updates=len(entries),
        staleness=stale.mean,
        most_stale=stale.max,
        requests=dict(requests),
        errors=dict(errors),
        received=sum(reading.bytes_received for reading in readings),
        busy_s=sum(life.world.busy_s for life in virtual.lives),
    )

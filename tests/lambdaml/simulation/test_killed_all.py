"""All functions of a run are killed at once and nobody is told, as when the process that started them is: others go on."""

from __future__ import annotations

from typing import Any

import pytest

from lambdaml.settings import JobSettings, Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import FaultPlan, VirtualRun
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs

LEASE_S, KILLED_S = 30.0, 40.0
WORKERS, FUNCTIONS, STEPS = 4, 2, 60


def killed_and_gone_on_with(schedule: str, restart_s: float, seed: int) -> list[tuple[float, dict[str, Any]]]:
    """The events of a run whose functions are all killed; the next ones are started so many seconds later."""
    events: list[tuple[float, dict[str, Any]]] = []
    settings = Settings(
        job=JobSettings(spec="shadow"),
        workers=WORKERS,
        steps=STEPS,
        schedule=schedule,
        batch_size=8,
        samples=8 * WORKERS * STEPS,
        steps_per_epoch=STEPS,
        parameters=1,
        snapshot_every=50,
        lease_s=LEASE_S,
        token="shadow",
    )
    virtual = VirtualRun(
        settings,
        FUNCTIONS,
        Costs(step_s=1.0, apply_s=0.001),
        Channel.parse("s3-express"),
        Platform.parse("local"),
        seed=seed,
        fault_plan=lambda virtual, name, index: FaultPlan(restart_s=restart_s),
        trace=lambda now, event: events.append((now, event)),
    )

    def kill() -> None:
        for life in list(virtual.lives):
            life.world.group.kill()

    virtual.kernel.at(KILLED_S, kill)
    assert virtual.run(2000.0)
    return events


@pytest.mark.parametrize("restart_s", [0.1, 12.0, 29.0, 31.0])
@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_others_are_at_work_as_soon_as_the_leases_have_run_out_and_nobody_swaps_workers(
    schedule: str, restart_s: float
) -> None:
    for seed in range(2):
        events = killed_and_gone_on_with(schedule, restart_s, seed)
        assert sum(event.event == "ended" and event.outcome == "killed" for _, event in events) == FUNCTIONS
        commits = [now for now, event in events if event.event == "commit"]
        assert commits[0] < KILLED_S
        again_s = next(now for now in commits if now > KILLED_S) - KILLED_S
        assert again_s < max(LEASE_S, restart_s) + 6, "that much is for dates, looking and starting"
        takeovers = {(event.worker, event.function[:2]) for _, event in events if event.event == "takeover"}
        assert takeovers <= {(worker, f"f{worker % FUNCTIONS}") for worker in range(WORKERS)}
        if restart_s < LEASE_S:
            assert sum(event.event == "takeover" for _, event in events) == WORKERS

"""A run ends soon after the first snapshot that meets its target, however quick its steps and slow its evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from lambdaml.log import keys
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import FaultPlan, VirtualRun
from lambdaml.simulation.evaluations import VirtualEvaluations
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from lambdaml.worker.stop_watcher import LEAD, STOP_POLL_S
from tests.lambdaml.simulation.scenes import settings_for

WORKERS = 4


def ran(
    schedule: str, *, every: int, evaluation_s: float, meets: int = 10**9, step_s: float = 0.01, **options: Any
) -> VirtualRun:
    """A run of at most 400 updates of each worker, whose snapshots meet its target from version `meets` on."""
    settings = settings_for(schedule, WORKERS, 400).model_copy(
        update={"target": options.pop("target", "accuracy>=1"), "snapshot_every": every}
    )
    evaluations = VirtualEvaluations(evaluation_s, lambda version: version >= meets)
    costs, channel, platform = Costs(step_s, apply_s=0.0001), Channel.parse("2ms"), Platform.parse("local")
    virtual = VirtualRun(settings, 2, costs, channel, platform, trace=evaluations.take, **options)
    if settings.target is not None and evaluation_s < 1e6:
        evaluations.attend(virtual)
    assert virtual.run(10_000)
    return virtual


def end_and_result(virtual: VirtualRun) -> tuple[int, int]:
    last = virtual.log()[-1]
    assert last.stop is not None and last.stop.reason == "target" and last.stop.version is not None
    return last.last_version, last.stop.version


@pytest.mark.parametrize("schedule", ["bsp", "asp", "quorum:3", "ssp:2"])
@pytest.mark.parametrize(("every", "evaluation_s"), [(1, 0.001), (4, 0.1), (1, 3.0)])
def test_a_run_ends_a_few_snapshots_after_its_target(schedule: str, every: int, evaluation_s: float) -> None:
    steps = every * (WORKERS if schedule in ("asp", "ssp:2") else 1)  # of a snapshot
    end, first = end_and_result(ran(schedule, every=every, evaluation_s=evaluation_s, meets=8 * steps))
    assert 8 * steps <= first <= 10 * steps
    assert end - first <= (LEAD + 3) * steps


def test_the_stop_is_looked_for_as_often_as_snapshots_come() -> None:
    """Far quicker than the poll alone, which would let hundreds of steps pass."""
    end, first = end_and_result(ran("bsp", every=5, evaluation_s=0.001, meets=40, step_s=0.002))
    assert end - first <= 2 * 5 < STOP_POLL_S / 0.02


def test_a_writer_that_dies_while_the_run_waits_for_an_evaluation_changes_nothing() -> None:
    def fault_plan(virtual: VirtualRun, name: str, index: int) -> FaultPlan:
        return FaultPlan(lifetime_s=4.0 if name == "f0.0" else float("inf"))

    end, first = end_and_result(ran("bsp", every=2, evaluation_s=1.0, meets=30, fault_plan=fault_plan))
    assert first == 30 and end - first <= 2 * (2 * LEAD + 3)


def test_evaluation_never_idles_for_the_wait() -> None:
    """So a run ends no later for it: when the evaluation of the snapshot that meets the target is done."""
    slow_s, every, meets = 0.5, 2, 40
    virtual = ran("bsp", every=every, evaluation_s=slow_s, meets=meets)
    begun_s = virtual.bucket.objects[keys.snapshot(every)][1]
    assert virtual.bucket.objects[keys.STOP][1] - begun_s == pytest.approx(slow_s * meets / every, abs=0.01)


def test_a_run_without_a_target_waits_for_nobody() -> None:
    free, waiting = (ran("bsp", every=1, evaluation_s=0.5, target=target) for target in (None, "accuracy>=1"))
    assert waiting.kernel.now > 0.5 * 390 > 5 * free.kernel.now
    assert [commit.stop.reason for commit in (free.log()[-1], waiting.log()[-1]) if commit.stop] == ["steps"] * 2


def test_a_run_that_nobody_evaluates_ends_all_the_same() -> None:
    virtual = ran("bsp", every=100, evaluation_s=1e9)
    assert virtual.log()[-1].last_version == 400

"""Attribution in the virtual world, where the truth is known: every step that overtook an update has one phase."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.run import Run
from lambdaml.simulation import Costs
from lambdaml.simulation.engine import FaultPlan, VirtualRun
from lambdaml.traces import Trace
from lambdaml.traces.attribution import PHASES, explain
from lambdaml.traces.clocks import Clocks, Offset
from tests.lambdaml.simulation.scenes import scene

Row = dict[str, Any]

JOB = f"{Path(__file__).parents[1] / 'engines' / 'jobs.py'}:Points"
SCHEDULES = ["bsp", "pipeline:1", "ssp:0", "ssp:2", "asp", "quorum:1", "quorum:3", "quorum:2,late=weight"]


def ran(schedule: str = "asp", fault_plan: Callable[..., FaultPlan] = lambda *_: FaultPlan(), **options: Any) -> Run:
    options = {"workers": 4, "steps": 20, "channel": "s3-standard", "costs": {"encode_s": 0.01}, **options}
    virtual = scene(schedule, kind=VirtualRun, fault_plan=fault_plan, **options)
    assert virtual.run()
    return Run(virtual.run_of().store)


def applied(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["fate"] == "applied"]


def adds_up(row: Row) -> bool:
    return sum(row[f"tau_{phase}"] for phase in PHASES) == row["staleness"]


def truth(run: Run, monkeypatch: pytest.MonkeyPatch, skew_s: Callable[[str], float]) -> list[Row]:
    """The trace as one would make it who knew the clocks."""
    with monkeypatch.context() as patched:
        patched.setattr(Clocks, "offset", lambda clocks, name, to: Offset(skew_s(to) - skew_s(name), 0.0))
        return run.trace()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_parts_sum_to_the_staleness_of_every_applied_update(schedule: str) -> None:
    rows = ran(schedule).trace()
    assert applied(rows)
    for row in applied(rows):
        assert adds_up(row), row
        assert all(isinstance(row[f"tau_{phase}"], int) and row[f"tau_{phase}"] >= 0 for phase in PHASES)
        assert 0 <= row["tau_delivery"] <= row["tau_wait"]
        assert 0 <= row["tau_uncertain"] <= row["staleness"]
        assert row["age_s"] >= 0.1
    assert not any("tau_wait" in row for row in rows if row["fate"] != "applied")
    if schedule in ("asp", "pipeline:1", "ssp:2", "quorum:2,late=weight"):
        assert any(row["staleness"] for row in applied(rows))


def skews(name: str) -> float:
    """Of the function's clock: hours, and others for each life."""
    return 3600.0 * (1 + int(name[1])) - 7000.0 * int(name[3])


@pytest.mark.parametrize("functions", [2, 4])
def test_clocks_that_are_hours_apart_leave_no_more_doubt_than_is_said(
    functions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ran(fault_plan=lambda virtual, name, index: FaultPlan(skew_s=skews(name)), functions=functions)
    rows, true = applied(run.trace()), applied(truth(run, monkeypatch, skews))
    assert all(map(adds_up, rows))
    assert 0 < max(row.get("clock_s", 0.0) for row in rows) < 0.1
    for row, known in zip(rows, true, strict=True):
        moved = sum(abs(row[f"tau_{phase}"] - known[f"tau_{phase}"]) for phase in PHASES) // 2
        assert moved <= row["tau_uncertain"]
        assert row["age_s"] == pytest.approx(known["age_s"], abs=1e-4)
    total = sum(row["staleness"] for row in rows)
    for phase in PHASES:
        assert sum(row[f"tau_{phase}"] - known[f"tau_{phase}"] for row, known in zip(rows, true, strict=True)) < (
            0.1 * total
        )


def test_a_log_by_several_writers_is_attributed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions live for 4 s each, and hand on."""
    run = ran(fault_plan=lambda virtual, name, index: FaultPlan(skew_s=skews(name), lifetime_s=4.0), steps=30)
    assert len({commit.function for commit in run.log()}) > 1
    rows, true = run.trace(), truth(run, monkeypatch, skews)
    known = [(row, best) for row, best in zip(rows, true, strict=True) if "tau_wait" in row]
    assert len(known) > 0.9 * len(applied(rows))
    for row, best in known:
        assert adds_up(row)
        moved = sum(abs(row[f"tau_{phase}"] - best[f"tau_{phase}"]) for phase in PHASES) // 2
        assert moved <= row["tau_uncertain"]
    assert [row["committed_s"] for row in rows] == pytest.approx([row["committed_s"] for row in true], abs=0.2)


def test_what_a_killed_function_measured_is_missing_and_is_not_made_up() -> None:
    def fault_plan(virtual: VirtualRun, name: str, index: int) -> FaultPlan:
        return FaultPlan(last_turn=600) if name == "f2.0" else FaultPlan()

    run = ran(fault_plan=fault_plan, steps=40)
    rows = applied(run.trace())
    lost = [row for row in rows if "tau_wait" not in row]
    assert lost and {row["worker"] for row in lost} == {2}
    assert all(row["staleness"] > 0 and "published_s" not in row and row["age_s"] > 0 for row in lost)
    assert all(adds_up(row) for row in rows if "tau_wait" in row)
    found = explain(rows)
    assert (found.applied, found.attributed) == (len(rows), len(rows) - len(lost))


def test_a_far_store_shows_as_storage_and_slow_compute_as_compute() -> None:
    far = explain(ran(channel="200ms", step_s=0.02).trace())
    slow = explain(ran(channel="2ms", step_s=0.5).trace())
    assert far.split is not None and slow.split is not None
    assert far.store is not None and slow.store is not None
    assert far.store > 0.8
    assert slow.store < 0.5
    assert slow.split.compute > slow.split.storage


def steady(rows: list[Row]) -> list[Row]:
    """From when every worker has had an update applied until one has had its last: starts and ends are the engine's."""
    numbers = [[row["version"] for row in applied(rows) if row["worker"] == worker] for worker in range(3)]
    first, last = max(map(min, numbers)), min(map(max, numbers))
    return [row for row in applied(rows) if first < row["version"] <= last]


def test_real_processes_are_as_stale_as_the_virtual_world_says(tmp_path: Path) -> None:
    """Three processes on a store that is 20 ms away; `benchmarks/staleness_live.py` is the large version."""
    place = f"file://{tmp_path}/run"
    options: dict[str, Any] = {"workers": 3, "functions": 3, "steps": 25, "schedule": "asp", "snapshot_every": 100}
    lambdaml.train(JOB, f"{place}?latency=20ms", args={"seconds": 0.04}, **options)
    traces: list[Trace] = []
    costs = Costs(step_s=0.041, encode_s=0.001, apply_s=0.001)
    lambdaml.simulate(channel="20ms", platform="local", costs=costs, trace=traces.append, **options)
    live, virtual = lambdaml.Run(place).trace(), traces[0].rows
    for rows in (live, virtual):
        assert len(applied(rows)) == 75 and all(map(adds_up, applied(rows)))
    real, model = (explain(steady(rows)).staleness.mean for rows in (live, virtual))
    assert real == pytest.approx(model, rel=0.1)

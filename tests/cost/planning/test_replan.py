"""Planning again: when, from what, and whether the run is asked to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lambdaml
from lambdaml.cost.planning import replan
from lambdaml.cost.planning.candidates import SearchSpace
from lambdaml.cost.planning.objective import Objective
from lambdaml.cost.planning.pilot import PilotRun
from lambdaml.cost.planning.plan import Plan, make_plan
from lambdaml.cost.planning.replan import LEAST_S, MOST_PLANS, Replanner
from lambdaml.cost.profiling.iprof import IProf
from lambdaml.cost.profiling.profile import MEASURED, Profile
from lambdaml.events import CommitEvent, SnapshotEvent
from lambdaml.log import keys
from tests.cost.profiles import digits
from tests.lambdaml.lab import Tiny, train

TARGET = "accuracy>=0.95"
SPACE = SearchSpace(workers=(1, 4), channels=(MEASURED,), platforms=("local",), codecs=("fp32",), batch_sizes=(32,))
PILOTS = tuple(PilotRun(*key, 32, seed, (), 2000, 1.0) for key in ((1, 0), (1, 1), (2, 0)) for seed in (101, 102))


@pytest.fixture(scope="module")
def profile() -> Profile:
    return replace(digits(), pilot=PILOTS, target=TARGET)


@pytest.fixture(scope="module")
def plan(profile: Profile) -> Plan:
    return make_plan(profile, Objective(TARGET, minimise="time", space=SPACE), processes=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> lambdaml.Run:
    place: Path = tmp_path_factory.mktemp("runs") / "run"
    return train(Tiny, url=f"file://{place}", workers=2, steps=20, engine="inline")


Drive = Callable[[Replanner, float], None]


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Drive:
    """Have a run with two workers take steps, one update each, of so many seconds; a snapshot after them."""
    now, version = 0.0, 0
    monkeypatch.setattr(replan, "time", SimpleNamespace(monotonic=lambda: now))

    def go(watch: Replanner, step_s: float) -> None:
        nonlocal now, version
        for _ in range(max(20, round(2 * LEAST_S / step_s))):
            now, version = now + step_s, version + 1
            progress: dict[str, Any] = {
                "version": version,
                "progress": version,
                "fraction": version / 1000,
                "updates": 1,
            }
            watch.take(CommitEvent(commit=min(version, 39), **progress))
        watch.take(SnapshotEvent(version=version, size_bytes=1))

    return go


def at(plan: Plan, schedule: str) -> Plan:
    """The same plan, had it chosen this schedule."""
    place = next(i for i, one in enumerate(plan.candidates) if one.candidate.schedule == schedule)
    return replace(plan, chosen=place)


def watcher(run: lambdaml.Run, plan: Plan, said: list[str]) -> Replanner:
    return Replanner(f"{run.url}?latency=10ms", plan, IProf(), said.append)


def settled(watch: Replanner) -> Plan | None:
    if watch._thread is not None:
        watch._thread.join()
    return watch.successor


def test_a_run_that_keeps_to_its_plan_is_left_alone(run: lambdaml.Run, plan: Plan, drive: Drive) -> None:
    said: list[str] = []
    watch = watcher(run, plan, said)
    assert plan.choice is not None
    for factor in (0.9, 1.0, 1.3):
        drive(watch, factor * plan.choice.step_s)
    assert settled(watch) is None and said == []


def test_the_better_way_is_taken_and_told(run: lambdaml.Run, plan: Plan, drive: Drive) -> None:
    """A plan that took steps of `quorum:3` for four times as fast, as on a store of little latency."""
    said: list[str] = []
    chosen = at(plan, "quorum:3")
    assert chosen.choice is not None
    fast = replace(chosen.choice, step_s=chosen.choice.step_s / 4, steps=6000)
    candidates = tuple(fast if one is chosen.choice else one for one in chosen.candidates)
    watch = watcher(run, replace(chosen, candidates=candidates), said)
    drive(watch, chosen.choice.step_s)
    before = settled(watch)
    watch.close()
    successor = watch.successor
    assert before is not None and successor is not None and successor.choice is not None, said
    assert successor == before  # nothing went on meanwhile
    assert successor.choice.candidate.schedule != "quorum:3"
    assert 0 < successor.objective.remaining < 1
    assert successor.choice.steps < 2000  # what a whole way takes
    assert "took" in successor.reason and successor.options()["planned"]["reason"] == successor.reason
    assert any(one.what == "share of the way that is left" for one in successor.assumptions)
    assert "planning again" in said[0] and "planned again" in said[1]
    stop = run.store.get(keys.STOP)
    assert stop is not None and b"replanned" in bytes(stop)
    run.store.delete([keys.STOP])


def test_nothing_better_nothing_changes(run: lambdaml.Run, plan: Plan, drive: Drive) -> None:
    said: list[str] = []
    watch = watcher(run, plan, said)
    assert plan.choice is not None
    for _ in range(MOST_PLANS + 2):
        drive(watch, 10 * plan.choice.step_s)
        assert settled(watch) is None
    assert 2 <= len(said) <= 2 * MOST_PLANS and all("the plan goes on" in line for line in said[1::2])
    assert run.store.get(keys.STOP) is None


def test_what_is_planned_after_the_end_changes_nothing(run: lambdaml.Run, plan: Plan, drive: Drive) -> None:
    said: list[str] = []
    worst = replace(plan, chosen=sum(not one.obstacle for one in plan.candidates) - 1)
    watch = watcher(run, worst, said)
    assert worst.choice is not None
    drive(watch, 10 * worst.choice.step_s)
    watch.close()
    assert settled(watch) is None and len(said) <= 1
    assert run.store.get(keys.STOP) is None


def test_a_store_that_fails_does_not_fail_the_run(plan: Plan, drive: Drive) -> None:
    said: list[str] = []
    assert plan.choice is not None
    watch = Replanner("file:///proc/nowhere", plan, IProf(), said.append)
    drive(watch, 10 * plan.choice.step_s)
    assert settled(watch) is None
    assert said[1].startswith("planning again failed: ")

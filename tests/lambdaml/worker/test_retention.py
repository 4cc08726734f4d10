"""History that is deleted while a run goes on, in the virtual world: how much of it there is at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.log.retention import snapshots_kept
from lambdaml.settings import JobSettings, Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import FaultPlan, VirtualRun
from lambdaml.simulation.faults import FaultScenario, play
from lambdaml.simulation.judge import judge
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from lambdaml.storage import MemoryStore
from lambdaml.training.history_room import default_interval

ROUNDS = 16
EVERY = default_interval(500, 4, 1, ROUNDS)


def virtual(schedule: str = "asp", **options: Any) -> VirtualRun:
    """A run of 400 updates in the virtual world."""
    chosen: dict[str, Any] = {"workers": 4, "steps": 100, "snapshot_every": 4, "lease_s": 10.0}
    settings = {name: options.pop(name) for name in list(options) if name in Settings.model_fields}
    run = Settings(
        job=JobSettings(spec="shadow"),
        schedule=schedule,
        batch_size=8,
        samples=64,
        steps_per_epoch=2,
        parameters=1,
        token="shadow",
        **(chosen | settings),
    )
    places = Channel.parse("s3-express"), Platform.parse("local")
    return VirtualRun(run, 3, Costs(step_s=0.1, apply_s=0.001), *places, **options)


def history_bytes(run: VirtualRun) -> int:
    return sum(info.size_bytes for prefix in (keys.UPDATES, keys.SNAPSHOTS) for info in run.bucket.list(prefix))


def counted(schedule: str, **options: Any) -> tuple[VirtualRun, list[tuple[float, float, int]]]:
    """Play a run that keeps 16 rounds, and return it with the seconds, the rounds and the snapshots in its bucket at each
    event that may change them."""
    found: list[tuple[float, float, int]] = []

    def count(now: float, event: Event) -> None:
        if event.event in ("commit", "snapshot", "horizon"):
            rounds = len(run.bucket.list(keys.UPDATES)) / run.settings.workers
            found.append((now, rounds, len(run.bucket.list(keys.SNAPSHOTS))))

    run = virtual(schedule, trace=count, **{"keep_rounds": ROUNDS, "snapshot_every": EVERY, **options})
    assert run.run(10_000)
    assert judge(run, "") == []
    return run, found


def most(found: Iterable[tuple[float, float, int]]) -> tuple[float, int]:
    """Return the most rounds and the most snapshots."""
    _, rounds, snapshots = zip(*found, strict=True)
    return max(rounds), max(snapshots)


@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:2", "quorum:2"])
def test_history_never_exceeds_its_bound_while_a_run_goes_on(schedule: str) -> None:
    most = 0

    def watch(now: float, event: Event) -> None:
        nonlocal most
        most = max(most, history_bytes(run))

    run = virtual(schedule, keep_bytes=20_000, trace=watch)
    assert run.run(10_000)
    assert judge(run, "") == []
    assert 8_000 < most <= 20_000, "the bound is used, and kept"
    assert len(run.bucket.deleted) > 200
    kept = list(snapshots_kept(MemoryStore.holding(run.bucket.objects, "kept", lambda: 0.0)))
    assert keys.number(kept[0].key) > 0
    assert len(run.bucket.list(keys.HORIZONS)) == 1


@pytest.mark.parametrize("schedule", ["bsp", "asp", "quorum:2"])
def test_there_are_never_more_than_3_snapshots_and_16_rounds(schedule: str) -> None:
    run, found = counted(schedule, steps=60)
    rounds, snapshots = most(found)
    assert 12 < rounds <= 16 and snapshots <= 3, "the bound is used, and kept"
    assert min(rounds for _, rounds, _ in found[len(found) // 4 :]) >= EVERY, "an interval can always be replayed"
    assert len(run.bucket.deleted) > 150


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_workers_that_remember_and_workers_that_finish_early_keep_no_more(schedule: str) -> None:
    """Workers whose function has one worker are twice as fast with `asp`, and end after half of the time."""
    _, found = counted(schedule, error_feedback=1.0)
    rounds, snapshots = most(found)
    assert rounds <= 16 and snapshots <= 3


def test_sums_are_deleted_with_the_updates_that_they_rest_on() -> None:
    run, _ = counted("bsp", steps=50, pattern="tree:2", bracket="2^2")
    horizon = keys.number(run.bucket.list(keys.HORIZONS)[-1].key)
    kept = {keys.reduced_commit(info.key) for info in run.bucket.list(keys.REDUCED)}
    assert kept == set(range(horizon, 50))


def _freezing(name: str, from_s: float, for_s: float) -> Callable[[VirtualRun, str, int], FaultPlan]:
    def fault_plan(run: VirtualRun, life: str, index: int) -> FaultPlan:
        return FaultPlan(freeze_s=(from_s, for_s)) if life == name else FaultPlan()

    return fault_plan


def test_a_silent_worker_keeps_what_it_needs_until_its_lease_ends() -> None:
    _, found = counted("asp", steps=200, lease_s=5.0, fault_plan=_freezing("f2.0", 4.0, 60.0))
    rounds, _ = most(each for each in found if each[0] < 9.0)
    assert rounds > 20
    rounds, snapshots = most(each for each in found if each[0] > 10.0)
    assert 12 < rounds <= 16 and snapshots <= 3


@pytest.mark.parametrize("bound", [{}, {"keep_rounds": None, "keep_bytes": 6_000}])
def test_a_function_that_falls_silent_for_less_than_a_lease_goes_on_if_rounds_are_kept(bound: dict[str, Any]) -> None:
    run, _ = counted("asp", fault_plan=_freezing("f2.0", 4.0, 6.0), **bound)
    lives = [life.name for life in run.lives if life.index == 2]
    assert lives == (["f2.0"] if not bound else ["f2.0", "f2.1"]), "a bound of bytes is kept, and it begins anew"


@pytest.mark.parametrize(("schedule", "seed"), [("bsp", 31), ("asp", 14), ("asp", 67), ("quorum:2", 33)])
def test_whatever_happens_history_is_within_its_bound_again_after_two_leases(schedule: str, seed: int) -> None:
    """Unless the store refuses or is down: then nothing can be deleted. The function that deletes may be frozen, and its
    successor may have to wait for a silent worker."""
    drawn = FaultScenario.draw(seed, schedule)
    scenario = replace(
        drawn,
        steps=40,
        snapshot_every=3,
        keep_rounds=10,
        keep_bytes=None,
        evaluation_s=0.0,
        error_feedback=False,
        algorithm="gradient",
    )
    progress, first, fine_s, above_s = {0: 0}, 0, 0.0, 0.0  # by version; the version of the horizon

    def follow(now: float, event: Event) -> None:
        nonlocal first, fine_s, above_s
        if event.event == "commit":
            progress[event.version] = event.progress
        elif event.event == "horizon":
            first = event.version
        rounds = (max(progress.values()) - progress[first]) / scenario.workers
        fine_s = now if rounds <= 10 else fine_s
        above_s = max(above_s, now - fine_s)

    run, end = play(scenario, follow)
    assert judge(run, end) == [] and len(run.bucket.deleted) > 50
    trouble_s = sum(end_s - start_s for start_s, end_s in (scenario.storm, scenario.outage))
    assert 0 < above_s < 2 * scenario.lease_s + trouble_s


def test_a_run_that_keeps_all_deletes_nothing_and_asks_nothing() -> None:
    run = virtual()
    assert run.run(10_000)
    assert run.bucket.deleted == []
    counts = [life.world.store.meter.snapshot().requests for life in run.lives]
    for bound in ({"keep_bytes": 10**9}, {"keep_rounds": 1000}):
        bounded = virtual(**bound)
        assert bounded.run(10_000)
        assert [life.world.store.meter.snapshot().requests for life in bounded.lives] == counts, "far below, too"


def test_a_function_that_the_horizon_has_passed_begins_anew() -> None:
    """It stands still for longer than the history that is kept, and misses what it needs when it goes on."""
    fault_plan = _freezing("f2.0", 3.0, 60.0)
    run = virtual("asp", keep_bytes=6_000, steps=200, lease_s=2.0, fault_plan=fault_plan)
    assert run.run(10_000)
    assert judge(run, "") == []
    lives = {life.name: life.outcome for life in run.lives}
    assert (lives["f2.0"], lives["f2.1"]) == ("left", "done"), (
        "as overtaken, or for its lost lease, whichever it sees first"
    )

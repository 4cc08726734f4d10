"""History: how much of it stays, what is deleted, and what that must not break."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.errors import BadObject, SettingsError, StoreFull
from lambdaml.events import Event
from lambdaml.log import keys, wire
from lambdaml.log.gc import garbage
from lambdaml.log.retention import Horizon, Sizes, horizon_of, pin_version, snapshots_kept, unpin_version
from lambdaml.settings import JobSettings, Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import FaultPlan, VirtualRun
from lambdaml.simulation.judge import judge
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from lambdaml.storage import MemoryStore, open_store
from lambdaml.training.asked import bounded, default_interval, warnings_of_room
from tests.lambdaml.lab import Tiny, broken_off, memory, model_bytes

STEPS, WORKERS, EVERY = 60, 2, 4
KEEP = 20_000
"""Bytes: some 40 updates of the job `Tiny`."""


def virtual(schedule: str = "asp", **options: Any) -> VirtualRun:
    """A run of 400 updates in the virtual world."""
    chosen: dict[str, Any] = {"workers": 4, "steps": 100, "snapshot_every": 4, "keep_bytes": 20_000, "lease_s": 10.0}
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


@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:2", "quorum:2"])
def test_history_never_exceeds_its_bound_while_a_run_goes_on(schedule: str) -> None:
    most = 0

    def watch(now: float, event: Event) -> None:
        nonlocal most
        most = max(most, history_bytes(run))

    run = virtual(schedule, trace=watch)
    assert run.run(10_000)
    assert judge(run, "") == []
    assert 8_000 < most <= 20_000, "the bound is used, and kept"
    assert len(run.bucket.deleted) > 200
    kept = list(snapshots_kept(MemoryStore.holding(run.bucket.objects, "kept", lambda: 0.0)))
    assert keys.number(kept[0].key) > 0
    assert len(run.bucket.list(keys.HORIZONS)) == 1


def test_a_run_that_keeps_all_deletes_nothing_and_asks_nothing() -> None:
    run = virtual(keep_bytes=None)
    assert run.run(10_000)
    assert run.bucket.deleted == []
    counts = [life.world.store.meter.snapshot().requests for life in run.lives]
    bound = virtual(keep_bytes=10**9)
    assert bound.run(10_000)
    assert [life.world.store.meter.snapshot().requests for life in bound.lives] == counts, "far below its bound, too"


def test_a_function_that_the_horizon_has_passed_begins_anew() -> None:
    """It stands still for longer than the history that is kept, and misses what it needs when it goes on."""

    def fault_plan(run: VirtualRun, name: str, index: int) -> FaultPlan:
        return FaultPlan(freeze_s=(3.0, 60.0)) if name == "f2.0" else FaultPlan()

    run = virtual("asp", keep_bytes=6_000, steps=200, lease_s=2.0, fault_plan=fault_plan)
    assert run.run(10_000)
    assert judge(run, "") == []
    lives = {life.name: life.outcome for life in run.lives}
    assert (lives["f2.0"], lives["f2.1"]) == ("left", "done"), (
        "as overtaken, or for its lost lease, whichever it sees first"
    )


# ---- Real runs, inline


def train(store: MemoryStore, **options: Any) -> lambdaml.Run:
    given = {"workers": WORKERS, "steps": STEPS, "snapshot_every": EVERY, "keep": KEEP, **options}
    lambdaml.train(Tiny, store, **given)
    return lambdaml.Run(store)


@pytest.fixture(scope="module")
def whole() -> lambdaml.Run:
    return train(memory(), keep="all")


@pytest.fixture(scope="module")
def short() -> lambdaml.Run:
    return train(memory())


def test_what_is_kept_is_verified_from_the_horizon_on(short: lambdaml.Run, whole: lambdaml.Run) -> None:
    report, everything = short.verify(), whole.verify()
    assert report.faults == everything.faults == []
    assert everything.first == 0 < report.first == short.status().first
    assert report.updates == everything.updates, "the log is whole"
    assert model_bytes(short) == model_bytes(whole)


def test_versions_that_are_kept_can_be_replayed_and_others_are_refused_by_name(
    short: lambdaml.Run, whole: lambdaml.Run
) -> None:
    first = short.status().first
    for version in (first, first + 1, STEPS):
        assert short.replay(version).digest() == whole.replay(version).digest()
    with pytest.raises(SettingsError, match=f"version {first - 1}.*earliest kept is {first}"):
        short.replay(first - 1)


def test_an_old_snapshot_that_is_written_late_misleads_nobody(whole: lambdaml.Run) -> None:
    """A request of long ago takes effect after the snapshot that it wrote was deleted."""
    run = train(memory())
    late = keys.snapshot(EVERY)
    data = whole.store.get(late)
    assert data is not None and run.store.create(late, data) is None
    assert run.verify().faults == []
    with pytest.raises(SettingsError, match="earliest kept"):
        run.replay(EVERY)


def test_an_update_above_the_horizon_that_is_missing_is_a_fault() -> None:
    run = train(memory())
    horizon = horizon_of(run.store)
    assert horizon is not None
    run.store.delete([keys.update(1, horizon.next_seq[1])])
    (fault, *_) = run.verify().faults
    assert keys.update(1, horizon.next_seq[1]) in fault


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_a_run_that_is_stopped_again_and_again_loses_nothing(schedule: str, whole: lambdaml.Run) -> None:
    store, stops = memory(), [9, 25, 41]

    def stop(event: Event) -> None:
        if stops and event.event == "commit" and event.progress >= stops[0] * WORKERS:
            stops.pop(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(store, schedule=schedule, on_event=stop)
    while stops:
        with pytest.raises(KeyboardInterrupt):
            lambdaml.resume(store, on_event=stop)
    lambdaml.resume(store)
    run = lambdaml.Run(store)
    assert run.verify().faults == [] and run.status().first > 0
    assert run.summary().fates["applied"] == WORKERS * STEPS
    if schedule == "bsp":
        assert model_bytes(run) == model_bytes(whole)


def test_a_pin_keeps_the_history_from_its_version_on() -> None:
    store = memory()

    def pins(event: Event) -> None:
        if event.event == "snapshot" and event.version == 2 * EVERY:
            lambdaml.Run(store).pin(event.version, "reader")

    run = train(store, on_event=pins)
    assert run.status().first <= 2 * EVERY
    assert run.verify().faults == []
    assert run.replay(2 * EVERY).version == 2 * EVERY
    assert run.gc() == 0 or run.replay(2 * EVERY).version == 2 * EVERY
    run.unpin("reader")
    run.gc()
    assert run.status().first == STEPS


def test_a_pin_below_the_horizon_is_refused_and_leaves_nothing(short: lambdaml.Run) -> None:
    with pytest.raises(SettingsError, match=f"begins at version {short.status().first}: 3 is deleted"):
        short.pin(3, "late")
    with pytest.raises(SettingsError, match="a pin's name"):
        short.pin(STEPS, "a/b")
    assert list(short.store.list(keys.PINS)) == []


def test_the_result_of_a_target_is_kept() -> None:
    run = train(memory(), steps=10_000, target="accuracy>=0.5", args={"lr": 0.01})
    summary = run.summary()
    assert summary.stop == "target" and summary.stop_version is not None
    assert run.verify().faults == []
    run.gc()
    assert run.replay(summary.stop_version).dump_model() == model_bytes(run)


def test_what_a_bound_deletes_and_what_gc_deletes_leaves_the_same_history(
    whole: lambdaml.Run, short: lambdaml.Run
) -> None:
    found = garbage(short)
    assert found is not None
    horizon, doomed = found
    assert horizon.version == STEPS and keys.snapshot(STEPS) not in doomed
    assert all(
        keys.number(key) < horizon.next_seq[keys.update_id(key)[0]] for key in doomed if key.startswith(keys.UPDATES)
    )


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("schedule", ["bsp", "quorum:2"])
def test_gc_leaves_a_run_that_goes_on_what_its_workers_remember(written: bool, schedule: str) -> None:
    options: dict[str, Any] = {"workers": 3, "steps": 12, "snapshot_every": 2, "codec": "bf16", "error_feedback": 1.0}
    options |= {"schedule": schedule, "functions": 1, "recover_s": 1e-9 if written else 1e9}
    run = broken_off(Tiny, at=9, **options)
    remembered = {worker: [seq for w, seq in _memories(run) if w == worker] for worker in range(3)}
    deleted = run.gc()
    assert bool(deleted) == written, "without a memory, a recovery goes back to the beginning"
    assert bool([info for info in run.store.list(keys.SNAPSHOTS) if info.key == keys.snapshot(0)]) != written
    for worker, before in remembered.items():
        kept = [seq for w, seq in _memories(run) if w == worker]
        assert kept[-1:] == before[-1:] and (len(kept) < len(before)) == written
    lambdaml.resume(run.store, functions=1)
    report = run.verify(deep=1)
    assert report.faults == [] and report.recomputed > 0 and run.summary().stop == "steps"
    if schedule == "bsp":
        assert model_bytes(run) == model_bytes(train(memory(), **options))


def _memories(run: lambdaml.Run) -> list[tuple[int, int]]:
    return [keys.update_id(info.key) for info in run.store.list(keys.MEMORY)]


def test_a_disk_that_is_full_ends_a_run_in_good_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: lambdaml.Run
) -> None:
    store, write, room = open_store(f"file://{tmp_path}/run"), os.write, [50_000]

    def limited(fd: int, data: Any) -> int:
        if room and len(data) > 100:
            room[0] -= len(data)
            if room[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(os, "write", limited)
    with pytest.raises(StoreFull, match="no room for more under .*run: free some.* and resume"):
        lambdaml.train(
            Tiny,
            store,
            workers=WORKERS,
            steps=STEPS,
            snapshot_every=EVERY,
            engine="inline",
            keep="all",
            functions=1,
            lease_s=1.0,
        )
    room.clear()
    assert list((tmp_path / "run" / ".tmp").iterdir()) == []
    lambdaml.resume(store, engine="inline")
    assert model_bytes(lambdaml.Run(store)) == model_bytes(whole)


# ---- What is asked for


@pytest.mark.parametrize(
    ("keep", "size"),
    [("all", None), ("500", 500), (500, 500), ("1.5K", 1536), ("2M", 2**21), ("3G", 3 * 2**30), ("3GiB", 3 * 2**30)],
)
def test_a_size_is_read_as_people_write_it(keep: str | int, size: int | None) -> None:
    assert bounded(keep, None, 10) == size


@pytest.mark.parametrize("keep", ["much", "", "0", "-5", "1.2.3G", "none"])
def test_what_is_no_size_is_refused(keep: str) -> None:
    with pytest.raises(SettingsError, match="keep: 'all' or a size"):
        bounded(keep, None, 10)


def test_a_bound_that_is_less_than_two_intervals_is_refused() -> None:
    with pytest.raises(SettingsError, match="less than the updates of two snapshots"):
        bounded("1M", None, 2**20)


def test_by_default_a_tenth_of_the_disk_or_two_gib_or_four_intervals_are_kept() -> None:
    assert bounded(None, None, 10) == 2**31
    assert bounded(None, 10**9, 10) == 10**8
    assert bounded(None, 10**12, 10**9) == 4 * 10**9
    assert bounded(None, 10**9, 10**9) == 5 * 10**8


def test_large_models_take_snapshots_more_often_than_once_an_epoch() -> None:
    assert default_interval(100, 4, 1_000) == 100
    assert default_interval(100_000, 4, 1_000) == 500
    assert default_interval(500, 4, 1_000_000) == 33
    assert default_interval(500, 4, 200_000_000) == 4
    assert default_interval(2, 4, 200_000_000) == 2


def settings_of(**options: Any) -> Settings:
    given = {"workers": 10, "steps": 1000, "parameters": 1_000_000, "snapshot_every": 10, **options}
    return Settings(job=JobSettings(spec="x"), batch_size=1, samples=1, steps_per_epoch=1, token="", **given)


def test_a_history_that_will_not_fit_or_is_dear_is_warned_of() -> None:
    assert list(warnings_of_room(settings_of(), 10**12)) == []
    assert "may take 40.0 GB, and 10.0 GB are free" in next(warnings_of_room(settings_of(), 10**10))
    assert list(warnings_of_room(settings_of(keep_bytes=2**31), 10**10)) == []
    assert "may take 400 GB: at S3's price 9 USD a month" in next(warnings_of_room(settings_of(steps=10_000), None))


def test_train_warns_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    monkeypatch.setattr("lambdaml.storage.retry.Retrying.free_bytes", lambda self: 100)
    lambdaml.train(Tiny, "memory://room", workers=1, steps=2, keep="all", on_event=events.append)
    kinds = [event.event for event in events]
    (text,) = [event.text for event in events if event.event == "warning" and "history" in event.text]
    assert "keep less" in text and kinds.index("warning") < kinds.index("run")


# ---- Records


def test_a_horizon_comes_back_and_damage_is_named() -> None:
    horizon = Horizon(7, 9, (4, 3))
    assert Horizon.read(horizon.dump(), "horizon/9") == horizon and horizon.progress == 7
    with pytest.raises(BadObject, match="horizon/9"):
        Horizon.read(wire.dump_json({"version": 1}), "horizon/9")


def test_history_is_updates_and_the_snapshots_at_both_ends_and_between() -> None:
    sizes = Sizes(update_bytes=10, snapshot_bytes=100, every=4)
    assert [sizes.history(updates) for updates in (0, 3, 4, 9)] == [100, 130, 240, 390]


def test_of_a_pin_and_a_horizon_one_sees_the_other() -> None:
    """A pin that is written while the horizon moves is either heeded or refused."""
    store = memory()
    pin_version(store, "early", 5)
    assert [info.key for info in store.list(keys.PINS)] == [keys.pin("early")]
    store.create(keys.horizon(3), Horizon(6, 3, (3, 3)).dump())
    with pytest.raises(SettingsError, match="begins at version 6: 5 is deleted"):
        pin_version(store, "late", 5)
    unpin_version(store, "early")
    unpin_version(store, "early")
    assert list(store.list(keys.PINS)) == []

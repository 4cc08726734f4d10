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
from lambdaml.log.retention import Horizon, Sizes, horizon_of, least_rounds, pin_version, unpin_version
from lambdaml.settings import JobSettings, Settings
from lambdaml.storage import MemoryStore, open_store
from lambdaml.training.history_room import default_interval, history_bound, warnings_of_room
from tests.lambdaml.lab import Tiny, broken_off, memory, model_bytes

STEPS, WORKERS, EVERY = 60, 2, 4
KEEP = "20000B"
"""Some 40 updates of the job `Tiny`."""


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


def test_gc_deletes_the_sums_that_a_run_which_goes_on_has_passed() -> None:
    options: dict[str, Any] = {"workers": 3, "steps": 12, "snapshot_every": 2, "functions": 1, "pattern": "tree:2"}
    run = broken_off(Tiny, at=9, **options)
    run.gc()
    horizon = horizon_of(run.store)
    assert horizon is not None and horizon.commit > 2
    sums = {keys.reduced_commit(info.key) for info in run.store.list(keys.REDUCED)}
    assert min(sums) == horizon.commit
    lambdaml.resume(run.store, functions=1)
    assert model_bytes(run) == model_bytes(train(memory(), **options)) and run.verify().faults == []
    assert run.gc() and not list(run.store.list(keys.REDUCED)), "a run that has ended needs none"


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
    [("all", None), ("500B", 500), ("1.5K", 1536), ("2M", 2**21), ("3g", 3 * 2**30), ("3 GiB", 3 * 2**30)],
)
def test_a_size_is_read_as_people_write_it(keep: str, size: int | None) -> None:
    assert history_bound(keep, None, 2, 5) == {"keep_rounds": None, "keep_bytes": size}


@pytest.mark.parametrize("keep", [16, "16"])
def test_a_number_without_a_unit_is_one_of_rounds(keep: str | int) -> None:
    assert history_bound(keep, None, 6, 10**9) == {"keep_rounds": 16, "keep_bytes": None}


@pytest.mark.parametrize("keep", ["much", "", "0", 0, "-5", -5, "1.5", 16.0, "1.2.3G", "none", "16 rounds"])
def test_what_is_no_bound_is_refused(keep: str) -> None:
    with pytest.raises(SettingsError, match="keep: 'all', a number of rounds such as 16, or a size such as 500M"):
        history_bound(keep, None, 2, 5)


def test_a_bound_that_is_less_than_two_intervals_is_refused() -> None:
    with pytest.raises(SettingsError, match="less than the updates of two snapshots"):
        history_bound("1M", None, 2, 2**19)


def test_a_window_that_is_smaller_than_snapshots_and_a_lease_need_is_refused_in_one_line() -> None:
    with pytest.raises(SettingsError) as raised:
        lambdaml.train(Tiny, memory(), workers=WORKERS, steps=STEPS, snapshot_every=EVERY, keep=3)
    assert str(raised.value) == (
        "keep: 3 rounds are fewer than the 12 that two snapshots, with 4 rounds between them, and a lease need: take "
        "snapshots more often with snapshot_every, or keep more"
    )
    with pytest.raises(SettingsError, match="3 rounds are fewer than the 6"):
        lambdaml.train(Tiny, memory(), workers=WORKERS, steps=STEPS, keep=3)


def test_by_default_a_tenth_of_the_disk_or_two_gib_or_four_intervals_are_kept() -> None:
    def kept(free_bytes: int | None, interval_bytes: int) -> int | None:
        return history_bound(None, free_bytes, 1, interval_bytes)["keep_bytes"]

    assert kept(None, 10) == 2**31
    assert kept(10**9, 10) == 10**8
    assert kept(10**12, 10**9) == 4 * 10**9
    assert kept(10**9, 10**9) == 5 * 10**8


def test_large_models_take_snapshots_more_often_than_once_an_epoch() -> None:
    assert default_interval(100, 4, 1_000) == 100
    assert default_interval(100_000, 4, 1_000) == 500
    assert default_interval(500, 4, 1_000_000) == 33
    assert default_interval(500, 4, 200_000_000) == 4
    assert default_interval(2, 4, 200_000_000) == 2


def test_runs_that_keep_few_rounds_take_snapshots_as_often_as_these_need() -> None:
    assert [default_interval(100, 4, 1_000, keep) for keep in (3, 6, 16, 50, 1000)] == [1, 1, 6, 23, 100]
    assert all(least_rounds(default_interval(100, 4, 1_000, keep)) <= keep for keep in range(6, 300))


def settings_of(**options: Any) -> Settings:
    given = {"workers": 10, "steps": 1000, "parameters": 1_000_000, "snapshot_every": 10, **options}
    return Settings(job=JobSettings(spec="x"), batch_size=1, samples=1, steps_per_epoch=1, token="", **given)


def test_a_history_that_will_not_fit_or_is_dear_is_warned_of() -> None:
    assert list(warnings_of_room(settings_of(), 10**12)) == []
    assert "may take 40.0 GB, and 10.0 GB are free" in next(warnings_of_room(settings_of(), 10**10))
    assert list(warnings_of_room(settings_of(keep_bytes=2**31), 10**10)) == []
    assert list(warnings_of_room(settings_of(keep_rounds=16), 10**10)) == []
    assert "may take 20.0 GB" in next(warnings_of_room(settings_of(keep_rounds=500), 10**10))
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

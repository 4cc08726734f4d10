"""A deep check computes updates again. It passes what a run made, and finds what nobody can have computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.memory import Memory
from lambdaml.log.records import Update
from lambdaml.training.verify import Report, verify
from tests.lambdaml.lab import Tiny, broken_off, train

REMEMBERS: dict[str, Any] = {"codec": "bf16", "error_feedback": 1.0}
KINDS: dict[str, dict[str, Any]] = {
    "gradients": {},
    "asynchronous": {"schedule": "asp"},
    "quorum": {"schedule": "quorum:2"},
    "local steps": {"algorithm": "local:3"},
    "feedback": REMEMBERS,
    "feedback with a quorum": {"schedule": "quorum:2", **REMEMBERS},
    "written memories": {"algorithm": "local:2,outer=nesterov", "schedule": "quorum:2", "recover_s": 1e-9, **REMEMBERS},
}


def made(**options: Any) -> lambdaml.Run:
    return train(Tiny, workers=3, **{"steps": 9, "snapshot_every": 3, **options})


def last_of(run: lambdaml.Run) -> Update:
    """An update that no other update rests on: one without a fate, or else the last that was applied."""
    ids = {keys.update_id(info.key) for info in run.store.list(keys.UPDATES)}
    fated = [(entry.worker, entry.seq) for commit in run.log() for entry in commit.entries]
    worker, seq = min(ids - set(fated), default=fated[-1])
    key = keys.update(worker, seq)
    return Update.read(run.store.get(key) or b"", key)


def found(report: Report) -> tuple[list[str], int]:
    return report.faults, report.unchecked


@pytest.mark.parametrize("kind", KINDS)
def test_every_update_and_memory_of_a_run_comes_out_again(kind: str) -> None:
    run = made(**KINDS[kind])
    report = run.verify(deep=1)
    published = len(list(run.store.list(keys.UPDATES)))
    assert found(report) == ([], 0)
    assert report.recomputed == published == report.updates + report.pending
    assert report.memories == len(list(run.store.list(keys.MEMORY)))
    assert bool(report.memories) == ("recover_s" in KINDS[kind])


def test_without_a_share_nothing_is_computed_again() -> None:
    report = made(steps=3).verify()
    assert (report.recomputed, report.unchecked, report.memories) == (0, 0, 0)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(SettingsError, match="deep: must be more than 0 and at most 1"):
        made(steps=3).verify(deep=share)


@pytest.mark.parametrize("kind", ["gradients", "feedback", "written memories"])
def test_a_share_takes_whole_units_and_the_same_ones_each_time(kind: str) -> None:
    run = made(**KINDS[kind])
    most = {"gradients": 9, "feedback": 12, "written memories": 1}[kind]  # those of one unit
    told: list[tuple[int, int]] = []
    report = verify(run, deep=1e-9, computing=lambda done, total: told.append((done, total)))
    assert found(report) == ([], 0)
    assert told[-1] == (report.recomputed, report.recomputed)
    assert 0 < report.recomputed <= most
    again: list[tuple[int, int]] = []
    verify(run, deep=1e-9, computing=lambda done, total: again.append((done, total)))
    assert again == told


@pytest.mark.parametrize("kind", ["gradients", "asynchronous", "local steps", "feedback"])
def test_an_update_that_nobody_computed_is_found_though_its_sums_and_checksums_are_right(kind: str) -> None:
    """No digest covers it, because the run broke off before the next snapshot."""
    run = broken_off(Tiny, workers=3, steps=9, at=5, snapshot_every=3, **KINDS[kind])
    update = last_of(run)
    key = keys.update(*update.id)
    name = next(iter(update.body))
    update.body = {**update.body, name: update.body[name] + update.body[name].dtype.type(1)}
    run.store.put(key, update.pack())
    assert run.verify().faults == []
    assert run.verify(deep=1).faults == [f"{key} is not what is computed again"]


def test_one_update_that_differs_is_one_fault_of_its_stretch() -> None:
    run = broken_off(Tiny, workers=3, steps=9, at=5, snapshot_every=3, **REMEMBERS)
    update = last_of(run)
    update.memory = "0" * 64
    run.store.put(keys.update(*update.id), update.pack())
    report = run.verify(deep=1)
    assert report.faults == [f"{keys.update(*update.id)} is not what is computed again"]
    assert report.unchecked == 0


def test_a_memory_that_nobody_remembered_is_found() -> None:
    run = made(**KINDS["written memories"])
    key = keys.memory(1, 4)
    memory = Memory.read(run.store.get(key) or b"", key)
    name = next(name for name, array in memory.arrays.items() if array.dtype == np.float32)
    memory.arrays[name] = memory.arrays[name] + np.float32(1)
    run.store.put(key, memory.dump(memory.ready_commit))
    assert run.verify().faults == []
    report = run.verify(deep=1)
    assert f"{key} is not what its worker remembered" in report.faults
    assert f"{keys.update(1, 4)} is not what is computed again" in report.faults, "it was not computed from this memory"
    assert len(report.faults) == 2


def test_a_damaged_memory_is_no_fault_and_is_done_without() -> None:
    run = made(**KINDS["written memories"])
    key = keys.memory(1, 4)
    run.store.put(key, b"damaged")
    report = run.verify(deep=1)
    assert report.faults == [] and report.unchecked == 1
    assert report.recomputed == report.updates + report.pending - 1


def test_what_was_deleted_is_counted_and_the_rest_is_checked() -> None:
    run = made(steps=12, schedule="quorum:2", **REMEMBERS, recover_s=1e-9)
    whole = run.verify(deep=1)
    pin = [keys.number(info.key) for info in run.store.list(keys.SNAPSHOTS)][-2]
    run.pin(pin, "here")
    assert run.gc() > 0
    report = run.verify(deep=1)
    assert report.faults == [] and report.first == pin
    assert 0 < report.recomputed < whole.recomputed
    assert report.recomputed + report.unchecked == len(list(run.store.list(keys.UPDATES)))


def test_a_run_that_goes_on_is_checked_as_far_as_its_log_goes() -> None:
    for options in ({}, REMEMBERS):
        run = broken_off(Tiny, workers=3, steps=9, at=5, snapshot_every=3, **options)
        report = run.verify(deep=1)
        assert report.faults == []
        assert report.recomputed + report.unchecked == len(list(run.store.list(keys.UPDATES)))
        assert report.recomputed >= report.updates


def test_a_fault_in_another_numerics_class_is_unproven() -> None:
    run = broken_off(Tiny, workers=3, steps=9, at=5, snapshot_every=3)
    update = last_of(run)
    update.body = {"gradient": update.body["gradient"] + np.float32(1)}
    run.store.put(keys.update(*update.id), update.pack())
    numerics = run.settings.numerics
    assert numerics is not None
    other = run.settings.model_copy(
        update={"numerics": replace(numerics, decides={**numerics.decides, "torch": "0.1"})}
    )
    run.store.put(keys.RUN, other.dump())
    report = lambdaml.Run(run.store).verify(deep=1)
    assert report.faults == [] and "another numerics class" in report.unproven

"""Control entries: a setting changes at one commit, on every replica, and a replay changes with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch.optim.lr_scheduler import StepLR

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.events import Event
from lambdaml.log import keys, wire
from lambdaml.log.records import Control, Update
from lambdaml.traces import Trace
from lambdaml.worker import stop_watcher
from tests.lambdaml.lab import Made, Tiny, broken_off, memory


def trained(
    monkeypatch: pytest.MonkeyPatch, job: Any, schedule: str, changes: list[float], **options: Any
) -> lambdaml.Run:
    """Return a run of three workers on two functions. Its learning rate is changed some commits after the last change was
    heeded, so that updates are computed with each of them, and it is cancelled once all were."""
    monkeypatch.setattr(stop_watcher, "STOP_POLL_S", 0.002)
    store, todo, read, due = memory(), list(changes), 0, [0]

    def on_event(event: Event) -> None:
        nonlocal read
        if event.event != "commit":
            return
        run = lambdaml.Run(store)
        for commit in run.log(read):
            read += 1
            due.extend(read + 6 for _ in commit.controls)
        while due and read >= due[0]:
            due.pop(0)
            if todo:
                run.change("lr", todo.pop(0))
            else:
                run.cancel()

    options.setdefault("snapshot_every", 1)  # so that there are digests, however soon it is cancelled
    lambdaml.train(job, store, workers=3, functions=2, steps=20_000, schedule=schedule, on_event=on_event, **options)
    return lambdaml.Run(store, job)


@pytest.mark.parametrize("schedule", ["bsp", "asp", "quorum:2"])
def test_a_changed_learning_rate_holds_from_one_commit_on_everywhere(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(monkeypatch, Made(), schedule, [0.02, 0.003])
    heeded = [control for commit in run.log() for control in commit.controls]
    assert [(control.number, control.what, control.value) for control in heeded] == [(0, "lr", 0.02), (1, "lr", 0.003)]
    report = run.verify()
    assert report.faults == [] and report.digests > 0
    groups = run.replay().meta["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == [0.003]
    assert run.replay(0).meta["optimizer"]["param_groups"][0]["lr"] != 0.02
    assert run.summary().controls == tuple(heeded)
    assert run.status().changes == ("lr = 0.02", "lr = 0.003")
    trace = Trace.of(run)
    held = [commit.commit for commit in run.log() for _ in commit.controls]
    assert [(change["commit"], change["value"]) for change in trace.meta["controls"]] == [
        *zip(held, (0.02, 0.003), strict=True)
    ]
    assert lambdaml.replay_trace(trace, run.job()).state.dump_model() == run.replay().dump_model()


def test_what_cannot_be_changed_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(monkeypatch, Made(), "bsp", [])
    with pytest.raises(SettingsError, match="'momentum' cannot be changed while a run goes on"):
        run.change("momentum", 0.5)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="must be a positive number"):
            run.change("lr", value)
    with pytest.raises(SettingsError, match="has ended"):
        run.change("lr", 0.5)


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
@pytest.mark.parametrize("algorithm", ["local:2", "local:2,inner=keep"])
def test_local_steps_have_the_changed_rate_from_the_next_base_on(
    schedule: str, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(monkeypatch, Made(), schedule, [1e-6, 0.1], algorithm=algorithm)
    report = run.verify(deep=1)
    assert report.faults == [] and report.recomputed == len(list(run.store.list(keys.UPDATES)))
    assert report.controls == ["lr = 1e-06", "lr = 0.1"]
    assert run.replay().meta["log_state"]["changed"] == {"lr": 0.1}
    first, second = [commit.commit for commit in run.log() for _ in commit.controls]
    moved: dict[bool, list[float]] = {False: [], True: []}
    for info in run.store.list(keys.UPDATES):
        update = Update.read(run.store.get(info.key) or b"", info.key)
        moved[first < update.base_commit <= second].append(float(np.abs(update.body["gradient"]).max()))
    assert 0 < max(moved[True]) < 1e-4 < min(moved[False])


def test_a_function_that_starts_later_takes_local_steps_with_the_changed_rate() -> None:
    run: Any = broken_off(Tiny, at=5, workers=2, steps=9, functions=1, algorithm="local:2", snapshot_every=100)
    control, key, commit = Control(0, "lr", 1e-6), keys.update(0, 3), next(run.log(3))
    carrier = Update.read(run.store.get(key) or b"", key)
    carrier.control = control
    run.store.put(key, carrier.pack())
    run.store.put(keys.control(0), wire.dump_json({"what": "lr", "value": 1e-6}))
    run.store.put(keys.log(3), replace(commit, controls=(control,)).pack())
    run.store.delete([keys.update(*entry_id) for entry_id in _after(run, 4)])
    run.store.delete([info.key for info in run.store.list(keys.LOG, after=keys.log(3))])
    for stored, (kept, _) in list(run.store._objects.items()):
        run.store._objects[stored] = kept, run.store._objects[keys.RUN][1]  # none is a sign of life
    lambdaml.resume(run.store, functions=1)
    report = run.verify(deep=1)
    assert report.faults == [] and report.recomputed == 18
    data = run.store.get(keys.update(0, 8)) or b""
    assert np.abs(Update.read(data, keys.update(0, 8)).body["gradient"]).max() < 1e-4


def _after(run: lambdaml.Run, commit: int) -> list[tuple[int, int]]:
    """Return the updates whose bases lie at or behind a commit."""
    found = [keys.update_id(info.key) for info in run.store.list(keys.UPDATES)]
    return [(worker, seq) for worker, seq in found if seq >= commit]


@pytest.mark.parametrize("algorithm", ["gradient", "local:2"])
def test_a_scheduler_keeps_the_learning_rate_to_itself(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="the job's scheduler decides the learning rate"):
        job = Made(scheduler=lambda optimizer: StepLR(optimizer, 5))
        trained(monkeypatch, job, "bsp", [0.5], algorithm=algorithm)

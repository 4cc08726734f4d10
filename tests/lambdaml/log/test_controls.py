"""Control entries: a setting changes at one commit, on every replica, and a replay changes with it."""

from __future__ import annotations

from typing import Any

import pytest
from torch.optim.lr_scheduler import StepLR

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.events import Event
from lambdaml.log.records import Control
from lambdaml.worker import stop_watcher
from tests.lambdaml.lab import Made, memory


def trained(monkeypatch: pytest.MonkeyPatch, job: Any, schedule: str, changes: list[float]) -> lambdaml.Run:
    """Return a run of three workers on two functions. Its learning rate is changed whenever the last change was heeded, and
    it is cancelled once all were."""
    monkeypatch.setattr(stop_watcher, "STOP_POLL_S", 0.002)
    heeded: list[Control | None] = [None]  # as if there had been one before
    store, todo, read = memory(), list(changes), 0

    def on_event(event: Event) -> None:
        nonlocal read
        if event.event != "commit":
            return
        run = lambdaml.Run(store)
        for commit in run.log(read):
            read += 1
            heeded.extend(commit.controls)
        while heeded:
            heeded.pop()
            if todo:
                run.change("lr", todo.pop(0))
            else:
                run.cancel()

    lambdaml.train(job, store, workers=3, functions=2, steps=20_000, schedule=schedule, on_event=on_event)
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


def test_what_cannot_be_changed_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(monkeypatch, Made(), "bsp", [])
    with pytest.raises(SettingsError, match="'momentum' cannot be changed while a run goes on"):
        run.change("momentum", 0.5)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="must be a positive number"):
            run.change("lr", value)
    with pytest.raises(SettingsError, match="has ended"):
        run.change("lr", 0.5)


def test_a_scheduler_keeps_the_learning_rate_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="the job's scheduler decides the learning rate"):
        trained(monkeypatch, Made(scheduler=lambda optimizer: StepLR(optimizer, 5)), "bsp", [0.5])

"""A memory that does not come out again ends the run by name, or begins anew as the log says."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.errors import RunFailed
from lambdaml.events import Event, RememberedEvent
from lambdaml.log import keys
from lambdaml.log.controls import lost_memories, wishes
from lambdaml.log.memory import Memory
from lambdaml.log.records import Update
from lambdaml.traces import Trace
from lambdaml.worker import stop_watcher
from tests.lambdaml.lab import Tiny, memory, model_bytes, train

REMEMBERS: dict[str, Any] = {"codec": "bf16", "error_feedback": 1.0, "workers": 3, "functions": 1, "snapshot_every": 3}
AT = 5
"""The run breaks off after this commit. Each worker has made one more update than that."""
ANEW = {(worker, AT + 1) for worker in range(3)}


class Drifting(Tiny):
    """Its loss depends on something that may change, and that every copy of this class sees."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return super().loss(model, batch) * float(os.environ.get("DRIFT", "1"))


def broken(**options: Any) -> lambdaml.Run:
    """Return a run whose function vanished an hour ago, right after commit number `AT`."""
    url = f"memory://{secrets.token_hex(6)}"
    keeper = Keeper(lambda: lambdaml.Run(url), lambda: True)
    lambdaml.train(Drifting, url, on_event=keeper, **{"steps": 9, **REMEMBERS, **options})
    return keeper.kept


class Keeper:
    """Looks at each commit from number `AT` on. When the condition holds, it keeps the run as it is then, as if that
    had been an hour ago, and cancels it."""

    def __init__(self, run: Callable[[], lambdaml.Run], condition: Callable[[], bool]) -> None:
        self._run, self._condition = run, condition
        self._store = memory()

    @property
    def kept(self) -> lambdaml.Run:
        return lambdaml.Run(self._store)

    def __call__(self, event: Event) -> None:
        if event.event != "commit" or event.commit < AT or self._store._objects or not self._condition():
            return
        run = self._run()
        for info in list(run.store.list()):
            self._store._objects[info.key] = (bytes(run.store.get(info.key) or b""), info.modified - 3600)
        run.cancel()


def resumed(run: lambdaml.Run, on_event: Callable[[Event], None] = lambda event: None) -> list[Event]:
    events: list[Event] = []

    def look(event: Event) -> None:
        events.append(event)
        on_event(event)

    lambdaml.resume(run.store, functions=1, on_event=look)
    return events


def heeded(run: lambdaml.Run) -> set[tuple[int, int]]:
    return set(lost_memories(control for commit in run.log() for control in commit.controls))


def published(run: lambdaml.Run) -> list[tuple[int, int]]:
    return [keys.update_id(info.key) for info in run.store.list(keys.UPDATES)]


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wishes are looked for all the time."""
    monkeypatch.setattr(stop_watcher, "STOP_POLL_S", 0.002)


def test_a_run_ends_by_name_and_goes_on_with_the_same_bits_once_its_job_computes_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = broken()
    monkeypatch.setenv("DRIFT", "1.5")
    with pytest.raises(
        RunFailed, match=r"updates/\d+/0000000000 comes out different .* what worker \d remembered is lost"
    ):
        resumed(run)
    assert not wishes(run.store) and len(published(run)) == 3 * (AT + 1)
    monkeypatch.delenv("DRIFT")
    resumed(run)
    assert model_bytes(run) == model_bytes(train(Drifting, steps=9, **REMEMBERS))


@pytest.mark.usefixtures("watchful")
def test_a_memory_that_begins_anew_is_in_the_log_and_a_second_crash_recovers_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = broken(lost_memory="reset", steps=20_000)
    monkeypatch.setenv("DRIFT", "1.5")
    keeper = Keeper(lambda: run, lambda: heeded(run) == ANEW)
    resumed(run, keeper)
    left = keeper.kept
    assert set(lost_memories(wishes(left.store))) == heeded(left) == ANEW

    def look(event: Event) -> None:
        if event.event == "remembered":
            left.cancel()

    before = len(published(left))
    (told,) = [event for event in resumed(left, look) if isinstance(event, RememberedEvent)]
    assert told.updates == before - 3 * (AT + 1), "those from before are not computed again"
    assert heeded(left) == ANEW
    for each in (run, left):
        report = each.verify(deep=1)
        assert report.faults == []
        assert report.unchecked == 3 * (AT + 1), "they cannot be computed any more"
        assert report.recomputed == len(published(each)) - report.unchecked
        assert set(report.controls) == {f"the memory of worker {w} began anew before update {s}" for w, s in ANEW}


def test_a_wish_that_the_run_ended_before_is_shown_from_its_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_watcher, "STOP_POLL_S", 1e6)  # nobody looks for it
    run = broken(lost_memory="reset")
    spoil(run, train(Drifting, steps=9, **REMEMBERS))
    resumed(run)
    assert heeded(run) == set() and run.summary().stop == "steps"
    report = run.verify(deep=1)
    assert report.faults == []
    assert report.controls == [f"the memory of worker 1 began anew before update {AT + 2}"]
    assert list(run.status().changes) == report.controls and run.summary().controls == ()
    (change,) = Trace.of(run).meta["controls"]
    assert change["commit"] is None and change["value"] == [1, AT + 2]
    assert (report.recomputed, report.unchecked) == (len(published(run)) - 1, 1), "all but the one that nobody computed"


def spoil(run: lambdaml.Run, whole: lambdaml.Run) -> None:
    """Publish the next update of worker 1, with a content that nobody computed."""
    key = keys.update(1, AT + 1)
    assert run.store.get(key) is None
    update = Update.read(whole.store.get(key) or b"", key)
    update.body = {name: array + array.dtype.type(1) for name, array in update.body.items()}
    put(run, key, update.pack())


def put(run: Any, key: str, data: bytes) -> None:
    """Put an object as old as those of the vanished function; a young one would be a sign of life."""
    run.store.put(key, data)
    (_, modified) = run.store._objects[keys.RUN]
    run.store._objects[key] = (data, modified)


def test_damaged_updates_alone_since_the_newest_memory_need_no_recovery() -> None:
    run = broken(recover_s=1e-9)
    assert run.store.get(keys.memory(1, AT + 1)) is not None
    put(run, keys.update(1, AT + 1), b"damaged")
    resumed(run)
    assert run.verify(deep=1).faults == []
    assert run.summary().fates["rejected"] == 1


def test_a_memory_is_not_taken_that_knows_more_of_the_log_than_the_update_after_it() -> None:
    """A function whose lease was lost may have written it."""
    run = broken(recover_s=1e-9)
    key = keys.memory(1, 3)
    late = Memory.read(run.store.get(key) or b"", key)
    late.arrays, late.pending = {"residual": np.full(21, 0.5, np.float32)}, {}
    run.store.delete([info.key for info in run.store.list(keys.MEMORY)])
    put(run, key, late.dump(late.ready_commit + 2))
    resumed(run)
    assert model_bytes(run) == model_bytes(train(Drifting, steps=9, **REMEMBERS))

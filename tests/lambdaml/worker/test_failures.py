"""After a failure a run stands where it stood: once the cause is gone, `resume` ends with the bits of an undisturbed run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import lambdaml
from lambdaml.errors import AccessDenied, BadObject, JobFailed, ReplicaDiverged, StoreUnavailable
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.storage import MemoryStore
from lambdaml.storage.patience import Patience
from lambdaml.storage.retry import ATTEMPTS
from lambdaml.training.replica import Replica
from tests.lambdaml.lab import Tiny, memory, model_bytes

STEPS = 12
OPTIONS: dict[str, Any] = {"workers": 3, "steps": STEPS, "functions": 2, "snapshot_every": 2}


class Broken(Tiny):
    """Its loss, or its evaluation, fails from a certain call on while there is a cause."""

    def __init__(self) -> None:
        super().__init__()
        self.cause: BaseException | None = None
        self.at = "loss"
        self.after = 8
        self.calls = 0

    def _meet(self, place: str) -> None:
        if self.cause is not None and place == self.at:
            self.calls += 1
            if self.calls > self.after:
                raise self.cause

    def loss(self, model: nn.Module, batch: Any) -> Any:
        self._meet("loss")
        return super().loss(model, batch)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        self._meet("evaluate")
        return super().evaluate(model)


@pytest.fixture(scope="module")
def plain() -> lambdaml.Run:
    store = memory()
    lambdaml.train(Tiny(), store.url, **OPTIONS)
    return lambdaml.Run(store)


def assert_nothing_is_final(store: MemoryStore) -> None:
    run = lambdaml.Run(store)
    assert store.get(keys.STOP) is None
    assert store.get(keys.MODEL) is None
    assert all(commit.stop is None for commit in run.log())
    assert run.status().state == "stopped", "leases are given back"


def assert_it_goes_on(store: MemoryStore, job: Tiny, plain: lambdaml.Run) -> None:
    result = lambdaml.resume(store.url, job=job)
    assert (result.stop, result.version) == ("steps", STEPS)
    run = lambdaml.Run(store, job)
    assert model_bytes(run) == model_bytes(plain)
    assert run.metrics() == plain.metrics()
    assert run.verify().faults == []


@pytest.mark.parametrize("cause", [ValueError("bad sample"), MemoryError()], ids=repr)
@pytest.mark.parametrize("at", ["loss", "evaluate"])
@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_a_job_that_failed_is_gone_on_with(cause: Exception, at: str, schedule: str, plain: lambdaml.Run) -> None:
    job, store = Broken(), memory()
    job.cause, job.at, job.after = cause, at, 8 if at == "loss" else 1
    with pytest.raises((JobFailed, MemoryError)):
        lambdaml.train(job, store.url, schedule=schedule, **OPTIONS)
    assert_nothing_is_final(store)
    with pytest.raises((JobFailed, MemoryError)):
        lambdaml.resume(store.url, job=job)
    job.cause = None
    if schedule == "bsp":
        assert_it_goes_on(store, job, plain)
    else:
        assert lambdaml.resume(store.url, job=job).stop == "steps"
        assert lambdaml.Run(store, job).verify().faults == []


@pytest.mark.parametrize("target", [None, "accuracy>=2"])
def test_functions_leave_when_an_evaluation_has_failed(target: str | None) -> None:
    """The run is far from its end then; with a target its writer waits for evaluations."""
    job, store = Broken(), memory()
    job.cause, job.at, job.after = ValueError("no"), "evaluate", 1
    with pytest.raises(JobFailed, match="no"):
        lambdaml.train(job, store.url, workers=2, steps=100_000, functions=2, snapshot_every=2, target=target)
    assert_nothing_is_final(store)


def test_an_evaluation_that_fails_at_the_very_end_is_made_up_for(plain: lambdaml.Run) -> None:
    job, store = Broken(), memory()
    job.cause, job.at, job.after = ValueError("no"), "evaluate", len(plain.metrics()) - 1
    with pytest.raises(JobFailed, match="no"):
        lambdaml.train(job, store.url, **OPTIONS)
    job.cause = None
    assert_it_goes_on(store, job, plain)


def test_a_target_that_was_met_when_its_metrics_could_not_be_written_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create, store = MemoryStore.try_create, memory()

    def refuse(self: MemoryStore, key: str, data: Any) -> bool:
        if key.startswith(keys.METRICS):
            raise AccessDenied(f"create {key}: no")
        return create(self, key, data)

    options = OPTIONS | {"steps": 100_000}
    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "try_create", refuse)
        with pytest.raises(AccessDenied):
            lambdaml.train(Tiny(), store.url, target="accuracy>=0.5", **options)
    result = lambdaml.resume(store.url, job=Tiny())
    assert result.stop == "target"
    assert result.metrics["accuracy"] >= 0.5


@pytest.mark.parametrize("error", [AccessDenied, StoreUnavailable])
@pytest.mark.parametrize("part", [keys.UPDATES, keys.LOG, keys.SNAPSHOTS, keys.METRICS])
def test_a_store_that_refused_is_gone_on_with(
    error: type[Exception], part: str, monkeypatch: pytest.MonkeyPatch, plain: lambdaml.Run
) -> None:
    """From the fourth object of a kind on."""
    create, store, job = MemoryStore.try_create, memory(), Tiny()
    met: list[str] = []

    def refuse(self: MemoryStore, key: str, data: Any) -> bool:
        if key.startswith(part) and key not in met:
            met.append(key)
        if key in met[3:]:
            raise error(f"create {key}: no")
        return create(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "try_create", refuse)
        patch.setattr("lambdaml.storage.retry.pause_s", lambda attempt, uniform: 0.0)
        patch.setattr(
            Patience, "patience_s", property(lambda patience: 0.0, lambda patience, seconds: None), raising=False
        )
        with pytest.raises(error):
            lambdaml.train(job, store.url, **OPTIONS)
    assert_nothing_is_final(store)
    assert_it_goes_on(store, job, plain)


@pytest.mark.parametrize("part", [keys.UPDATES, keys.LOG, keys.SNAPSHOTS, keys.METRICS, keys.USAGE])
def test_a_store_that_was_down_for_a_while_is_waited_for(
    part: str, monkeypatch: pytest.MonkeyPatch, plain: lambdaml.Run
) -> None:
    """Each object of a kind is refused for longer than a request is repeated, whoever writes it."""
    create, store = MemoryStore.try_create, memory()
    tries: Counter[str] = Counter()
    events: list[str] = []

    def refuse(self: MemoryStore, key: str, data: Any) -> bool:
        tries[key] += 1
        if key.startswith(part) and key != keys.snapshot(0) and tries[key] <= ATTEMPTS + 3:
            raise StoreUnavailable(f"create {key}: not now")
        return create(self, key, data)

    monkeypatch.setattr(MemoryStore, "try_create", refuse)
    monkeypatch.setattr("lambdaml.storage.retry.pause_s", lambda attempt, uniform: 0.0)
    monkeypatch.setattr("lambdaml.storage.patience.FIRST_PAUSE_S", 0.001)
    result = lambdaml.train(Tiny(), store.url, on_event=lambda event: events.append(event.event), **OPTIONS)
    assert model_bytes(lambdaml.Run(store)) == model_bytes(plain)
    assert result.metrics == plain.metrics()[STEPS]
    assert {"outage", "recovered"} <= {*events}
    assert lambdaml.Run(store, Tiny()).verify().faults == []


@pytest.mark.parametrize(
    ("key", "schedule"), [(keys.log(1), "asp"), (keys.snapshot(4), "bsp"), (keys.RUN, "bsp")], ids=str
)
def test_an_object_that_is_damaged_at_its_place_is_named_and_when_it_is_whole_again_the_run_goes_on(
    key: str, schedule: str, plain: lambdaml.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambdaml.log.reads.PAUSES_S", (0.0, 0.0))
    store = broken_off(schedule)
    whole = bytes(store.get(key) or b"")
    assert whole
    newest = 0 if schedule == "asp" else 4
    store.delete([info.key for info in store.list(keys.SNAPSHOTS) if keys.number(info.key) > newest])
    store.put(key, whole[:-9])
    with pytest.raises(BadObject, match=key):
        lambdaml.resume(store.url, job=Tiny())
    store.put(key, whole)
    assert_nothing_is_final(store)
    if schedule == "bsp":
        assert_it_goes_on(store, Tiny(), plain)
    else:
        assert lambdaml.resume(store.url, job=Tiny()).stop == "steps"


def broken_off(schedule: str) -> MemoryStore:
    """A run that was interrupted after some five versions and four commits."""
    store = memory()

    def leave(event: Event) -> None:
        if event.event == "commit" and min(event.version - 2, event.commit) >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lambdaml.train(Tiny(), store.url, schedule=schedule, on_event=leave, **OPTIONS)
    return store


def test_replicas_that_differed_are_gone_on_with_when_they_no_longer_do(
    plain: lambdaml.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function that does not write the log flips a bit in its weights, once."""
    apply: Callable[..., None] = Replica.apply
    made: list[Replica] = []

    def spoiled(self: Replica, *arguments: Any, **options: Any) -> None:
        apply(self, *arguments, **options)
        if self not in made:
            made.append(self)
        if len(made) == 2 and made[1] is self and self.version == 3:
            next(self.model.parameters()).data[0, 0] += 1e-6

    store = memory()
    with monkeypatch.context() as patch:
        patch.setattr(Replica, "apply", spoiled)
        with pytest.raises(ReplicaDiverged):
            lambdaml.train(Tiny(), store.url, **(OPTIONS | {"snapshot_every": 1}))
    assert_nothing_is_final(store)
    result = lambdaml.resume(store.url, job=Tiny())
    assert (result.stop, result.version) == ("steps", STEPS)

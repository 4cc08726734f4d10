"""Evaluation of snapshots, outside the workers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.errors import JobFailed, SettingsError
from lambdaml.log import keys, wire
from lambdaml.log.snapshot import State
from lambdaml.log.stops import request_stop
from lambdaml.storage import copy
from lambdaml.storage.memory import MemoryStore
from lambdaml.training.evaluation import Evaluated, Evaluator, best, evaluate
from tests.lambdaml.lab import Made, Tiny, memory, model_bytes, train


@pytest.fixture(scope="module")
def trained() -> lambdaml.Run:
    return train(workers=2, steps=8, snapshot_every=2)


@pytest.fixture
def run(trained: lambdaml.Run) -> lambdaml.Run:
    """Its snapshots, but no metrics."""
    target = memory()
    copy(trained.store, target)
    target.delete([info.key for info in target.list(keys.METRICS)])
    return lambdaml.Run(target)


def state_of(run: lambdaml.Run, version: int) -> State:
    return State.load(run.store.get(keys.snapshot(version)) or b"", keys.snapshot(version))


def test_every_snapshot_but_the_first_is_evaluated_once_and_in_order(run: lambdaml.Run) -> None:
    events: list[dict[str, Any]] = []
    evaluator = Evaluator(run.store, run.settings, Tiny(), emit=events.append)
    evaluator.catch_up()
    evaluator.catch_up()
    assert [event.version for event in events] == [2, 4, 6, 8]
    assert run.metrics() == {event.version: event.metrics for event in events}
    again: list[dict[str, Any]] = []
    Evaluator(run.store, run.settings, Tiny(), emit=again.append).catch_up()
    assert again == []


def test_an_evaluation_that_was_lost_is_made_up_for(run: lambdaml.Run) -> None:
    Evaluator(run.store, run.settings, Tiny()).catch_up()
    before = run.metrics()
    run.store.delete([keys.metrics(4)])
    Evaluator(run.store, run.settings, Tiny()).catch_up()
    assert run.metrics() == before


def test_the_model_is_in_eval_mode_with_gradients_off(run: lambdaml.Run) -> None:
    seen: list[tuple[bool, bool]] = []

    def watch(model: nn.Module) -> dict[str, float]:
        seen.append((model.training, torch.is_grad_enabled()))
        return {}

    evaluate(Made(evaluate=watch), state_of(run, 4))
    assert seen == [(False, False)]
    assert torch.is_grad_enabled()


def test_the_weights_are_those_of_the_snapshot(run: lambdaml.Run) -> None:
    expected = Tiny()
    model = expected.model()
    model.load_state_dict(state_of(run, 6).model())
    assert evaluate(Tiny(), state_of(run, 6)) == expected.evaluate(model)


def test_evaluating_does_not_change_the_training() -> None:
    """However much the job draws from random streams, and whatever it does to the model it is given."""

    def wild(model: nn.Module) -> dict[str, float]:
        torch.manual_seed(1)
        torch.rand(100)
        model.train()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        return {"x": 1.0}

    quiet = train(Made(), workers=2, steps=8)
    assert model_bytes(train(Made(evaluate=wild), workers=2, steps=8, snapshot_every=1)) == model_bytes(quiet)


def test_the_first_snapshot_that_meets_the_target_stops_the_run_and_no_later_one(run: lambdaml.Run) -> None:
    settings = run.settings.model_copy(update={"target": "step>=3"})
    calls = iter(range(1, 9))
    job = Made(evaluate=lambda model: {"step": next(calls)})
    Evaluator(run.store, settings, job).catch_up()
    assert wire.load_json(run.store.get(keys.STOP) or b"", keys.STOP) == {"reason": "target", "version": 6}


@pytest.mark.parametrize(
    ("target", "version"), [("x>=1", 4), ("x>0.1", 4), ("x<=0", 2), ("x<5", 2), ("y>=0", 6), ("z>=0", None)]
)
def test_the_best_snapshot_lies_farthest_in_the_targets_direction(target: str, version: int | None) -> None:
    metrics = {2: {"x": 0.5}, 4: {"x": 2.0}, 6: {"x": 2.0, "y": 0.0}, 8: {"x": math.nan, "z": math.inf}}
    found = best(metrics, target)
    assert (found and found.version) == version
    assert found is None or found.metrics == metrics[found.version]


def test_a_result_names_the_first_that_met_the_target_and_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.0, 0.1, 0.6, 0.5, 0.9, 0.9, *[0.2] * 100])  # the first is asked for before the run begins
    store = memory()
    get = MemoryStore.get

    def late(self: MemoryStore, key: str) -> Any:
        """The wish to stop is found once a few more snapshots were evaluated, as on a machine that is slow to look."""
        early = key == keys.STOP and self.head(keys.metrics(4)) is None
        return None if early else get(self, key)

    monkeypatch.setattr(MemoryStore, "get", late)
    job = Made(evaluate=lambda model: {"x": next(values)})
    found = lambdaml.train(job, store, workers=1, steps=40, snapshot_every=1, target="x>=0.5")
    assert (found.stop, found.version, found.metrics) == ("target", 2, {"x": 0.6})
    evaluated = lambdaml.Run(store).metrics()
    assert found.best == Evaluated(4, {"x": 0.9}) and evaluated[4] == {"x": 0.9}
    assert lambdaml.train(Made(), memory(), workers=1, steps=4).best is None


def test_the_stop_can_be_read_once_the_metrics_can(run: lambdaml.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits for an evaluation must not go on past one that met the target."""
    order: list[str] = []
    create = run.store.create

    def noting(key: str, data: bytes) -> Any:
        order.append(key)
        return create(key, data)

    monkeypatch.setattr(run.store, "create", noting)
    settings = run.settings.model_copy(update={"target": "x>=0"})
    Evaluator(run.store, settings, Made(evaluate=lambda model: {"x": 1.0})).catch_up()
    assert order[:2] == [keys.STOP, keys.metrics(2)]


def test_the_first_wish_to_stop_stands() -> None:
    store = memory()
    request_stop(store, "cancelled")
    request_stop(store, "target", 3)
    assert wire.load_json(store.get(keys.STOP) or b"", keys.STOP) == {"reason": "cancelled", "version": None}


@pytest.mark.parametrize("value", [None, 3.0, [1], {"accuracy": "high"}, {"accuracy": None}, {"a": torch.ones(2)}])
def test_metrics_that_are_no_numbers_by_name_are_refused(run: lambdaml.Run, value: Any) -> None:
    with pytest.raises(JobFailed, match="must return numbers by name") as caught:
        evaluate(Made(evaluate=lambda model: value), state_of(run, 2))
    assert "\n" not in str(caught.value)


def test_metrics_may_be_anything_that_is_a_number(run: lambdaml.Run) -> None:
    values = {"tensor": torch.tensor(0.5), "integer": 3, "truth": True}
    found = evaluate(Made(evaluate=lambda model: values), state_of(run, 2))
    assert found == {"tensor": 0.5, "integer": 3.0, "truth": 1.0}
    assert all(type(value) is float for value in found.values())


def test_a_target_whose_metric_vanished_is_named(run: lambdaml.Run) -> None:
    settings = run.settings.model_copy(update={"target": "accuracy>=1"})
    with pytest.raises(SettingsError, match="the job reports loss"):
        Evaluator(run.store, settings, Made(evaluate=lambda model: {"loss": 1.0})).catch_up()

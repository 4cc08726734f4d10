"""A run is judged by one metric, and stops when that does not get better for as many evaluations as it was told."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import nn

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.log import keys, wire
from lambdaml.training.evaluation import Evaluator
from lambdaml.training.gains import Yardstick
from tests.lambdaml.lab import Made, Tiny, broken_off, train


@pytest.mark.parametrize(
    ("name", "target", "better"),
    [
        *(("accuracy", None, "more"), ("loss", None, "less"), ("val_loss", None, "less"), ("word error", None, "less")),
        *(("terror", None, "more"), ("loss", "loss>=1", "more"), ("loss", "accuracy>=1", "less")),
        ("accuracy", "accuracy<0.5", "less"),
    ],
)
def test_less_is_better_by_the_targets_direction_or_by_the_name(name: str, target: str | None, better: str) -> None:
    assert Yardstick.of(name, target).better == better


def test_a_run_is_judged_by_its_target_or_by_the_first_metric_that_its_job_reports() -> None:
    assert Yardstick.of_run({"zeal": 1.0, "accuracy": 0.5}, None) == Yardstick("zeal", less=False)
    assert Yardstick.of_run({"zeal": 1.0, "accuracy": 0.5}, "loss<1") == Yardstick("loss", less=True)
    assert Yardstick.of_run({}, None) is None


@pytest.mark.parametrize(("patience", "version"), [(1, 3), (2, 6), (3, 7), (4, None)])
def test_patience_runs_out_at_the_first_evaluation_that_is_one_too_many(patience: int, version: int | None) -> None:
    values = {1: 0.1, 2: 0.5, 3: 0.5, 4: 0.6, 5: math.nan, 6: 0.2, 7: math.nan}
    metrics = {number: {"accuracy": value} for number, value in values.items()}
    yardstick = Yardstick.of("accuracy")
    assert yardstick.best(metrics) == (4, 0.6)
    assert yardstick.gains(metrics) == [(1, 0.1), (2, 0.5), (4, 0.6)]
    assert yardstick.runs_out(metrics, patience) == version


class Worse(Tiny):
    """A job whose first metric gets worse with each evaluation, while the second one gets better."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        self.count += 1
        return {"zeal": -float(self.count), "accuracy": float(self.count)}


def test_a_run_stops_when_its_metric_has_not_improved_and_its_result_is_the_last_version() -> None:
    options: dict[str, Any] = {"workers": 2, "steps": 400, "snapshot_every": 2, "engine": "inline"}
    url = "memory://early-stopping"
    result = lambdaml.train(Worse, url, patience_evaluations=3, **options)
    run = lambdaml.Run(url)
    assert (result.stop, run.settings.patience_evaluations) == ("patience", 3)
    assert 8 <= result.version < 400
    assert result.best is not None
    assert (result.best.version, result.version == run.version()) == (2, True)
    assert list(result.best.metrics) == ["zeal", "accuracy"], "in the job's order"
    assert run.status().state == "stopped improving"
    assert run.verify().ok


def test_a_resumed_run_counts_the_evaluations_from_before() -> None:
    left = broken_off(Worse, at=7, workers=2, steps=400, snapshot_every=2, patience_evaluations=5)
    for version in (2, 4, 6):
        metrics = {"zeal": 9.0 - version, "accuracy": 0.0}
        left.store.delete([keys.metrics(version)])
        left.store.create(
            keys.metrics(version), wire.dump_json({"version": version, "metrics": metrics, "names": list(metrics)})
        )
    result = lambdaml.resume(left.store, engine="inline")
    assert (result.stop, result.best and result.best.version) == ("patience", 2)
    judged = [version for version in left.metrics() if version > 6]
    assert len(judged) >= 3


def test_patience_is_refused_for_a_job_that_reports_nothing() -> None:
    with pytest.raises(SettingsError, match=r"patience: Made\.evaluate reports no metric"):
        train(Made(), workers=1, steps=4, patience_evaluations=2, engine="inline")


def test_patience_goes_by_the_target_if_there_is_one() -> None:
    run = train(Worse, workers=1, steps=8, snapshot_every=2, engine="inline")
    settings = run.settings.model_copy(update={"target": "accuracy>=100", "patience_evaluations": 2})
    run.store.delete([info.key for info in run.store.list(keys.METRICS)])
    Evaluator(run.store, settings, Worse()).catch_up()
    assert run.store.head(keys.STOP) is None

"""The influence of all clients of a run, as `Run.influence` returns it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import lambdaml
from examples.clients import Clients
from lambdaml.engines import resources
from lambdaml.errors import JobError, SettingsError
from lambdaml.influence.measure import InfluenceReport
from tests.lambdaml.influence.little import OWNERS, Little, trained, without


class Recorded(Little):
    """The same, with a metric that more is better of."""

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        found = super().evaluate(model)
        return {"accuracy": found["accuracy"]}


@pytest.fixture(scope="module")
def run() -> lambdaml.Run:
    return trained(Little(lr=0.05), steps=8, extra="per-sample:3")


@pytest.fixture(scope="module")
def exact(run: lambdaml.Run) -> InfluenceReport:
    return run.influence(estimator="exact", truncation="none", truth=True)


def test_the_truth_is_the_metrics_of_the_models_without_a_client_less_those_of_the_run(
    run: lambdaml.Run, exact: InfluenceReport
) -> None:
    job = Little(lr=0.05)

    def metrics(weights: Any) -> Mapping[str, float]:
        model = job.model().eval()
        torch.nn.utils.vector_to_parameters(weights, model.parameters())
        return job.evaluate(model)

    whole = metrics(without(job, run, []))
    assert exact.metrics == pytest.approx(whole) and list(exact.metrics) == ["loss", "accuracy"]
    for each in exact.clients:
        there = metrics(without(job, run, [each.client]))
        assert each.truth == pytest.approx({name: there[name] - whole[name] for name in whole}, abs=1e-9)


def test_clients_are_ranked_by_their_value_and_listed_with_samples_and_turns(exact: InfluenceReport) -> None:
    assert (exact.judged_by, exact.less_is_better) == ("loss", True)
    changes = [each.influence["loss"] for each in exact.clients]
    assert changes == sorted(changes, reverse=True)
    assert {each.client: each.samples for each in exact.clients} == {n: OWNERS.count(n) for n in range(5)}
    assert sum(each.turns for each in exact.clients) == 16
    assert exact.correlation("loss") > 0.95
    assert exact.lowest(0.4) == sorted(each.client for each in exact.clients[-2:])
    assert exact.lowest(0.01) == [exact.clients[-1].client]


def test_harmful_clients_rank_lowest_by_every_estimate_and_in_truth() -> None:
    job = Clients(clients=10, harmful=2)
    run = trained(job, workers=10, schedule="cohort:3", steps=20, extra="per-sample:10")
    for estimator in ("exact", "fisher"):
        found = run.influence(estimator=estimator, truth=True)
        assert {each.client for each in found.clients[-2:]} == {8, 9}
        assert {each.client for each in sorted(found.clients, key=lambda each: each.truth["loss"])[:2]} == {8, 9}
        assert found.correlation("loss") > (0.99 if estimator == "exact" else 0.95)


def test_more_of_an_accuracy_is_better() -> None:
    found = trained(Recorded(), steps=8).influence(estimator="exact")
    changes = [each.influence["accuracy"] for each in found.clients]
    assert not found.less_is_better and changes == sorted(changes)
    assert math.isnan(found.correlation("accuracy"))


def test_recorded_gradients_estimate_without_reading_any_data(run: lambdaml.Run, exact: InfluenceReport) -> None:
    job = Little(lr=0.05)
    job.loss = None  # type: ignore[assignment]  # nobody may call it
    found = lambdaml.Run(run.store, job).influence()
    assert found.estimator == "fisher"
    estimates = ({each.client: each.influence["loss"] for each in one.clients} for one in (found, exact))
    pairs = [[one[client] for client in range(5)] for one in estimates]
    assert torch.corrcoef(torch.tensor(pairs))[0, 1] > 0.9


def test_an_earlier_version_is_judged_by_itself(run: lambdaml.Run) -> None:
    found = run.influence(estimator="exact", at=3)
    model = run.model(3)
    x, y = Little().dataset().tensors
    assert found.version == 3 and sum(each.turns for each in found.clients) == 6
    assert found.metrics["loss"] == pytest.approx(F.cross_entropy(model(x), y).item())


def test_a_client_that_never_took_part_has_no_influence(run: lambdaml.Run) -> None:
    found = run.influence(estimator="exact", at=1)
    idle = [each for each in found.clients if not each.turns]
    assert len(idle) == 3 and all(set(each.influence.values()) == {0.0} and not each.distance for each in idle)


def test_the_share_that_is_done_is_told(run: lambdaml.Run) -> None:
    told: list[float] = []
    run.influence(estimator="exact", at=4, progress=told.append)
    assert told == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_run_without_recorded_gradients_says_what_to_do() -> None:
    run = trained(Little(), steps=1)
    with pytest.raises(SettingsError, match="train with --extra per-sample:50, or use --estimator exact$"):
        run.influence()
    with pytest.raises(SettingsError, match="there is no estimator 'exakt'.*'exact'"):
        run.influence(estimator="exakt")


def test_a_job_without_metrics_is_refused() -> None:
    job = Little()
    job.evaluate = lambda model: {}  # type: ignore[method-assign]
    with pytest.raises(JobError, match="Little.evaluate reports no metric"):
        trained(job, steps=1).influence(estimator="exact")


def test_more_than_the_free_memory_is_refused_with_the_bytes(
    run: lambdaml.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "free_memory_bytes", lambda: 1000)
    with pytest.raises(SettingsError, match="5 clients on 43 parameters takes 0.0 GB of memory, and 0.0 GB are free"):
        run.influence()

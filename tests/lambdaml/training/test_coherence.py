"""Gradient coherence: along a training, from a run's snapshots, and while it runs."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
import torch
from torch import nn

import lambdaml
from examples.digits import Digits
from lambdaml.errors import SettingsError
from lambdaml.training.coherence import Coherence, Point, Probe, Tolerance, coherence, measure_coherence, sequential
from lambdaml.training.evaluation import Evaluator
from lambdaml.training.one_thread import OneThread
from tests.lambdaml.lab import Made, Tiny, table, train

A4 = {"samples": 1000, "lags": (16,), "batch_size": 1000}


class Deep(Digits):
    """ReLU layers of width 64 with He's initial weights."""

    def __init__(self, depth: int) -> None:
        super().__init__(lr=0.04)
        self.depth = depth

    def model(self) -> nn.Module:
        layers = [layer for _ in range(self.depth) for layer in (nn.Linear(64, 64), nn.ReLU())]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        return model


def late_cosine(depth: int, seed: int) -> float:
    job = Deep(depth)
    late = (state for state in sequential(job, 300, seed=seed) if state[0] >= 184)
    return measure_coherence(Probe(job, **A4), late).cosine(late=1.0)[16]


def test_deep_networks_are_less_coherent() -> None:
    """Check A4 of the staleness study (arXiv 1810.03264): SGD at 0.04, 300 steps, 1,000 samples, lag 16."""
    with OneThread() as compute:
        found = {
            depth: fmean(compute.submit(late_cosine, depth, seed).result() for seed in range(2))
            for depth in (0, 1, 4, 6)
        }
    assert found[0] > found[1] >= 0.9
    assert 0.4 >= found[4] > found[6]


class Bowl(Made):
    """A quadratic in two weights whose gradient is the weights: every value can be computed by hand."""

    def __init__(self) -> None:
        super().__init__(loss=lambda model, batch: model.weight.square().sum() / 2)

    def model(self) -> nn.Module:
        return nn.Linear(2, 1, bias=False)


def bowl(*weights: float) -> nn.Module:
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([weights])
    return model


def test_cosine_projection_and_mu_are_those_of_the_definition() -> None:
    states = [(0, bowl(0.0, 2.0)), (1, bowl(2.0, 2.0)), (2, bowl(1.0, 0.0)), (4, bowl(-3.0, 0.0))]
    found = measure_coherence(Probe(Bowl(), lags=(1, 2, 3)), states)
    assert [point.norm for point in found.points] == pytest.approx([2, 8**0.5, 1, 3])
    assert [sorted(point.cosine) for point in found.points] == [[], [1], [1, 2], [2, 3]]
    assert found.points[1].cosine[1] == pytest.approx(0.5**0.5)
    assert found.points[2].projection == pytest.approx({1: 2.0, 2: 0.0})
    assert found.points[3].cosine == pytest.approx({2: -1.0, 3: -(0.5**0.5)})
    assert found.points[3].projection == pytest.approx({2: -1 / 3, 3: -2 / 3})
    assert [point.mu(3) for point in found.points] == pytest.approx([1, 0.5, 0.0, -1 / 3])
    assert (found.mu(1), found.mu(4)) == pytest.approx((1.0, -2 / 3))
    assert found.cosine(late=0.25) == pytest.approx({2: -1.0, 3: -(0.5**0.5)})


def test_a_gradient_that_vanished_has_no_direction() -> None:
    found = measure_coherence(Probe(Bowl()), [(0, bowl(1.0, 0.0)), (1, bowl(0.0, 0.0)), (2, bowl(1.0, 1.0))])
    assert [sorted(point.cosine) for point in found.points] == [[], [], [2]]


def along(**cosines: float) -> Coherence:
    return Coherence((Point(9, 1.0, {int(lag[1:]): value for lag, value in cosines.items()}, {}),))


def test_tolerance_is_where_the_mean_cosine_falls_below_half() -> None:
    assert along(_1=0.9, _4=0.8).tolerance() == Tolerance(4.0, True)
    assert along(_1=0.9, _4=0.6, _8=0.4, _16=0.9).tolerance() == Tolerance(pytest.approx(6.0), False)
    assert along(_2=0.0).tolerance() == Tolerance(pytest.approx(1.0), False)
    assert Coherence(()).tolerance() == Tolerance(0.0, True)


def test_measuring_leaves_the_model_and_the_training_as_they_were() -> None:
    job = Made(lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)))

    def trained(probe: Probe | None) -> dict[str, Any]:
        for step, model in sequential(job, 6):
            if probe is not None:
                probe.add(step, model)
                assert model.training
        return model.state_dict()

    plain, probed = trained(None), trained(Probe(job, 20))
    assert all(torch.equal(plain[name], probed[name]) for name in plain)


def test_the_reference_gradient_is_that_of_the_mean_loss_in_any_batches() -> None:
    model = nn.Linear(6, 3)
    job = Made(dataset=lambda: table(50))
    whole, parts = (Probe(job, 50, batch_size=size).gradient(model) for size in (50, 7))
    assert torch.allclose(whole, parts, atol=1e-7)
    loss = job.loss(model, table(50).tensors)
    assert torch.allclose(
        whole, torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())]).double()
    )


@pytest.fixture(scope="module")
def run() -> lambdaml.Run:
    return train(Tiny, workers=2, steps=8, snapshot_every=2, coherence=True)


def test_a_run_is_measured_from_its_snapshots(run: lambdaml.Run) -> None:
    found = coherence(run)
    assert [point.step for point in found.points] == [0, 2, 4, 6, 8]
    assert [sorted(point.cosine) for point in found.points] == [[], [2], [2, 4], [2, 4, 6], [2, 4, 6, 8]]
    asked = coherence(run, 30, lags=[4, 5])
    assert [sorted(point.cosine) for point in asked.points] == [[], [], [4], [4], [4]]
    with pytest.raises(SettingsError, match="samples"):
        coherence(run, 0)
    with pytest.raises(SettingsError, match="lags"):
        coherence(run, lags=[0])


def test_a_run_measures_itself_while_it_runs(run: lambdaml.Run) -> None:
    points = coherence(run).points[1:]
    expected = [point.cosine[2] for point in points]
    assert [metrics["coherence"] for metrics in run.metrics().values()] == expected
    run.store.delete(["metrics/0000000006.json"])  # and whoever goes on with it compares with the snapshot before
    Evaluator(run.store, run.settings, Tiny()).catch_up()
    assert [metrics["coherence"] for metrics in run.metrics().values()] == expected


def test_coherence_is_off_unless_asked_for() -> None:
    assert all("coherence" not in metrics for metrics in train(workers=2, steps=2).metrics().values())


def test_one_snapshot_is_not_enough(run: lambdaml.Run) -> None:
    store = lambdaml.storage.MemoryStore("one-snapshot")
    lambdaml.storage.copy(run.store, store)
    store.delete([f"snapshots/{version:010d}.safetensors" for version in (2, 4, 6, 8)])
    with pytest.raises(SettingsError, match="keeps 1 snapshot"):
        coherence(lambdaml.Run(store))

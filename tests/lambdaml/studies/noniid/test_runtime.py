"""Each algorithm of the study is the run of `lambdaml.train` that its options say: the same batches, sums and statistics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from lambdaml import Job, Run, train
from lambdaml.studies.noniid.algorithms import ALGORITHMS_UNDER_SKEW, LOCAL_STEPS, RUN_OPTIONS
from lambdaml.studies.noniid.dealing import BATCH, PARTITIONS_OF_STUDY, Dealing, partition_of, training_images
from lambdaml.studies.noniid.engine import RATE, train_under_skew
from lambdaml.studies.noniid.nets import NETS, flat_state

SEED = 3


class SkewedDigits(Job):
    """The study's data, model and steps, as a job."""

    batch_size = BATCH

    def __init__(self, net: str, norm: str, rate: float) -> None:
        self.net, self.norm, self.rate = net, norm, rate

    def model(self) -> nn.Module:
        torch.manual_seed(SEED)
        return NETS[self.net](self.norm)

    def dataset(self) -> TensorDataset:
        images = training_images()
        return TensorDataset(images.inputs.view(-1, *images.shape), images.labels)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.rate)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        images = training_images()
        found = model(images.test_inputs.view(-1, *images.shape)).argmax(1)
        return {"accuracy": (found == images.test_labels).double().mean().item()}


@pytest.mark.parametrize(
    ("algorithm", "net", "norm", "skew", "iterations"),
    [
        ("bsp", "mlp", "batch", 100, 10),
        ("gaia", "cnn", "batch", 80, 10),
        ("fedavg", "cnn", "batch", 60, 2 * LOCAL_STEPS),
        ("dgc", "mlp", "group", 100, 2 * Dealing.per_epoch + 2),
    ],
)
def test_each_algorithm_is_the_run_of_its_options(
    algorithm: str, net: str, norm: str, skew: int, iterations: int, tmp_path: Path
) -> None:
    rate = RATE / PARTITIONS_OF_STUDY if algorithm == "gaia" else RATE
    job = SkewedDigits(net, norm, rate)
    trained = train(
        job,
        str(tmp_path / "run"),
        engine="inline",
        workers=PARTITIONS_OF_STUDY,
        steps=iterations // ALGORITHMS_UNDER_SKEW[algorithm]().steps,
        partition=partition_of(skew),
        seed=SEED,
        **RUN_OPTIONS[algorithm],
    )
    (course,) = train_under_skew(net, norm, algorithm, [(skew, SEED)], iterations)
    parameters, statistics = flat_state(Run(str(tmp_path / "run"), job).model())
    torch.testing.assert_close(course.shared, parameters, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(course.statistics, statistics, rtol=1e-4, atol=1e-5)
    assert course.accuracy == pytest.approx(trained.metrics["accuracy"], abs=1.5 / 360)

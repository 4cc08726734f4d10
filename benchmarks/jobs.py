"""Jobs of known cost for the benchmarks: data and weights are generated, a step takes what its size says."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from lambdaml import Job


class Dense(Job):
    """A network of two hidden layers. With its defaults a step takes about 10 ms on one core of a 2020s server."""

    def __init__(self, width: int = 256, batch: int = 1024, samples: int = 32_768) -> None:
        self.width, self.batch_size, self.samples = width, batch, samples

    def model(self) -> nn.Module:
        w = self.width
        return nn.Sequential(nn.Linear(w, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU(), nn.Linear(w, 10))

    def dataset(self) -> Dataset[tuple[Tensor, ...]]:
        stream = torch.Generator().manual_seed(0)
        x = torch.randn(self.samples, self.width, generator=stream)
        return TensorDataset(x, torch.randint(0, 10, (self.samples,), generator=stream))

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


class Payload(Job):
    """A gradient of `floats` numbers and next to no compute: what is measured is communication."""

    batch_size = 1

    def __init__(self, floats: int = 250_000, samples: int = 4096) -> None:
        self.floats, self.samples = floats, samples

    def model(self) -> nn.Module:
        return nn.Linear(self.floats, 1, bias=False)

    def dataset(self) -> Dataset[tuple[Tensor, ...]]:
        return TensorDataset(torch.arange(self.samples, dtype=torch.float32))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        weight = next(model.parameters())
        return weight.sum() * batch[0].mean() * 1e-9

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.01)

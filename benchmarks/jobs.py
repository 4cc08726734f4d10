"""Jobs of known cost for the benchmarks. Data and weights are generated, and a step takes what its size implies."""

import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from lambdaml import Job


class Classifier(Job):
    """Random images and labels. The network determines the time of a step."""

    def dataset(self) -> Dataset[tuple[Tensor, ...]]:
        stream = torch.Generator().manual_seed(0)
        x = torch.randn(self.samples, *self.shape, generator=stream)
        return TensorDataset(x, torch.randint(0, 10, (self.samples,), generator=stream))

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


class Convolutions(Classifier):
    """Three convolutions with much compute and an update of 0.1 MB. A step takes about 10 ms on one core."""

    def __init__(self, batch: int = 32, samples: int = 8192) -> None:
        self.batch_size, self.samples, self.shape = batch, samples, (3, 16, 16)

    def model(self) -> nn.Module:
        layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(32, 10))


class Adaptive(Convolutions):
    """The same network with Adam, whose state has twice the model's size."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)


class Dense(Classifier):
    """Two hidden layers with an update of 0.5 MB for as much compute. A step takes about 10 ms on one core."""

    def __init__(self, width: int = 256, batch: int = 1024, samples: int = 32_768) -> None:
        self.width, self.batch_size, self.samples, self.shape = width, batch, samples, (width,)

    def model(self) -> nn.Module:
        w = self.width
        return nn.Sequential(nn.Linear(w, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU(), nn.Linear(w, 10))


class Stack(Classifier):
    """Sixteen square layers with about this many parameters in all, to measure memory."""

    batch_size, samples = 4, 64

    def __init__(self, parameters: float = 20e6, momentum: float = 0.9) -> None:
        self.width = max(1, round((parameters / 16) ** 0.5))
        self.momentum, self.shape = momentum, (self.width,)

    def model(self) -> nn.Module:
        layers = [nn.Linear(self.width, self.width, bias=False) for _ in range(16)]
        return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())], nn.Linear(self.width, 10))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=self.momentum)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"loss": float(self.loss(model, self.dataset()[:8]))}


class Judged(Classifier):
    """A linear model on 64 points: a step takes almost no time, and an evaluation takes `seconds`."""

    batch_size, samples, shape = 8, 64, (8,)

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def model(self) -> nn.Module:
        return nn.Linear(8, 10)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        time.sleep(self.seconds)
        return {"quality": 0.5}


class Paced(Judged):
    """The same model, but a step takes `seconds` and no core."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        time.sleep(self.seconds)
        return super().loss(model, batch)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"quality": 0.5}


class Payload(Job):
    """A gradient of `floats` numbers with almost no compute, to measure communication."""

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


class Asleep(Payload):
    """A gradient of `floats` numbers that takes `seconds` without using a core."""

    def __init__(self, seconds: float = 0.03, floats: int = 25_000, samples: int = 4096) -> None:
        super().__init__(floats, samples)
        self.seconds = seconds

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        time.sleep(self.seconds)
        return super().loss(model, batch)


class _DigitImages(Job):
    """The bundled digits as images of 8 x 8, 1,437 to train on and 360 to test. `decay` lowers the learning rate by the square
    root of the epoch."""

    batch_size = 32

    def __init__(self, lr: float = 0.1, decay: bool = False) -> None:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        self.lr, self.decay = lr, decay
        images, labels = load_digits(return_X_y=True)
        parts = train_test_split(images / 8 - 1, labels, test_size=360, stratify=labels, random_state=0)
        self.x, self.test_x, self.y, self.test_y = (torch.tensor(part) for part in parts)

    def dataset(self) -> Dataset[tuple[Tensor, ...]]:
        return TensorDataset(self.x.float(), self.y)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.lr)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler | None:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, _by_root) if self.decay else None

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        logits = model(self.test_x.float())
        return {
            "accuracy": (logits.argmax(1) == self.test_y).double().mean().item(),
            "loss": F.cross_entropy(logits, self.test_y).item(),
        }


def _by_root(step: int) -> float:
    return float((1 + step / 45) ** -0.5)  # 45 steps on one batch each are an epoch


class LinearDigits(_DigitImages):
    """Softmax regression: a convex loss."""

    def model(self) -> nn.Module:
        return nn.Linear(64, 10)


class DeepDigits(_DigitImages):
    """Two hidden layers of 64."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class Agreeing(_DigitImages):
    """Softmax regression in double precision that takes one long step, and then none."""

    scheduler_interval = "step"

    def model(self) -> nn.Module:
        return nn.Linear(64, 10).double()

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0].double()), batch[1])

    def scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, _once)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


def _once(step: int) -> float:
    return float(step == 0)


class ConvolvedDigits(_DigitImages):
    """A small convolutional network with batch normalisation, as in LambdaML's image models."""

    def model(self) -> nn.Module:
        layers = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
        layers += [nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


class _Generated(Dataset[tuple[Tensor, Tensor]]):
    """Samples of ten classes that are made when they are asked for: a class's centre and noise, moved a little for each
    client."""

    def __init__(self, clients: int, each: int, classes: int = 10, size: int = 64) -> None:
        self._clients, self._each, self._size = clients, each, size
        self._centres = np.random.RandomState(0).standard_normal((classes, size)).astype(np.float32)

    def __len__(self) -> int:
        return self._clients * self._each

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        client, draw = index // self._each, np.random.RandomState(1 + index)
        label = (client + draw.randint(2)) % len(self._centres)  # two classes for each client
        moved = 0.3 * np.random.RandomState(2**31 + client).standard_normal(self._size)
        x = self._centres[label] + moved + 1.5 * draw.standard_normal(self._size)
        return torch.from_numpy(x.astype(np.float32)), torch.tensor(label)


class Clients(Job):
    """Many clients with a few samples each, which take no memory: they are generated. An update has 10 kB."""

    batch_size = 20

    def __init__(self, clients: int = 5000, each: int = 20) -> None:
        self.clients, self.each = clients, each

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def dataset(self) -> Dataset[tuple[Tensor, Tensor]]:
        return _Generated(self.clients, self.each)

    def partition(self, workers: int) -> np.ndarray:
        return np.arange(self.clients * self.each) // self.each

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        x, y = map(torch.stack, zip(*[_Generated(1000, 20)[20 * client] for client in range(1000)], strict=True))
        return {"accuracy": (model(x).argmax(1) == y).float().mean().item()}

"""Handwritten digits: scikit-learn's bundled 8x8 images and a small network, which reaches 0.95 in seconds.

Try:

    lambdaml train examples/digits.py:Digits --workers 4 --target 'accuracy>=0.95'
    lambdaml train examples/digits.py:Digits --workers 4 --schedule asp --set lr=0.2 --set hidden=64
"""

from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from lambdaml import Job

Batch = tuple[Tensor, Tensor]


class Digits(Job):
    batch_size = 32

    def __init__(self, lr: float = 0.4, momentum: float = 0.0, hidden: int = 128) -> None:
        self.lr, self.momentum, self.hidden = lr, momentum, hidden

    @cached_property
    def data(self) -> tuple[Batch, Batch]:
        """Return the training and the test set, 1437 and 360 images, split alike on every machine."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
        x_train, x_test, y_train, y_test = (torch.tensor(part) for part in parts)
        mean, std = x_train.mean(0), x_train.std(0).clamp_min(1.0)  # from the training images alone
        x_train, x_test = ((x - mean).div(std).float() for x in (x_train, x_test))
        return (x_train, y_train), (x_test, y_test)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 10))

    def dataset(self) -> Dataset[tuple[Tensor, ...]]:
        return TensorDataset(*self.data[0])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.lr, momentum=self.momentum)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        x, y = self.data[1]
        logits = model(x)
        return {"accuracy": (logits.argmax(1) == y).double().mean().item(), "loss": F.cross_entropy(logits, y).item()}

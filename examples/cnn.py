"""A small convolutional network with batch normalisation on the digits, whose state therefore includes buffers."""

from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from lambdaml import Job

Batch = tuple[Tensor, Tensor]


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU(), nn.MaxPool2d(2))


class DigitsCNN(Job):
    batch_size = 32

    def __init__(self, lr: float = 0.003, width: int = 16) -> None:
        self.lr, self.width = lr, width

    @cached_property
    def data(self) -> tuple[Batch, Batch]:
        """Return the training and the test set, 1437 and 360 images of 1x8x8, split alike on every machine."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        parts = train_test_split(images.reshape(-1, 1, 8, 8), labels, test_size=360, stratify=labels, random_state=0)
        x_train, x_test, y_train, y_test = (torch.tensor(part) for part in parts)
        mean, std = x_train.mean(), x_train.std()  # from the training images alone
        x_train, x_test = ((x - mean).div(std).float() for x in (x_train, x_test))
        return (x_train, y_train), (x_test, y_test)

    def model(self) -> nn.Module:
        convolutions = nn.Sequential(block(1, self.width), block(self.width, 2 * self.width))
        return nn.Sequential(convolutions, nn.Flatten(), nn.Linear(2 * self.width * 2 * 2, 10))

    def dataset(self) -> Dataset[tuple[Tensor, ...]]:
        return TensorDataset(*self.data[0])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.05)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=self.lr)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        x, y = self.data[1]
        logits = model(x)
        return {"accuracy": (logits.argmax(1) == y).double().mean().item(), "loss": F.cross_entropy(logits, y).item()}

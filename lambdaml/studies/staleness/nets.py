"""Any torch module in many copies at once (torch.func: vmap over grad of functional_call): CNN, ResNet-8 and VAE.

They are small enough for two cores. ResNet-8 is the 6k + 2 layers of He et al. (2016) with k = 1. It normalises by
group rather than by batch, because the running statistics of batches are neither gradients nor updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from lambdaml.studies.data import Images


class _Stacked:
    """Copies of a module, each a row of a stack."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self._make = make
        self._module = make()
        self._shapes = {name: value.shape for name, value in self._module.named_parameters()}
        self.size = sum(shape.numel() for shape in self._shapes.values())

    def initial(self, seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.cat([value.detach().flatten() for value in self._make().parameters()])

    def call(self, flat: Tensor, *inputs: Tensor) -> Tensor:
        """Call one copy, [size], on inputs."""
        parts = torch.split(flat, [shape.numel() for shape in self._shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts)}
        return torch.as_tensor(functional_call(self._module, named, inputs))


class Classifier(_Stacked):
    """A `lambdaml.studies.staleness.learning.Problem` with mean cross-entropy as loss and test accuracy as quality."""

    rising = True

    def __init__(self, images: Images, make: Callable[[], nn.Module]) -> None:
        super().__init__(make)
        self._images, self.samples = images, len(images.inputs)
        self._gradients: Callable[..., Tensor] = vmap(grad(self._loss))

    def _loss(self, flat: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.call(flat, inputs), labels)

    def gradients(self, parameters: Tensor, samples: Tensor, seed: int) -> Tensor:
        inputs = self._images.inputs[samples].view(*samples.shape, *self._images.shape)
        return self._gradients(parameters, inputs, self._images.labels[samples])

    def quality(self, parameters: Tensor) -> Tensor:
        inputs = self._images.test_inputs.view(-1, *self._images.shape)
        with torch.no_grad():
            found = torch.stack([self.call(row, inputs).argmax(1) for row in parameters])
        return (found == self._images.test_labels).double().mean(1)


class Autoencoder(_Stacked):
    """A `lambdaml.studies.staleness.learning.Problem`: a Gaussian VAE (Kingma and Welling 2014), by reparametrisation.

    The loss is half the squared error summed over features, plus the divergence from the standard normal. Quality is
    the same on the test set.
    """

    rising = False

    def __init__(self, images: Images, width: int, depth: int = 1, latent: int = 8) -> None:
        super().__init__(lambda: _Vae(images.inputs.shape[1], width, depth, latent))
        self._images, self.samples = images, len(images.inputs)
        draw = torch.Generator().manual_seed(0)
        self._noise = torch.randn(4099, latent, generator=draw)
        self._gradients: Callable[..., Tensor] = vmap(grad(self._loss))

    def _loss(self, flat: Tensor, inputs: Tensor, noise: Tensor) -> Tensor:
        return self.call(flat, inputs, noise)

    def gradients(self, parameters: Tensor, samples: Tensor, seed: int) -> Tensor:
        return self._gradients(parameters, self._images.inputs[samples], self._noise[(samples + 31 * seed) % 4099])

    def quality(self, parameters: Tensor) -> Tensor:
        inputs = self._images.test_inputs
        noise = self._noise[torch.arange(len(inputs)) % 4099]
        with torch.no_grad():
            return torch.stack([self.call(row, inputs, noise) for row in parameters]).double()


def cnn(images: Images, width: int = 16) -> Classifier:
    """Make two 3x3 convolutions, the second of stride 2, and a linear layer."""
    channels, height, wide = images.shape

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, width // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * math.ceil(height / 2) * math.ceil(wide / 2), images.classes),
        )

    return Classifier(images, make)


def resnet8(images: Images, width: int = 8) -> Classifier:
    """Make a convolution, three residual blocks of two, of 1, 2 and 4 times this width, and a linear layer."""

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(images.shape[0], width, 3, padding=1, bias=False),
            nn.GroupNorm(2, width),
            nn.ReLU(),
            _Block(width, width, 1),
            _Block(width, 2 * width, 2),
            _Block(2 * width, 4 * width, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, images.classes),
        )

    return Classifier(images, make)


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, stride=stride, bias=False),
            nn.GroupNorm(2, after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.GroupNorm(2, after),
        )
        same = before == after and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        return F.relu(self.body(values) + self.around(values))


class _Vae(nn.Module):
    def __init__(self, features: int, width: int, depth: int, latent: int) -> None:
        super().__init__()
        self.encoder = _dense([features, *[width] * depth, 2 * latent])
        self.decoder = _dense([latent, *[width] * depth, features])

    def forward(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Return the mean loss of these inputs."""
        mean, log_variance = self.encoder(inputs).chunk(2, -1)
        found = self.decoder(mean + noise * torch.exp(0.5 * log_variance))
        wrong = 0.5 * (found - inputs).square().sum(-1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        return torch.mean(wrong + divergence)


def _dense(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])

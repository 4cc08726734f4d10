"""Many multilayer perceptrons at once: multinomial logistic regression (without hidden layers) and deep networks.

Each row of a stack [rows, size] is one network. A layer is one batched product over all rows, and the gradients are
written out by hand: at these sizes memory and calls take the time, and autograd would double both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lambdaml.studies.data import Images


@dataclass(frozen=True, slots=True)
class Mlp:
    """ReLU networks of these widths. A layer is stored as weight [in, out], then bias [out].

    Attributes:
        widths: The number of inputs, the width of each hidden layer, and the number of classes.
    """

    widths: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of parameters of one network."""
        return sum((before + 1) * after for before, after in zip(self.widths, self.widths[1:]))

    def initial(self, seed: int) -> Tensor:
        """Return one network, [size], initialised as by torch.nn.Linear: uniform within 1 / sqrt(inputs)."""
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for before, after in zip(self.widths, self.widths[1:]):
            bound = 1 / math.sqrt(before)
            parts.append(torch.empty((before + 1) * after).uniform_(-bound, bound, generator=generator))
        return torch.cat(parts)

    def logits(self, networks: Tensor, inputs: Tensor) -> Tensor:
        """Return the logits [rows, samples, classes] of inputs [rows, samples, features]."""
        return self._forward(networks, inputs)[-1]

    def gradients(self, networks: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the gradients, [rows, size], of each row's mean cross-entropy; labels are [rows, samples]."""
        *hidden, logits = self._forward(networks, inputs)
        delta = torch.softmax(logits, 2)
        delta.scatter_add_(2, labels[:, :, None], torch.full_like(delta, -1.0)[:, :, :1])
        delta.div_(labels.shape[1])
        gradients = torch.empty_like(networks)
        layers = list(zip(hidden, self._layers(networks), self._layers(gradients)))
        for number, (below, (weight, _), (d_weight, d_bias)) in reversed(list(enumerate(layers))):
            torch.bmm(below.transpose(1, 2), delta, out=d_weight)
            torch.sum(delta, 1, out=d_bias)
            if number:
                delta = torch.bmm(delta, weight.transpose(1, 2))
                delta = torch.ops.aten.threshold_backward(delta, below, 0)
        return gradients

    def _forward(self, networks: Tensor, inputs: Tensor) -> list[Tensor]:
        """Return the inputs of each layer, and the outputs of the last."""
        values = [inputs]
        for number, (weight, bias) in enumerate(self._layers(networks)):
            if number:
                values[-1] = F.relu_(values[-1])
            values.append(torch.baddbmm(bias[:, None], values[-1], weight))
        return values

    def _layers(self, networks: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return views of the weights [rows, in, out] and biases [rows, out] of each layer."""
        layers, start = [], 0
        for before, after in zip(self.widths, self.widths[1:]):
            weight = networks[:, start : start + before * after].view(-1, before, after)
            start += before * after
            layers.append((weight, networks[:, start : start + after]))
            start += after
        return layers


class MlpProblem:
    """Images classified by `depth` hidden layers (0: multinomial logistic regression). Quality: test accuracy."""

    rising = True

    def __init__(self, images: Images, depth: int, width: int) -> None:
        self._images = images
        self.net = Mlp((images.inputs.shape[1], *[width] * depth, images.classes))
        self.size, self.samples = self.net.size, len(images.inputs)

    def initial(self, seed: int) -> Tensor:
        return self.net.initial(seed)

    def gradients(self, parameters: Tensor, samples: Tensor, seed: int) -> Tensor:
        return self.net.gradients(parameters, self._images.inputs[samples], self._images.labels[samples])

    def quality(self, parameters: Tensor) -> Tensor:
        inputs = self._images.test_inputs.expand(len(parameters), -1, -1)
        found = self.net.logits(parameters, inputs).argmax(2)
        return (found == self._images.test_labels).double().mean(1)

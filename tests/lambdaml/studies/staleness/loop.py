"""The study as one would write it first: a loop over workers, with torch.optim and a list of what is under way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lambdaml.studies.data import Images
from lambdaml.studies.staleness.learning import Batches
from lambdaml.studies.staleness.mlp import Mlp
from lambdaml.traces.delays import Delays


def optimizer_of(algorithm: str, parameters: Sequence[Tensor], rate: float) -> torch.optim.Optimizer:
    """torch's own, with the study's constants."""
    made: dict[str, torch.optim.Optimizer] = {
        "sgd": torch.optim.SGD(parameters, rate),
        "momentum": torch.optim.SGD(parameters, rate, momentum=0.9),
        "adam": torch.optim.Adam(parameters, rate),
        "adagrad": torch.optim.Adagrad(parameters, rate),
        "rmsprop": torch.optim.RMSprop(parameters, rate, alpha=0.9),
    }
    return made[algorithm]


class LoopOverWorkers:
    """P workers, each with a model, an optimizer and a cache; the caches are flat vectors in the layout of `Mlp`."""

    def __init__(
        self,
        images: Images,
        widths: tuple[int, ...],
        algorithm: str,
        rate: float,
        delays: Delays,
        seed: int,
        workers: int,
        batch: int = 32,
    ) -> None:
        self.images, self.widths, self.delays, self.seed = images, widths, delays, seed
        self.caches = [Mlp(widths).initial(seed) for _ in range(workers)]
        self.models = [network(widths) for _ in range(workers)]
        self.optimizers = [optimizer_of(algorithm, list(model.parameters()), rate) for model in self.models]
        self.batches = Batches(seed, len(images.inputs), workers, batch)
        self.under_way: list[tuple[int, int, Tensor]] = []  # arrives, receiver, update
        self.done = 0

    def step(self) -> None:
        """One iteration of all workers."""
        workers = len(self.caches)
        drawn = self.delays.matrix(self.done, workers, workers, self.seed)
        for sender, samples in enumerate(self.batches.at(self.done)):
            update = self.update(sender, samples)
            for receiver in range(workers):
                self.under_way.append((self.done + int(drawn[sender, receiver]), receiver, update))
        for receiver in range(workers):
            arriving = [update for arrives, to, update in self.under_way if arrives == self.done and to == receiver]
            for update in arriving:
                self.caches[receiver] += update
        self.under_way = [waiting for waiting in self.under_way if waiting[0] > self.done]
        self.done += 1

    def update(self, worker: int, samples: Tensor) -> Tensor:
        """What the worker's optimizer adds to its cache."""
        model, optimizer, before = self.models[worker], self.optimizers[worker], self.caches[worker]
        load(model, before, self.widths)
        optimizer.zero_grad()
        F.cross_entropy(model(self.images.inputs[samples]), self.images.labels[samples]).backward()
        optimizer.step()
        return flat(model) - before

    def accuracy(self) -> float:
        """On the test set, of worker 0's cache."""
        load(self.models[0], self.caches[0], self.widths)
        with torch.no_grad():
            found = self.models[0](self.images.test_inputs).argmax(1)
        return float((found == self.images.test_labels).double().mean())


def network(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def load(model: nn.Sequential, vector: Tensor, widths: tuple[int, ...]) -> None:
    """Put a flat vector into a model. torch.nn.Linear keeps its weight transposed."""
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    sizes = [size for before, after in pairwise(widths) for size in (before * after, after)]
    parts = torch.split(vector, sizes)
    with torch.no_grad():
        for layer, weight, bias in zip(linear, parts[::2], parts[1::2]):
            layer.weight.copy_(weight.view(layer.in_features, layer.out_features).T)
            layer.bias.copy_(bias)


def flat(model: nn.Sequential) -> Tensor:
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    return torch.cat([part.detach().flatten() for layer in linear for part in (layer.weight.T, layer.bias)])

"""The study's models, in many copies at once (torch.func: vmap over grad of functional_call), with their buffers.

Each model comes with batch normalisation, with group normalisation, or without any. A copy's parameters are one row of a
stack, and its running statistics are one row of another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from lambdaml.errors import SettingsError, nearest

NORMS = ("batch", "group", "none")
"""The normalisations."""

_GROUPS = 4
_AT_ONCE = 32


def _cnn(norm: str) -> nn.Module:
    """Make two 3x3 convolutions of stride 2, of 8 and 16 channels, and a hidden layer of width 64, for 8x8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, stride=2),
        _normalised(norm, 8, nn.BatchNorm2d),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, stride=2),
        _normalised(norm, 16, nn.BatchNorm2d),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 2 * 2, 64),
        _normalised(norm, 64, nn.BatchNorm1d),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def _mlp(norm: str) -> nn.Module:
    """Make two hidden layers of width 64, for 8x8 images."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64),
        _normalised(norm, 64, nn.BatchNorm1d),
        nn.ReLU(),
        nn.Linear(64, 64),
        _normalised(norm, 64, nn.BatchNorm1d),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


NETS: dict[str, Callable[[str], nn.Module]] = {"cnn": _cnn, "mlp": _mlp}
"""The models by name, each a function of the normalisation."""


def demand_net(model: str, norm: str) -> None:
    """Make sure that a model and a normalisation exist. Raises SettingsError if one does not."""
    if model not in NETS:
        raise SettingsError(f"there is no model {model!r}{nearest(model, NETS)}")
    if norm not in NORMS:
        raise SettingsError(f"there is no normalisation {norm!r}{nearest(norm, NORMS)}")


def _normalised(norm: str, channels: int, batch: Callable[[int], nn.Module]) -> nn.Module:
    if norm == "batch":
        return batch(channels)
    return nn.GroupNorm(_GROUPS, channels) if norm == "group" else nn.Identity()


class Copies:
    """Copies of a model, whose parameters are the rows of a stack [rows, size], and whose running statistics are those
    of a stack [rows, statistics].

    Args:
        model: The name of the model.
        norm: The normalisation.

    Attributes:
        size: The number of parameters.
    """

    def __init__(self, model: str, norm: str) -> None:
        self._make = partial(NETS[model], norm)
        self._module = self._make()
        for layer in self._module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.num_batches_tracked = None  # a counter that no result depends on, and that `grad` cannot change
        self._shapes = {name: value.shape for name, value in self._module.named_parameters()}
        self._statistics = {name: value.shape for name, value in _running(self._module)}
        self.size = sum(shape.numel() for shape in self._shapes.values())
        self._gradients = vmap(grad(self._loss))
        self._logits = vmap(self._call, in_dims=(0, 0, None), chunk_size=_AT_ONCE)

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return the parameters, [size], and the running statistics, [statistics], of a new model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = self._make()
        return flat_state(made)

    def gradients(self, parameters: Tensor, statistics: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient, [rows, size], of each row's mean cross-entropy on its own batch. As in any training pass,
        the running statistics, [rows, statistics], change in place.

        Args:
            inputs: The images, [rows, batch, 1, 8, 8].
            labels: The classes, int64 [rows, batch].
        """
        self._module.train()
        # Views of the stack would be copied by `vmap`, and the copies updated.
        running = {name: part.contiguous() for name, part in _named(self._statistics, statistics).items()}
        found = self._gradients(_named(self._shapes, parameters), running, inputs, labels)
        if running:
            torch.cat([part.flatten(1) for part in running.values()], 1, out=statistics)
        return torch.cat([found[name].flatten(1) for name in self._shapes], 1)

    def predicted(self, parameters: Tensor, statistics: Tensor, inputs: Tensor) -> Tensor:
        """Return the class, int64 [rows, samples], that each row gives to each of these samples."""
        self._module.eval()
        with torch.no_grad():
            logits = self._logits(_named(self._shapes, parameters), _named(self._statistics, statistics), inputs)
        return logits.argmax(-1)

    def _call(self, parameters: dict[str, Tensor], statistics: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return torch.as_tensor(functional_call(self._module, (parameters, statistics), (inputs,)))

    def _loss(
        self, parameters: dict[str, Tensor], statistics: dict[str, Tensor], inputs: Tensor, labels: Tensor
    ) -> Tensor:
        return F.cross_entropy(self._call(parameters, statistics, inputs), labels)


def flat_state(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Return a module's parameters and its running statistics, each as one vector."""
    parameters = [value.detach().flatten() for value in module.parameters()]
    statistics = [value.flatten() for _, value in _running(module)]
    return torch.cat(parameters), torch.cat([torch.empty(0), *statistics])


def _running(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the buffers that are running statistics, which are all but the counters of batches."""
    return [(name, value) for name, value in module.named_buffers() if value.is_floating_point()]


def _named(shapes: dict[str, torch.Size], rows: Tensor) -> dict[str, Tensor]:
    parts = torch.split(rows, [shape.numel() for shape in shapes.values()], 1)
    return {name: part.reshape(len(rows), *shape) for (name, shape), part in zip(shapes.items(), parts)}

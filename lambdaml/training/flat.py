"""One flat gradient: every parameter's gradient is a view of it, so that backward fills it and the optimizer steps from it.

A plain loop clears gradients to None, and optimizers skip parameters that got none: no momentum, no weight decay. So it
is recorded which parameters a backward pass did not reach, and they are None again when the optimizer steps. Whoever sets
`.grad` to None or to a tensor of its own (`zero_grad()` in a loss, a hook) is heeded as a plain loop would.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lambdaml.errors import JobError

_BLOCK = 2**20
"""Numbers that are summed at once."""

ABSENT = "absent"
"""Part of an update: the numbers, int32 and rising, of the parameters that its backward pass did not reach."""


class FlatGradient:
    """The gradient of a model's trained parameters.

    Attributes:
        parameters: those that require a gradient, in the order of `model.parameters()`.
        lengths: of each, the numbers in the flat gradient. A complex parameter takes two for each of its own.
        size: of all.
        dtype: float32; float64 for a model with parameters in double precision.
        vector: the gradient, flat, on the model's device.
        host: the same in the CPU's memory. There it is the flat buffer itself, so sums land where steps read them.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._named = list(model.named_parameters())
        self._trained = [parameter.requires_grad for _, parameter in self._named]
        self.parameters = [parameter for _, parameter in self._named if parameter.requires_grad]
        wide = (torch.float64, torch.complex128)
        self.dtype = torch.float64 if any(p.dtype in wide for p in self.parameters) else torch.float32
        self.lengths = [_length(parameter) for parameter in self.parameters]
        self.size = sum(self.lengths)
        self.vector = torch.zeros(self.size, dtype=self.dtype, device=device)
        self.host: NDArray[Any] = self.vector.cpu().numpy()
        self._own = device.type == "cpu"
        self._targets: list[Tensor] = []  # what `.grad` is: a view of the flat gradient, or a tensor of another dtype
        self._odd: list[tuple[Tensor, Tensor]] = []  # the latter, each with its view
        self._reached: set[int] = set()
        self._versions: list[int] = []
        self._bits: list[int] | None = None  # of each parameter before the first forward pass
        self._first = True
        offset = 0
        for number, parameter in enumerate(self.parameters):
            view = self.vector[offset : offset + _length(parameter)]
            offset += _length(parameter)
            if parameter.dtype == self.dtype:
                self._targets.append(view.view_as(parameter))
            else:
                self._targets.append(torch.zeros(parameter.shape, dtype=parameter.dtype, device=device))
                self._odd.append((self._targets[-1], view))
            hook: Any = parameter.register_post_accumulate_grad_hook
            hook(partial(_reach, self._reached, number))  # hooks are out of sight of Python's search for circles
        self.attach()

    def attach(self) -> None:
        """Have every parameter's gradient be its own again."""
        for parameter, target in zip(self.parameters, self._targets, strict=True):
            if parameter.grad is not target:
                parameter.grad = target

    def begin(self) -> None:
        """To be called before the forward pass: gradients are zero from here on."""
        self.attach()
        self.vector.zero_()
        for gradient, _ in self._odd:
            gradient.zero_()
        self._reached.clear()
        self._versions = [parameter._version for _, parameter in self._named]
        self._bits = [sum_of_bits(parameter) for _, parameter in self._named] if self._first else None
        self._first = False

    def finish(self) -> NDArray[np.int32]:
        """To be called after the backward pass; returns the numbers of the parameters that it did not reach.

        Raises:
            JobError: the loss changed a parameter, or what is trained; the message names it.
        """
        self._demand_the_same()
        absent = []
        for number, (parameter, target) in enumerate(zip(self.parameters, self._targets, strict=True)):
            gradient = parameter.grad
            if gradient is None:
                target.zero_()
                absent.append(number)
            elif gradient is not target:
                target.copy_(gradient.to_dense() if gradient.layout != torch.strided else gradient)
            elif number not in self._reached:
                absent.append(number)
        self.attach()
        for gradient, view in self._odd:
            view.copy_(_real(gradient))
        return np.array(absent, np.int32)

    def divide(self, scale: float) -> bool:
        """Undo a loss scale; returns whether all is finite then."""
        self.vector /= scale
        return bool(torch.isfinite(self.vector).all())

    def to_host(self) -> NDArray[Any]:
        """`host`, which now holds the gradient. Valid until the next backward pass or step."""
        if not self._own:
            self.host[:] = self.vector.cpu().numpy()
        return self.host

    def from_host(self, absent: Collection[int]) -> None:
        """Have the parameters' gradients be what `host` holds, and None for those that are absent; `attach` afterwards."""
        if not self._own:
            self.vector.copy_(torch.from_numpy(self.host))
        for gradient, view in self._odd:
            _real(gradient).copy_(view)
        for number in absent:
            self.parameters[number].grad = None

    def values(self) -> NDArray[Any]:
        """A copy of the trained parameters, laid out like the gradient."""
        parts = [_real(parameter.detach()).to(self.dtype) for parameter in self.parameters]
        return torch.cat(parts).cpu().numpy()

    def check(self, absent: NDArray[Any] | None) -> str:
        """What is wrong with an update's list of absent parameters; "" for nothing."""
        if absent is None:
            return ""
        numbers = absent.tolist() if absent.dtype == np.int32 and absent.ndim == 1 else [-1]
        if numbers != sorted(set(numbers)) or not numbers or numbers[0] < 0 or numbers[-1] >= len(self.parameters):
            return "names parameters without a gradient that the model does not have"
        return ""

    def _demand_the_same(self) -> None:
        for number, (name, parameter) in enumerate(self._named):
            trained, version = self._trained[number], self._versions[number]
            if parameter.requires_grad != trained:
                raise JobError(
                    f"the loss changed requires_grad of {name}: what is trained is fixed when the run begins"
                )
            # What is changed through `.data` has no new version. Looking at every bit is too slow to be done each time.
            if parameter._version != version or (self._bits and self._bits[number] != sum_of_bits(parameter)):
                raise JobError(
                    f"computing the loss changed parameter {name}: only the run's optimizer may "
                    "(is there another optimizer, a clamp, or nn.Embedding(max_norm=...)?)"
                )


def _reach(reached: set[int], number: int, parameter: Tensor) -> None:
    reached.add(number)


def _length(parameter: Tensor) -> int:
    return parameter.numel() * (2 if parameter.is_complex() else 1)


def sum_of_bits(tensor: Tensor) -> int:
    """A number that changes with nearly every change of the tensor's bits. Torch copies what it sums as another type."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    real = _real(tensor.detach())
    bits, total = real.view(whole[real.element_size()]), 0
    for start in range(0, bits.numel(), _BLOCK):
        total += int(bits[start : start + _BLOCK].sum(dtype=torch.int64))
    return total


def _real(tensor: Tensor) -> Tensor:
    """Flat and real: a complex number is two."""
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)

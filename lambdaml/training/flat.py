"""Every parameter's gradient is a view of one flat gradient, which backward fills and the optimizer steps from.

A plain loop clears gradients to None, and optimizers skip parameters that got none: no momentum, no weight decay. So we
record which parameters a backward pass did not reach, and set their gradients to None again when the optimizer steps.
If the user's code sets `.grad` to None or to a tensor of its own (`zero_grad()` in a loss, a hook), that has the same
effect as in a plain loop.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lambdaml.codecs import Layout
from lambdaml.errors import JobError

_BLOCK = 2**20
"""This many numbers are summed at once."""

ABSENT = "absent"
"""This part of an update lists the parameters that its backward pass did not reach, by their numbers (int32,
rising)."""


class FlatGradient:
    """Holds the gradient of a model's trained parameters.

    Attributes:
        parameters: The parameters that require a gradient, in the order of `model.parameters()`.
        layout: The layout of the flat gradient: a tensor for each parameter. A complex number becomes two.
        size: How many numbers the flat gradient has.
        dtype: The type float32, or float64 for a model with parameters in double precision.
        vector: The flat gradient on the model's device.
        host: The same in the CPU's memory. On the CPU it is the flat buffer itself, so sums go where steps read them.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._named = list(model.named_parameters())
        self._trained = [parameter.requires_grad for _, parameter in self._named]
        self.parameters = [parameter for _, parameter in self._named if parameter.requires_grad]
        self.layout = layout_of(model)
        self.dtype = torch.float64 if self.layout.dtype == "float64" else torch.float32
        self.size = self.layout.size
        self.vector = torch.zeros(self.size, dtype=self.dtype, device=device)
        self.host: NDArray[Any] = self.vector.cpu().numpy()
        self._own = device.type == "cpu"
        self._targets: list[Tensor] = []  # each `.grad`: a view of the flat gradient, or a tensor of another dtype
        self._odd: list[tuple[Tensor, Tensor]] = []  # tensors of another dtype, each with its view
        self._reached: set[int] = set()
        self._versions: list[int] = []
        self._bits: list[int] | None = None  # the sum of each parameter's bits before the first forward pass
        self._first = True
        for number, (parameter, span) in enumerate(zip(self.parameters, self.layout.spans, strict=True)):
            view = self.vector[span]
            if parameter.dtype == self.dtype:
                self._targets.append(view.view_as(parameter))
            else:
                self._targets.append(torch.zeros(parameter.shape, dtype=parameter.dtype, device=device))
                self._odd.append((self._targets[-1], view))
            hook: Any = parameter.register_post_accumulate_grad_hook
            hook(partial(_reach, self._reached, number))  # Python's garbage collector does not see into hooks
        self.attach()

    def attach(self) -> None:
        """Set every parameter's `.grad` to its own tensor again."""
        for parameter, target in zip(self.parameters, self._targets, strict=True):
            if parameter.grad is not target:
                parameter.grad = target

    def begin(self) -> None:
        """Set all gradients to zero; call this before the forward pass."""
        self.attach()
        self.vector.zero_()
        for gradient, _ in self._odd:
            gradient.zero_()
        self._reached.clear()
        self._versions = [parameter._version for _, parameter in self._named]
        self._bits = [sum_of_bits(parameter) for _, parameter in self._named] if self._first else None
        self._first = False

    def finish(self) -> NDArray[np.int32]:
        """Complete the flat gradient and return the numbers of the parameters that the backward pass did not reach.
        Call this after the backward pass.

        Raises:
            JobError: If the loss changed a parameter or its `requires_grad`; the message names it.
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

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Add a tensor for each trained parameter, in their order, to the flat gradient."""
        for tensor, span in zip(tensors, self.layout.spans, strict=True):
            self.vector[span] += tensor.reshape(-1).to(self.dtype)

    def average(self, samples: int) -> None:
        """Divide the flat gradient by a number of samples.

        Raises:
            JobError: If a parameter changed since `begin`, or its `requires_grad`; the message names it.
        """
        self.vector /= samples
        self._demand_the_same()

    def divide(self, scale: float) -> bool:
        """Undo a loss scale, and return whether the gradient is finite then."""
        self.vector /= scale
        return bool(torch.isfinite(self.vector).all())

    def to_host(self) -> NDArray[Any]:
        """Return `host`, which now holds the gradient. It is valid until the next backward pass or step."""
        if not self._own:
            self.host[:] = self.vector.cpu().numpy()
        return self.host

    def put(self, vector: NDArray[Any]) -> None:
        """Leave this vector in the flat gradient."""
        self.host[:] = vector
        if not self._own:
            self.vector.copy_(torch.from_numpy(self.host))

    def from_host(self, absent: Collection[int]) -> None:
        """Set the parameters' gradients to what `host` holds, and those of absent parameters to None. Call `attach`
        afterwards."""
        if not self._own:
            self.vector.copy_(torch.from_numpy(self.host))
        self.prepare(absent)

    def prepare(self, absent: Collection[int]) -> None:
        """Set the parameters' gradients to what the flat gradient holds, and those of absent parameters to None. Call
        `attach` afterwards."""
        for gradient, view in self._odd:
            _real(gradient).copy_(view)
        for number in absent:
            self.parameters[number].grad = None

    def values(self) -> NDArray[Any]:
        """Return a copy of the trained parameters, laid out like the gradient."""
        parts = [_real(parameter.detach()).to(self.dtype) for parameter in self.parameters]
        return torch.cat(parts).cpu().numpy()

    def pull(self, centre: NDArray[Any], strength: float) -> None:
        """Add to the flat gradient that of `strength` / 2 times the squared distance from `centre`."""
        offset = torch.from_numpy(self.values() - centre).to(self.vector.device)
        self.vector.add_(offset, alpha=strength)

    def restore(self, values: NDArray[Any]) -> None:
        """Set the trained parameters to these values, laid out like the gradient."""
        with torch.no_grad():
            for parameter, place, shape in zip(self.parameters, self.layout.spans, self.layout.shapes, strict=True):
                own = torch.from_numpy(values[place]).reshape(shape)
                parameter.copy_(torch.view_as_complex(own) if parameter.is_complex() else own)

    def displace(self, start: NDArray[Any]) -> None:
        """Leave in the flat gradient how far the parameters are from `start`, and set them back to `start`."""
        for parameter, place in zip(self.parameters, self.layout.spans, strict=True):
            now = _real(parameter.detach()).to(self.dtype).cpu().numpy()
            np.subtract(now, start[place], out=self.host[place])
        self.restore(start)
        if not self._own:
            self.vector.copy_(torch.from_numpy(self.host))

    def check(self, absent: NDArray[Any] | None) -> str:
        """Return what is wrong with an update's list of absent parameters; "" if nothing is."""
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
            # A change through `.data` makes no new version. Looking at every bit is too slow to do it each time.
            if parameter._version != version or (self._bits and self._bits[number] != sum_of_bits(parameter)):
                raise JobError(
                    f"computing the loss changed parameter {name}: only the run's optimizer may "
                    "(is there another optimizer, a clamp, or nn.Embedding(max_norm=...)?)"
                )


def layout_of(model: nn.Module) -> Layout:
    """Return the layout of the flat gradient of a model's trained parameters. A complex number becomes two, and one
    parameter in double precision makes all double."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    shapes = tuple((*parameter.shape, *([2] if parameter.is_complex() else [])) for parameter in parameters)
    wide = any(parameter.dtype in (torch.float64, torch.complex128) for parameter in parameters)
    return Layout(shapes, "float64" if wide else "float32")


def _reach(reached: set[int], number: int, parameter: Tensor) -> None:
    reached.add(number)


def sum_of_bits(tensor: Tensor) -> int:
    """Return a number that changes with nearly every change of the tensor's bits. It sums in pieces, since torch copies
    what it sums as another type."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    real = _real(tensor.detach())
    bits, total = real.view(whole[real.element_size()]), 0
    for start in range(0, bits.numel(), _BLOCK):
        total += int(bits[start : start + _BLOCK].sum(dtype=torch.int64))
    return total


def _real(tensor: Tensor) -> Tensor:
    """Return the tensor flat and real; a complex number becomes two."""
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)

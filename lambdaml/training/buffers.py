"""A model's buffers are saved before a forward pass, sent in updates with their new values, and merged.

A forward pass in training may write into buffers: running averages, counters, observers' bounds, whatever a module
likes. An update carries each buffer that changed, with its value afterwards and in its own dtype, so that one worker's
buffers are those of a plain loop, bit for bit, even if they are infinite, complex or of another shape than before. If a
step has several updates, they are merged:

| the buffer | becomes |
|---|---|
| floating or complex | its value plus the weighted mean of the changes |
| began at +inf (-inf): a running minimum (maximum), as PyTorch's observers keep | the least (greatest) |
| integers, booleans | its value plus the largest change |
| no arithmetic gives its value: not finite, or another shape | the value in the last update of the step |

If the schedule may apply an update to a later version, the update also carries the change itself.
If updates carry whole models, they carry all buffers, and the value that changes are added to is zero: a buffer becomes the
weighted mean, the least, the greatest or the largest value, or stays if all values are the same.
Buffers that are not in the `state_dict` are carried in the same way, from their first change on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lambdaml.errors import JobError
from lambdaml.log.encoding import shown
from lambdaml.log.records import Body

Kind = Literal["mean", "least", "most", "count", "last"]
Kept = list[tuple[Tensor, Tensor]]
"""A saved buffer is a pair: the tensor itself, and a copy of its values."""

LOCAL = "buffer/"
"""In a snapshot, the names of buffers that are not in the `state_dict` begin with this."""


class Buffers:
    """Handles the buffers of one model.

    Args:
        model: The model. Buffers whose elements share memory (as `expand` makes them) get memory of their own.
        late: Whether updates may be applied to another version than the one that they were computed from.
        whole: Whether updates carry whole models.
    """

    def __init__(self, model: nn.Module, late: bool, whole: bool = False) -> None:
        self._late, self._whole = late and not whole, whole
        self._modules = list(model.modules())
        persistent = model.state_dict(keep_vars=True)
        self._names: list[str] = []
        self._places: list[tuple[nn.Module, str]] = []
        self._kinds: list[Kind] = []
        self._locals: set[int] = set()
        self._travelled: set[int] = set()
        seen: dict[int, int] = {}
        for prefix, module in model.named_modules():
            for attribute, buffer in module._buffers.items():
                if buffer is None or id(buffer) in seen:
                    continue
                if _overlaps(buffer):
                    buffer = module._buffers[attribute] = buffer.clone(memory_format=torch.contiguous_format)
                seen[id(buffer)] = len(self._names)
                name = f"{prefix}.{attribute}" if prefix else attribute
                if name not in persistent:
                    self._locals.add(len(self._names))
                self._names.append(name)
                self._places.append((module, attribute))
                self._kinds.append(_kind(buffer))
        self._known = [_members(module) for module in self._modules]

    def keep(self) -> Kept:
        """Save the buffers; call this before a forward pass."""
        return [(buffer, buffer.detach().clone()) for buffer in map(self._at, range(len(self._names)))]

    def changes(self, kept: Kept) -> Body:
        """Return what an update carries, as raw bytes: `b<number>` is a buffer afterwards, `d<number>` is its change.

        Raises:
            JobError: If a buffer came, went or changed its dtype; the message names it.
        """
        self._demand_the_same()
        body: Body = {}
        for number, (_, before) in enumerate(kept):
            now = self._at(number).detach()
            if now.dtype != before.dtype:
                raise JobError(
                    f"buffer {self._names[number]} changed from {before.dtype} to {now.dtype} in the forward pass: "
                    "make it of that dtype in model()"
                )
            if _same(now, before) and not self._whole:
                continue
            body[f"b{number}"] = _raw(now)
            if self._late and now.shape == before.shape and self._kinds[number] in ("mean", "count"):
                body[f"d{number}"] = _raw(_change(now, before))
        return body

    def restore(self, kept: Kept) -> None:
        """Restore the saved buffers, even if the model now has other tensors in their place."""
        with torch.no_grad():
            for (module, attribute), (buffer, before) in zip(self._places, kept, strict=True):
                module._buffers[attribute] = buffer
                if buffer.shape != before.shape:
                    buffer.resize_(before.shape)
                buffer.detach().copy_(before)

    def put(self, body: Body) -> None:
        """Set the buffers that an update carries to what they became there."""
        for number in range(len(self._names)):
            if f"b{number}" in body:
                self._set(number, self._tensor("b", number, body))

    def check(self, body: Body) -> str:
        """Return what is wrong with the parts of an update that are not its gradient; "" if nothing is."""
        for name, array in body.items():
            number = int(name[1:]) if name[:1] in ("b", "d") and name[1:].isdecimal() else -1
            if not 0 <= number < len(self._names):
                return f"holds {name!r}, which is no part of an update to this model"
            dtype = self._dtype(name[0], number)
            if array.dtype.name != "uint8" or array.ndim < 1 or array.shape[-1] != dtype.itemsize:
                return f"has a buffer {self._names[number]} that is not {dtype}"
            after = body.get(f"b{number}")
            if after is None or (name[0] == "d" and array.shape[:-1] != after.shape[:-1]):
                return f"has a change of buffer {self._names[number]} without what it became"
        return ""

    def merge(self, bodies: Sequence[Body], weights: Sequence[float], fresh: Sequence[bool]) -> None:
        """Merge the buffers in the updates of a step into the model.

        Args:
            bodies: The parts of each update.
            weights: The weight of each update in the step's mean.
            fresh: For each update, whether it was computed from this very version.
        """
        for number in range(len(self._names)):
            name = f"b{number}"
            said = [at for at, body in enumerate(bodies) if name in body]
            if not said:
                continue
            if number in self._locals:
                self._travelled.add(number)
            if len(bodies) == 1 and fresh[0] and weights[0] == 1.0:
                self._set(number, self._tensor("b", number, bodies[0]))
            else:
                self._set(number, self._merged(number, said, bodies, weights, fresh))

    def _merged(
        self, number: int, said: list[int], bodies: Sequence[Body], weights: Sequence[float], fresh: Sequence[bool]
    ) -> Tensor:
        now, kind = self._at(number).detach().cpu(), self._kinds[number]
        after = {at: self._tensor("b", number, bodies[at]) for at in said}
        last = after[said[-1]]
        untold = any(not fresh[at] and f"d{number}" not in bodies[at] for at in said)
        if self._whole:
            now = torch.zeros_like(last)
        if kind == "last" or any(value.shape != now.shape for value in after.values()):
            return last
        if self._whole and all(_same(value, last) for value in after.values()):
            return last
        if kind in ("least", "most"):
            stay = not self._whole and (len(said) < len(bodies) or not all(fresh))
            pick = torch.fmin if kind == "least" else torch.fmax
            found = now if stay else after[said[0]]
            for value in after.values():
                found = pick(found, value)
            return found
        if untold:
            return last
        change = {at: _change(after[at], now) if fresh[at] else self._tensor("d", number, bodies[at]) for at in said}
        if kind == "count":
            largest = [now.long().new_zeros(now.shape)] if len(change) < len(bodies) else []
            largest += [value.long() for value in change.values()]
            return (now.long() + torch.stack(largest).amax(0)).to(now.dtype)
        wide = _wide(now.dtype)
        total = torch.zeros_like(now, dtype=wide)
        for at, value in change.items():
            total += value.to(wide) * weights[at]
        found = (now.to(wide) + total).to(now.dtype)
        arithmetic = torch.isfinite(now) & torch.isfinite(found)
        for value in after.values():
            arithmetic &= torch.isfinite(value)
        return torch.where(arithmetic | (total == 0), found, last)

    def state(self) -> dict[str, Tensor]:
        """Return the buffers that are not in the `state_dict` and have changed."""
        return {LOCAL + self._names[number]: shown(self._at(number)) for number in sorted(self._travelled)}

    def load(self, tensors: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
        """Load what `state` gave, and make room for the buffers of a `state_dict`."""
        self._travelled = set()
        for number, name in enumerate(self._names):
            found = tensors.get(LOCAL + name) if number in self._locals else model.get(name)
            if found is None:
                continue
            if number in self._locals:
                self._travelled.add(number)
                self._set(number, found)
            elif found.shape != self._at(number).shape:
                self._set(number, torch.zeros_like(found))

    def _at(self, number: int) -> Tensor:
        module, attribute = self._places[number]
        buffer = module._buffers.get(attribute)
        if buffer is None:
            raise JobError(
                f"buffer {self._names[number]} is gone after the forward pass: keep it, or make it None before"
            )
        return buffer

    def _set(self, number: int, value: Tensor) -> None:
        buffer = self._at(number)
        with torch.no_grad():
            if buffer.shape != value.shape:
                module, attribute = self._places[number]
                module._buffers[attribute] = value.to(buffer.device, copy=True)
            else:
                buffer.detach().copy_(value)

    def _dtype(self, part: str, number: int) -> torch.dtype:
        """Return the dtype of a buffer (`b`) or of its change (`d`)."""
        return torch.int64 if part == "d" and self._kinds[number] == "count" else self._at(number).dtype

    def _tensor(self, part: str, number: int, body: Body) -> Tensor:
        raw, dtype = body[f"{part}{number}"], self._dtype(part, number)
        shape = raw.shape[:-1]
        flat = torch.from_numpy(raw.reshape(-1).copy())
        return flat.view(dtype).reshape(shape) if flat.numel() else torch.zeros(shape, dtype=dtype)

    def _demand_the_same(self) -> None:
        for module, known in zip(self._modules, self._known, strict=True):
            new = sorted(_members(module) - known)
            if new:
                raise JobError(
                    f"the forward pass gave {type(module).__name__} a new buffer, parameter or layer, {new[0]!r}: make it "
                    "in model(), where every function makes it alike"
                )


def _members(module: nn.Module) -> set[str]:
    """Return the names of the module's buffers, parameters and submodules, without those that are None."""
    parts = (module._buffers, module._parameters, module._modules)
    return {name for part in parts for name, value in part.items() if value is not None}


def _kind(buffer: Tensor) -> Kind:
    if buffer.is_complex():
        return "mean"
    if buffer.is_floating_point():
        if buffer.element_size() == 1:
            return "last"
        if buffer.numel() and torch.isposinf(buffer).all():
            return "least"
        return "most" if buffer.numel() and torch.isneginf(buffer).all() else "mean"
    return "count"


def _overlaps(buffer: Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True))


def _wide(dtype: torch.dtype) -> torch.dtype:
    if dtype.is_complex:
        return torch.complex128 if dtype == torch.complex128 else torch.complex64
    return torch.float64 if dtype == torch.float64 else torch.float32


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(_bits(one), _bits(other))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.resolve_conj().contiguous().reshape(*tensor.shape, 1).view(torch.uint8)


def _raw(tensor: Tensor) -> Any:
    return _bits(tensor).cpu().numpy().copy()


def _change(now: Tensor, before: Tensor) -> Tensor:
    """Return the change; it is zero where nothing changed, even if the value is infinite, and signed for booleans and
    unsigned numbers."""
    if now.is_floating_point() or now.is_complex():
        return torch.where(now == before, torch.zeros_like(now), now - before)
    return now.long() - before.long()

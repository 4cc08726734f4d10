"""Stray state is what a forward pass changes but no update carries: numbers in plain attributes of modules and the job.

`self.calls += 1` in a module or in `loss` counts in one function only, and until that function ends. A plain loop would
go on counting. If training depends on such a number, it belongs in a buffer; so the user is warned of it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from lambdaml.job import Job

LOOKS = 2
"""It looks at this many updates of a replica, the first ones."""


class Strays:
    """Watches the plain numbers of a job and of its model's modules."""

    def __init__(self, job: Job, model: nn.Module) -> None:
        self._owners: list[tuple[str, Any]] = [(type(job).__name__, job)]
        self._owners += [(_name(name, module), module) for name, module in model.named_modules()]
        self._looks = 0

    def look(self) -> list[dict[str, Any]] | None:
        """Return the numbers before a forward pass; None if this pass need not be watched."""
        self._looks += 1
        return [_numbers(owner) for _, owner in self._owners] if self._looks <= LOOKS else None

    def found(self, before: list[dict[str, Any]] | None) -> tuple[str, ...]:
        """Return a sentence about each number that the forward pass changed. A number that it made, such as a cache,
        counts only if a later pass changes it."""
        if before is None:
            return ()
        changed = []
        for (name, owner), numbers in zip(self._owners, before, strict=True):
            now = _numbers(owner)
            changed += [f"{name}.{key}" for key in now if key in numbers and now[key] != numbers[key]]
        return tuple(
            f"{what} changed while the loss was computed, and nothing carries it: each function has its own, until it ends. "
            "If training depends on it, make it a buffer of the model"
            for what in changed
        )


def _numbers(owner: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(owner).items() if type(value) in (bool, int, float) and key != "training"}


def _name(name: str, module: nn.Module) -> str:
    return f"{type(module).__name__} {name}" if name else type(module).__name__

"""What a forward pass leaves behind where nothing carries it: numbers in plain attributes of modules and of the job.

`self.calls += 1` in a module or in `loss` counts in one function only, and until that function ends. A plain loop would
have gone on counting. Where training depends on it, it belongs into a buffer; so it is told of.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from lambdaml.job import Job

LOOKS = 2
"""Updates of a replica at which it looks."""


class Strays:
    """Looks at the plain numbers of a job and of its model's modules."""

    def __init__(self, job: Job, model: nn.Module) -> None:
        self._owners: list[tuple[str, Any]] = [(type(job).__name__, job)]
        self._owners += [(_name(name, module), module) for name, module in model.named_modules()]
        self._looks = 0

    def look(self) -> list[dict[str, Any]] | None:
        """To be called before a forward pass; None where it need not be looked at."""
        self._looks += 1
        return [_numbers(owner) for _, owner in self._owners] if self._looks <= LOOKS else None

    def found(self, before: list[dict[str, Any]] | None) -> tuple[str, ...]:
        """Of each number that the forward pass changed, a sentence. What it made is looked at the next time: a cache
        stays."""
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

"""The record of a numerics class in run.json. `lambdaml.training.numerics` finds out the class of a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["reproducible", "fast"]
"""`reproducible` means that the same inputs give the same bits each time; `fast` does not promise it."""


@dataclass(frozen=True, slots=True)
class Numerics:
    """The numerics class of a process: the arithmetic in which it computes.

    Attributes:
        mode: `reproducible` if the same inputs give the same bits each time, else `fast`. A run may ask for `fast`.
        decides: Facts that decide the bits of a training step, by name: architecture, versions, instruction sets.
        noted: Facts that may decide the bits of a job's own code, such as the versions of NumPy and glibc. They are not
            compared.
    """

    mode: Mode
    decides: dict[str, str] = field(default_factory=dict)
    noted: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.mode}: " + ", ".join(f"{name} {value}" for name, value in self.decides.items())

"""The record of a numerics class, as run.json has it; `lambdaml.training.numerics` finds out the class of a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["reproducible", "fast"]
"""Whether the same inputs give the same bits each time."""


@dataclass(frozen=True, slots=True)
class Numerics:
    """The numerics class of a process: in which arithmetic it computes.

    Attributes:
        mode: `reproducible` if the same inputs give the same bits each time, else `fast`. A run may be `fast` by wish.
        decides: What decides the bits of a training step, by name: architecture, versions, instruction sets.
        noted: What may decide the bits of a job's own code, such as the versions of NumPy and glibc. Not compared.
    """

    mode: Mode
    decides: dict[str, str] = field(default_factory=dict)
    noted: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.mode}: " + ", ".join(f"{name} {value}" for name, value in self.decides.items())

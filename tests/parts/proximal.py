"""The algorithm `proximal`: local steps that a spring holds near their base (FedProx, arXiv 1812.06127)."""

from __future__ import annotations

from dataclasses import dataclass

from lambdaml.algorithms import Assignment, Batch, LocalModel, Message
from lambdaml.algorithms.local import LocalSteps
from lambdaml.codecs import Vector
from lambdaml.log.memory import Memory


class Proximal(LocalSteps):
    """Takes `steps` local steps along the gradient of loss + mu / 2 |w - base|^2, and averages the models.

    Args:
        steps: The number of steps.
        mu: The strength of the spring; with 0 this is `local`, bit for bit.
    """

    def __init__(self, steps: int, mu: float = 0.1) -> None:
        super().__init__(str(steps))
        if mu < 0:
            raise ValueError(f"mu must be 0 or more, not {mu}")
        self.mu = mu

    def compute(self, model: LocalModel, memory: Memory | None, assignment: Assignment, inner_step: int) -> Message:
        return super().compute(_Held(model, model.values(), self.mu), memory, assignment, inner_step)


@dataclass(frozen=True, slots=True)
class _Held:
    """A local model whose gradients include the spring's."""

    model: LocalModel
    base: Vector
    mu: float

    def backward(self, worker: int, batch: int) -> Batch:
        found = self.model.backward(worker, batch)
        self.model.pull(self.base, self.mu)
        return found

    def __getattr__(self, name: str):  # all else is the model's own
        return getattr(self.model, name)

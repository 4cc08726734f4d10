"""Gradient: an update is the gradient of one batch, and the job's own optimizer takes the step along the mean.

This is data-parallel SGD. Workers remember nothing. Source: LambdaML (arXiv 2105.07806), where it is called GA-SGD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lambdaml.algorithms import GRADIENT, Assignment, LocalModel, Message, Share
from lambdaml.log.memory import Memory
from lambdaml.log.records import Entry, Update

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from lambdaml.settings import Settings


class GradientDescent:
    """Sends gradients. Update number q of a worker is the gradient of its batch number q."""

    gives = frozenset({GRADIENT})
    remembers = keeps_optimizer = clocked = duals = ahead = adds = False
    summands = fragments = 1

    def batches(self, per_epoch: int) -> int:
        return 1

    def assign(
        self,
        settings: Settings,
        share: Share,
        worker: int,
        seq: int,
        memory: Memory | None,
        seconds: Mapping[int, float],
    ) -> Assignment:
        return Assignment(worker, seq, seq, 1)

    def check(self, settings: Settings, share: Share, update: Update) -> str:
        return "" if update.batches is None else "covers several batches"

    def compute(self, model: LocalModel, memory: Memory | None, assignment: Assignment, inner_step: int) -> Message:
        batch = model.backward(assignment.worker, assignment.first_batch)
        return Message(batch.samples, batch.loss, batch.absent, batch.labels)

    def outer(self, parameters: Sequence[Tensor]) -> Optimizer | None:
        return None

    def samples(self, entry: Entry, settings: Settings, share: Share) -> int:
        return entry.samples

    def nominal(self, settings: Settings) -> int:
        return settings.batch_size

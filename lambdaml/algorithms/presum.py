"""Presum: a worker adds up the gradients of g batches before it sends anything. It is gradient accumulation.

A run of W workers has the samples, batches and random streams of one with W x g workers: worker w computes what the
workers w g to w g + g - 1 of that run would, all from the same version, and sends the sum of (samples / nominal batch) x
gradient. Whoever takes the step adds the sums with the factor 1 and divides once. So it has the bits of that run with
the bracket g, and sends a g-th of its objects and bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambdaml.algorithms import PARTIAL_SUM, Assignment, LocalModel, Message, Share, together
from lambdaml.algorithms.gradient import GradientDescent
from lambdaml.log.memory import Memory
from lambdaml.log.records import Update

if TYPE_CHECKING:
    from lambdaml.settings import Settings


class Accumulation(GradientDescent):
    """Sends sums of gradients. Everything else is as with single gradients.

    Args:
        batches: The number of batches, g: each is one that a worker of its own would have had.
    """

    gives = frozenset({PARTIAL_SUM})

    def __init__(self, batches: int) -> None:
        if batches < 2:
            raise ValueError(f"batches must be 2 or more, not {batches}: one batch an update is 'gradient'")
        self.summands = batches

    def check(self, settings: Settings, share: Share, update: Update) -> str:
        return "" if update.batches is None else "says which batches it covers"

    def compute(self, model: LocalModel, memory: Memory | None, assignment: Assignment, inner_step: int) -> Message:
        total, done = model.summing(), []
        for worker in range(assignment.worker * self.summands, (assignment.worker + 1) * self.summands):
            done.append(model.backward(worker, assignment.first_batch))
            total.add(worker, done[-1].samples)
        samples = sum(batch.samples for batch in done)
        found = together(done, sum(batch.loss * batch.samples for batch in done) / samples)
        return Message(samples, found.loss, found.absent, found.labels, buffers=total.finish())


def variants(batches: int) -> list[str]:
    """Return the variants worth trying with this many batches."""
    return [f"presum:{batches}"]

"""Statistics: an update is the mean of a job's statistics over its samples, and the commit takes the job's step from the mean
over all workers. So expectation maximisation and k-means are computed exactly, by however many workers.

The parameters of such a job (`lambdaml.statistics_job`) are mean statistics themselves, so vectors have their layout, and
everything that carries gradients carries these. LambdaML (arXiv 2105.07806) averages the centres that workers find
instead, without regard to how many samples each centre has at each worker, which is another method than k-means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lambdaml.algorithms import STATISTICS, Assignment, LocalModel, Message, Share, in_turn, wrong_batches
from lambdaml.algorithms.gradient import GradientDescent
from lambdaml.log.memory import Memory
from lambdaml.log.records import Update

if TYPE_CHECKING:
    from lambdaml.settings import Settings


class Statistics(GradientDescent):
    """Sends mean statistics over `batches` batches. The job's own optimizer takes the step along their mean.

    Args:
        batches: The number of batches; 0 for a whole pass over the worker's share of the data.
    """

    gives = frozenset({STATISTICS})

    def __init__(self, batches: int = 0) -> None:
        if batches < 0:
            raise ValueError(f"batches must be 1 or more, or left out for a whole pass over the data, not {batches}")
        self._batches = batches

    def batches(self, per_epoch: int) -> int:
        return self._batches or per_epoch

    def assign(
        self,
        settings: Settings,
        share: Share,
        worker: int,
        seq: int,
        memory: Memory | None,
        seconds: Mapping[int, float],
    ) -> Assignment:
        return in_turn(settings, worker, seq, self.batches(share.batches))

    def check(self, settings: Settings, share: Share, update: Update) -> str:
        return wrong_batches(update, in_turn(settings, update.worker, update.seq, self.batches(share.batches)))

    def compute(self, model: LocalModel, memory: Memory | None, assignment: Assignment, inner_step: int) -> Message:
        first = assignment.first_batch
        found = model.statistics(assignment.worker, range(first, first + assignment.batches))
        return Message(found.samples, found.loss, found.absent, found.labels)

    def nominal(self, settings: Settings) -> int:
        return self._batches * settings.batch_size or -(-settings.samples // settings.sharers)

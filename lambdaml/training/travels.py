"""Packs a worker's own model for a travel, and judges models that have travelled; see `lambdaml.log.tuning`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lambdaml.codecs import CODECS, Layout, UpdateContext, decode_vector
from lambdaml.errors import BadObject, JobError
from lambdaml.job import Job
from lambdaml.log.records import Body, Update
from lambdaml.log.travel import CODEC, pack_travel
from lambdaml.log.tuning import Tuning
from lambdaml.training.bodies import split_body
from lambdaml.training.calls import call, fetch, seed_streams
from lambdaml.training.output import speaking_for

if TYPE_CHECKING:
    from lambdaml.training.replica import Replica


class ReplicaTravels:
    """What a replica does with travelling models. It is a `lambdaml.worker.travels.Travels`."""

    def __init__(self, replica: Replica, tuning: Tuning) -> None:
        self._local, self._job, self.tuning = replica.local, replica.job, tuning
        self._codec = CODECS.make(CODEC)

    @staticmethod
    def of(replica: Replica) -> ReplicaTravels | None:
        """Return the part of a replica that handles travelling models; None if its run is not tuned."""
        tuning = Tuning.of(replica.settings, replica.parts)
        return None if tuning is None else ReplicaTravels(replica, tuning)

    def own(self, update: Update) -> bytes:
        """Return the bytes of its worker's own model: the base with what is unsent and what the update adds."""
        local = self._local
        own = local.values() + local.flat.to_host()
        if local.unsent is not None:
            own += local.unsent
        layout = Layout.flat(len(own))
        body = self._codec.encode(own.astype(np.float32, copy=False), layout, UpdateContext())
        return pack_travel(*update.id, body | _buffers(update.body))

    def judge(self, worker: int, seq: int, body: Body) -> tuple[int, int] | None:
        """Return how many answers of a model are right on data of this worker, and of how many; None if it has no answer.

        The model is in `eval()` mode. Parameters, buffers and modes are set back.

        Raises:
            BadObject: If it is no model of this run.
        """
        local, encoded, layout = self._local, split_body(body)[0], Layout.flat(self._local.layout.size)
        if fault := self._codec.check(encoded, layout) or local.buffers.check(_buffers(body)):
            raise BadObject(f"the model that update {seq} of worker {worker} judges {fault}")
        local.open()
        values, kept = local.values(), local.buffers.keep()
        modes = [(module, module.training) for module in local.model.modules()]
        try:
            local.restore(decode_vector(self._codec, encoded, layout))
            local.buffers.put(_buffers(body))
            local.model.eval()
            seed_streams("judge", local.settings.seed, worker, seq)
            with speaking_for(worker, seq), torch.no_grad():
                found = [answers(self._job, local.model, batch) for batch in self._batches(worker)]
        finally:
            for module, training in modes:
                module.training = training
            local.buffers.restore(kept)
            local.restore(values)
        right, judged = (sum(column) for column in zip(*found, strict=True))
        return (right, judged) if judged else None

    def _batches(self, worker: int) -> Iterator[Any]:
        """Yield the samples that a worker judges on: those of its first pass, as many as the tuner says."""
        left, sampler = self.tuning.tuner.samples, self._local.sampler
        for batch in range(sampler.share(worker, 0).batches):
            samples: NDArray[np.int64] = sampler.dealt(worker, batch)[:left]
            left -= len(samples)
            if len(samples):
                yield self._local.moved(call(fetch, self._job, self._local.dataset, samples.tolist()))


def _buffers(body: Body) -> Body:
    """Return what a body says that the model's buffers have become."""
    return {name: array for name, array in split_body(body)[2].items() if name.startswith("b")}


def answers(job: Job, model: nn.Module, batch: Any) -> tuple[int, int]:
    """Return how many of the model's answers to a batch are right, and how many there are.

    Raises:
        JobError: If the job's `accuracy` returns something else.
    """
    found = call(job.accuracy, model, batch)
    try:
        right, judged = (int(number) for number in found)
        if not 0 <= right <= judged:
            raise ValueError
    except (TypeError, ValueError):
        raise JobError(
            f"{type(job).__name__}.accuracy must return the number of right answers and that of all, not {found!r}"
        ) from None
    return right, judged


def demand_accuracy(job: Job, model: nn.Module, dataset: Any) -> None:
    """Make sure that the job can judge a model.

    Raises:
        JobError: If it cannot.
    """
    model.eval()
    with torch.no_grad():
        answers(job, model, call(fetch, job, dataset, [0]))

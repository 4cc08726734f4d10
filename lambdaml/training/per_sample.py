"""Computes the gradients of single samples beside an update; see `lambdaml.log.extra`.

The samples are those of the client's pass over its own data, and a pure function of the run's seed, the client and the number
of the batch; so is what is random in their gradients, such as dropout. Whatever is computed here leaves parameters, buffers
and random streams as it found them, so that the run has the bits of one without it. Each gradient takes a backward pass
of its own, which is right for every model whose loss treats samples separately.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lambdaml.algorithms import Assignment
from lambdaml.codecs import CODECS, Layout
from lambdaml.log.extra import PerSample, encode_gradient, pack_extra
from lambdaml.seeds import random_state

if TYPE_CHECKING:
    from lambdaml.codecs import Vector
    from lambdaml.job import Job
    from lambdaml.training.job_model import JobModel


class PerSampleGradients:
    """Collects the gradients of single samples while an update is computed.

    Args:
        asked: The samples and the codec that were asked for.
    """

    def __init__(self, asked: PerSample) -> None:
        self._asked = asked
        self._samples: list[list[int]] = []
        self._gradients: list[Vector] = []

    def add(self, model: JobModel, client: int, batch: int) -> None:
        """Compute the gradients that belong to a batch, at the parameters before its step."""
        own = model.sampler.samples_of_pass(client, batch)
        order = random_state("extra", model.settings.seed, client, batch).permutation(len(own))
        drawn = own[order[: self._asked.samples]].tolist()
        self._samples.append(drawn)
        for number, sample in enumerate(drawn):
            vector = model.gradient_of([sample], client, batch, "extra", number)
            self._gradients.append(encode_gradient(vector, self._asked.codec))

    def finish(self, assignment: Assignment, client: int) -> bytes:
        """Return the object of the update whose batches these were, and begin the next one."""
        header = {"worker": assignment.worker, "seq": assignment.seq, "client": client}
        header["first_batch"] = assignment.first_batch
        data = pack_extra(header, np.array(self._samples, np.int64), self._gradients)
        self._samples, self._gradients = [], []
        return data


def inseparable(asked: PerSample, model: nn.Module, layout: Layout, job: Job) -> str:
    """Return why single samples have no gradients in this model, or none that can be written so, as the end of a sentence, or
    ""."""
    modules = list(model.modules())
    if any(isinstance(each, _BatchNorm) or getattr(each, "track_running_stats", False) is True for each in modules):
        return "needs samples that do not depend on each other, and batch norm's do: use GroupNorm, or none"
    if job.autocast == "float16":
        return "computes gradients without a scale, and those of float16 need one: use bfloat16"
    if fault := CODECS.make(asked.codec).misfit(layout):
        return f"{fault}: leave out the codec"
    return ""

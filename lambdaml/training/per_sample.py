"""Computes the gradients of single samples beside an update; see `lambdaml.log.extra`.

The samples are those of the client's pass over its own data, and a pure function of the run's seed, the client and the number
of the batch; so is what is random in their gradients, such as dropout. Whatever is computed here leaves parameters, buffers
and random streams as it found them, so that the run has the bits of one without it.

The gradients of a batch are computed side by side, by `torch.func.vmap`. Where that cannot be done (samples of several
shapes, losses that look at a value or draw random numbers), or the first of them is not what a backward pass of its own
gives within rounding, each takes such a pass. What is done follows from the samples and the parameters alone, so that whoever
computes them again gets the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree

from lambdaml.algorithms import Assignment
from lambdaml.codecs import CODECS, Layout
from lambdaml.log.extra import PerSample, encode_gradients, pack_extra
from lambdaml.seeds import random_state
from lambdaml.training.calls import call, fetch, seed_streams
from lambdaml.training.functional_loss import FunctionalLoss, alike

if TYPE_CHECKING:
    from lambdaml.codecs import Vector
    from lambdaml.job import Job
    from lambdaml.training.job_model import JobModel


_AT_ONCE = 2**24
"""So many numbers of gradients are computed at once."""


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

        def alone(number: int) -> Vector:
            return model.gradient_of([drawn[number]], client, batch, "extra", number)

        first = alone(0).copy()
        rows = _side_by_side(model, drawn, client, batch, first)
        if rows is None:
            rows = np.stack([first, *(alone(number).copy() for number in range(1, len(drawn)))])
        self._gradients.append(encode_gradients(rows, self._asked.codec))

    def finish(self, assignment: Assignment, client: int) -> bytes:
        """Return the object of the update whose batches these were, and begin the next one."""
        header = {"worker": assignment.worker, "seq": assignment.seq, "client": client}
        header["first_batch"] = assignment.first_batch
        data = pack_extra(header, np.array(self._samples, np.int64), self._gradients)
        self._samples, self._gradients = [], []
        return data


def _side_by_side(model: JobModel, samples: list[int], client: int, batch: int, first: Vector) -> Vector | None:
    """Return the gradients of single samples, of shape [samples, parameters]; None if they must be computed one by one.

    Args:
        first: The gradient of the first of them, from a pass of its own.
    """
    seed_streams("samples", model.settings.seed, client, batch, "extra")
    each = [model.moved(call(fetch, model.job, model.dataset, [sample])) for sample in samples]
    gradients = torch.func.grad(FunctionalLoss(model))
    kept = model.buffers.keep()
    try:
        stacked = _pytree.tree_map(lambda *leaves: torch.stack(leaves), *each)
        at_once = max(1, _AT_ONCE // model.layout.size)
        with model.autocast():
            values = torch.from_numpy(model.values()).to(model.device)
            found = torch.func.vmap(gradients, in_dims=(None, 0), chunk_size=at_once)(values, stacked)
    except Exception:  # whatever a job's loss raises because a sample is many
        return None
    finally:
        model.buffers.restore(kept)
    rows = found.cpu()
    return rows.numpy() if alike(rows[0], torch.from_numpy(first)) and rows.isfinite().all() else None


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

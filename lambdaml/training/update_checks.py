"""Checks of an update that need no model: its batches, its samples, and the numbers in its vector."""

from __future__ import annotations

import math

import numpy as np

from lambdaml.algorithms import Algorithm
from lambdaml.codecs import Vector
from lambdaml.log.records import Update
from lambdaml.settings import Settings
from lambdaml.training.numerics import norm
from lambdaml.training.sampling import Sampler
from lambdaml.worker.machine import LONG


def batches_fault(update: Update, settings: Settings, algorithm: Algorithm, sampler: Sampler) -> str:
    """Return why an update must be rejected because of the batches and samples that its header claims, or ""."""
    share = sampler.share(*update.id)
    if fault := algorithm.check(settings, share, update):
        return fault
    first, count = update.batches or (update.seq, 1)
    dealt = sum(sampler.count(share.number, batch) for batch in range(first, first + count))
    return f"claims {update.samples} samples where {dealt} were dealt" if update.samples != dealt else ""


def left_out_fault(update: Update, settings: Settings, algorithm: Algorithm, sampler: Sampler) -> str:
    """Return why an update that stands for a client that is left out must be rejected, or ""."""
    if update.body or math.isfinite(update.loss):
        return "is of a client that is left out, and holds something"
    return batches_fault(update, settings, algorithm, sampler)


def vector_fault(vector: Vector, limit: float | None) -> str:
    """Return why an update with this vector must be rejected, or "".

    Args:
        limit: The greatest norm that the run allows.
    """
    # A finite sum proves that all terms are finite; an infinite one may be an overflow, so look again.
    with np.errstate(over="ignore", invalid="ignore"):
        if not math.isfinite(float(vector.sum())) and not np.isfinite(vector).all():
            return "gradient is not finite"
        return LONG if limit is not None and norm(vector) > limit else ""

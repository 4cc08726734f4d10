"""Checks of an update that need no model: its batches, its samples, and the numbers in its vector."""

from __future__ import annotations

import math

import numpy as np

from lambdaml.codecs import Vector
from lambdaml.log.records import Update
from lambdaml.parts import Parts
from lambdaml.settings import Settings
from lambdaml.training.numerics import norm
from lambdaml.training.sampling import Sampler
from lambdaml.tuners import STEPS
from lambdaml.worker.machine import LONG

_MOST_BATCHES = 2**20
"""An update of a tuned run may cover at most this many batches; how many it does cover the log says."""


def batches_fault(update: Update, settings: Settings, parts: Parts, sampler: Sampler) -> str:
    """Return why an update must be rejected because of the batches and samples that its header claims, or "".

    Where a tuner decides how many batches an update covers, readers that know less of the log cannot tell whether this is
    that many. `lambdaml verify` can.
    """
    share = sampler.share(*update.id)
    if parts.knob is None or parts.knob.name != STEPS:
        fault = parts.algorithm.check(settings, share, update)
    else:
        fault = _odd_batches(update)
    if fault:
        return fault
    dealt = sampler.samples_in(share.number, *(update.batches or (update.seq, 1)))
    return f"claims {update.samples} samples where {dealt} were dealt" if update.samples != dealt else ""


def _odd_batches(update: Update) -> str:
    if update.batches is None:
        return "does not say which batches it covers"
    first, count = update.batches
    return "" if first >= 0 and 1 <= count <= _MOST_BATCHES else f"claims {count} batches from {first} on"


def left_out_fault(update: Update, settings: Settings, parts: Parts, sampler: Sampler) -> str:
    """Return why an update that stands for a client that is left out must be rejected, or ""."""
    if update.body or math.isfinite(update.loss):
        return "is of a client that is left out, and holds something"
    return batches_fault(update, settings, parts, sampler)


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

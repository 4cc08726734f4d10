"""Computes the update of a worker's slot, or what stands in its place if the slot is empty."""

from __future__ import annotations

import math

from lambdaml.algorithms import Assignment, covers_batches
from lambdaml.log.left_out import leaves_out
from lambdaml.settings import Settings
from lambdaml.worker.machine import Computed, Machine


def compute_slot(machine: Machine, settings: Settings, assignment: Assignment) -> Computed:
    """Compute an update at the machine's present version, unless the client that takes the slot is left out.

    Then nothing is computed. The result has no vector and no loss, and the samples that would have been dealt, for the learning
    rates of local steps follow these.

    Raises:
        JobFailed: If the job's own code raised.
        RunFailed: If the worker's memory is void.
    """
    client = machine.sampler.share(assignment.worker, assignment.seq).number
    if not leaves_out(settings, machine.log_state, client):
        return machine.compute(assignment)
    covered = assignment.first_batch, assignment.batches
    return Computed(
        body={},
        base=machine.log_state.version,
        base_commit=machine.log_state.commit,
        samples=machine.sampler.samples_in(client, *covered),
        loss=math.nan,
        compute_s=0.0,
        encode_s=0.0,
        batches=covered if covers_batches(machine.parts.algorithm) else None,
        left_out=True,
    )

"""Computes an update of the bucket again, at its base: what a recovery and a deep check have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lambdaml.algorithms import Assignment
from lambdaml.log.records import Update
from lambdaml.settings import Settings
from lambdaml.worker.machine import Computed, Machine, conclude
from lambdaml.worker.slots import compute_slot


@dataclass(frozen=True, slots=True)
class Made:
    """An update that the bucket holds and that is computed again.

    Attributes:
        assignment: The update and its batches.
        base: The version that it was computed from.
        base_commit: The number of commits that had been applied then.
        fingerprint: The fingerprint of its content; see `Update.fingerprint`.
        compute_s: The seconds that it took, with its encoding.
        size_bytes: The size of its object.
    """

    assignment: Assignment
    base: int
    base_commit: int
    fingerprint: str
    compute_s: float
    size_bytes: int

    @staticmethod
    def of(update: Update) -> Made:
        """Note what is needed of an update that was read. Its arrays may then be freed."""
        first, count = update.batches or (update.seq, 1)
        assignment = Assignment(update.worker, update.seq, first, count)
        took_s = update.compute_s + update.encode_s
        return Made(assignment, update.base, update.base_commit, update.fingerprint(), took_s, update.size_bytes)


def comes_out(
    machine: Machine, made: Made, settings: Settings, look: Callable[[Computed], None] = lambda found: None
) -> bool:
    """Compute an update again on a machine that is at its base, let its worker remember it, and return whether it is
    the one in the bucket: payload, samples, loss, and the digest of the memory before it.

    Args:
        look: Is called with what was computed.
    """
    found = compute_slot(machine, settings, made.assignment)
    look(found)
    update = found.update(made.assignment, settings.codec)
    conclude(machine, update)
    return update.fingerprint() == made.fingerprint

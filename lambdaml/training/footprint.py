"""The footprint of a run is the memory that it needs on a machine, estimated from its model before it starts.

A function holds its model, one gradient, the optimizer's state, and the updates and snapshots of its window
(`lambdaml.worker.window`); one more copy of the model is allowed for the pages of mapped files and for the allocator.
The process that starts the run holds the first state twice while it writes it, and later the model that it evaluates.
"""

from __future__ import annotations

from dataclasses import dataclass

from lambdaml.parts import Parts
from lambdaml.worker.window import MAX_UNAPPLIED, most_bytes

PROCESS_BYTES = 300 * 2**20
"""A process that has imported torch takes about this much memory."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Holds the sizes of a run's parts, in bytes.

    Attributes:
        trained_bytes: The size of the parameters that are trained.
        frozen_bytes: The size of the parameters that are not trained.
        optimizer_bytes: The size of the optimizer's state.
        workers: The number of workers of the run.
    """

    trained_bytes: int
    frozen_bytes: int
    optimizer_bytes: int
    workers: int

    @property
    def function_bytes(self) -> int:
        """The memory of a function, without its batch and what a forward pass keeps for the backward pass."""
        held_bytes = most_bytes(self.trained_bytes, MAX_UNAPPLIED * self.workers)
        snapshot_bytes = self.trained_bytes + self.optimizer_bytes
        window_bytes = max(held_bytes, snapshot_bytes)
        return PROCESS_BYTES + self.frozen_bytes + 3 * self.trained_bytes + self.optimizer_bytes + window_bytes

    @property
    def starter_bytes(self) -> int:
        """The memory of the process that starts the run."""
        return PROCESS_BYTES + 2 * (self.trained_bytes + self.frozen_bytes)


def memory_bytes(parts: Parts, vector_bytes: int, update_bytes: int, inner_bytes: int) -> int:
    """Return the bytes that a worker remembers while the fate of its newest update is not known.

    Args:
        parts: The run's parts.
        vector_bytes: The size of the vector that is encoded.
        update_bytes: The size of what is sent.
        inner_bytes: The size of the state of the job's own optimizer.
    """
    pending_bytes = vector_bytes + update_bytes if parts.feedback else 0
    return pending_bytes + (inner_bytes if parts.algorithm.keeps_optimizer else 0)


def warning(footprint: Footprint, functions: int, in_process: bool, free_bytes: int) -> str:
    """Return a warning about a run that does not fit into this machine; "" if it fits.

    Args:
        footprint: The sizes of the run's parts.
        functions: The number of functions on this machine.
        in_process: Whether functions share the process that starts the run.
        free_bytes: The memory that this machine can still give.
    """
    base_bytes = PROCESS_BYTES if in_process else 0
    function_bytes, starter_bytes = footprint.function_bytes - base_bytes, footprint.starter_bytes
    needed_bytes = functions * function_bytes + starter_bytes
    if needed_bytes <= free_bytes:
        return ""
    return (
        f"this run needs about {_gb(needed_bytes)} of memory here, and {_gb(free_bytes)} are free: {functions} function"
        f"{'s' if functions > 1 else ''} of {_gb(function_bytes)} and {_gb(starter_bytes)} in this process, beside what a "
        "batch takes; try fewer functions"
    )


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"

"""The footprint of a run is the memory that it needs on a machine, estimated from its model before it starts.

A function holds its model, one gradient, the optimizer's state, and the updates and snapshots of its window
(`lambdaml.worker.window`); one more copy of the model is allowed for the pages of mapped files and for the allocator.
With local steps it also holds the vector that they start from and the state of the job's own optimizer, with fragments two
more vectors, with duals four, and with sums of gradients one. Where workers have models of their own it holds these, the one that
it was loaded with, and the mean that is taken. For an aggregate other than the mean it holds the vectors of a whole step, and three more to
compare them; and what is measured beside an update three times, as it is computed, put together and written out. In a run with
memory it holds what each of its workers remembers, and while it recovers memories one more replica.
The process that starts the run holds the first state twice while it writes it, and later the model that it evaluates.
"""

from __future__ import annotations

from dataclasses import dataclass

from lambdaml.algorithms import Algorithm
from lambdaml.parts import Parts
from lambdaml.schedules import rounds_at_once
from lambdaml.worker.room import ROOM_BYTES
from lambdaml.worker.window import MAX_UNAPPLIED, most_bytes

PROCESS_BYTES = 300 * 2**20
"""A process that has imported torch takes about this much memory."""

_SAMPLE = 2**16
"""The parameters of the model whose outer optimizer is weighed."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Holds the sizes of a run's parts, in bytes.

    Attributes:
        trained_bytes: The size of the parameters that are trained.
        frozen_bytes: The size of the parameters that are not trained.
        optimizer_bytes: The size of the state of the optimizer that takes the steps of commits.
        workers: The number of workers of the run.
        hosted: The number of workers of a function.
        local_bytes: The size of what local steps, sums of gradients, or aggregates hold besides.
        memory_bytes: The size of what a worker remembers.
        remembers: Whether workers remember something.
        object_bytes: The size of the largest object of an update.
        apart: Whether an update is several objects.
        extra_bytes: The size of what is measured beside an update.
    """

    trained_bytes: int
    frozen_bytes: int
    optimizer_bytes: int
    workers: int
    hosted: int = 1
    local_bytes: int = 0
    memory_bytes: int = 0
    remembers: bool = False
    object_bytes: int = 0
    apart: bool = False
    extra_bytes: int = 0

    @property
    def snapshot_bytes(self) -> int:
        """The size of a snapshot, without buffers."""
        return self.trained_bytes + self.optimizer_bytes

    @property
    def function_bytes(self) -> int:
        """The memory of a function, without its batch and what a forward pass keeps for the backward pass."""
        held_bytes = most_bytes(self.trained_bytes, MAX_UNAPPLIED * self.workers)
        if self.apart:
            held_bytes = max(ROOM_BYTES, 3 * self.object_bytes) + 2 * self.object_bytes
        window_bytes = max(held_bytes, self.snapshot_bytes)
        own_bytes = PROCESS_BYTES + self.frozen_bytes + 3 * self.trained_bytes + self.optimizer_bytes + window_bytes
        return own_bytes + self.algorithm_bytes + 3 * self.extra_bytes

    @property
    def algorithm_bytes(self) -> int:
        """The part of a function's memory that local steps, memories and their recovery take."""
        side_bytes = 2 * self.trained_bytes + self.frozen_bytes + self.optimizer_bytes + self.local_bytes
        remembered_bytes = self.hosted * self.memory_bytes + side_bytes if self.remembers else 0
        return self.local_bytes + remembered_bytes

    @property
    def starter_bytes(self) -> int:
        """The memory of the process that starts the run."""
        return PROCESS_BYTES + 2 * (self.trained_bytes + self.frozen_bytes)


def footprint(
    parts: Parts,
    trained_bytes: int,
    inner_bytes: int,
    update_bytes: int,
    *,
    outer_share: float | None,
    frozen_bytes: int = 0,
    workers: int,
    hosted: int,
    block_bytes: int | None = None,
    extra_bytes: int = 0,
) -> Footprint:
    """Return the footprint of a run.

    Args:
        inner_bytes: The size of the state of the job's own optimizer.
        update_bytes: The size of an update.
        outer_share: The bytes of the outer optimizer's state for each byte of a trained parameter; None without one.
        block_bytes: The size of the largest slice of an update, if slices are objects of their own.
        extra_bytes: The size of what is measured beside an update.
    """
    held_bytes = remembered_bytes(parts, trained_bytes, update_bytes, inner_bytes)
    return Footprint(
        trained_bytes,
        frozen_bytes,
        inner_bytes if outer_share is None else round(outer_share * trained_bytes),
        workers,
        hosted,
        (0 if outer_share is None else trained_bytes + inner_bytes)
        + (trained_bytes if parts.algorithm.summands > 1 else 0)
        + (2 * trained_bytes if parts.algorithm.fragments > 1 else 0)
        + (4 * trained_bytes if parts.algorithm.duals else 0)
        + (2 * trained_bytes if parts.algorithm.ahead and parts.feedback else 0)
        + ((hosted + 2) * trained_bytes if rounds_at_once(parts.schedule) else 0)
        + ((workers + 3) * trained_bytes if parts.aggregate is not None else 0),
        held_bytes + (trained_bytes if parts.feedback else 0),  # a residual beside what is pending
        parts.remembers,
        update_bytes if block_bytes is None else block_bytes,
        block_bytes is not None,
        extra_bytes,
    )


def outer_share(algorithm: Algorithm) -> float | None:
    """Return the size of the outer optimizer's state, in bytes for each byte of a trained parameter; None if the
    algorithm has no such optimizer."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(_SAMPLE))
    optimizer = algorithm.outer([parameter])
    if optimizer is None:
        return None
    parameter.grad = torch.zeros(_SAMPLE)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return float(sum(tensor.nbytes for tensor in kept)) / parameter.nbytes


def remembered_bytes(parts: Parts, vector_bytes: int, update_bytes: int, inner_bytes: int) -> int:
    """Return the bytes that a worker remembers while the fate of its newest update is not known.

    Args:
        parts: The run's parts.
        vector_bytes: The size of the vector that is encoded.
        update_bytes: The size of what is sent.
        inner_bytes: The size of the state of the job's own optimizer.
    """
    pending_bytes = vector_bytes + update_bytes if parts.feedback else 0
    own_bytes = 3 * vector_bytes if parts.algorithm.duals else vector_bytes if parts.algorithm.fragments > 1 else 0
    return pending_bytes + own_bytes + (inner_bytes if parts.algorithm.keeps_optimizer else 0)


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

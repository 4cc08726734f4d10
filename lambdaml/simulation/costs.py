"""The time and the bytes of a job's computations, measured on this machine or assumed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import mean, median

from lambdaml.codecs import CODECS, Layout
from lambdaml.job import Job
from lambdaml.log.memory import Memory
from lambdaml.log.records import Commit, Entry
from lambdaml.parts import Parts
from lambdaml.settings import Settings
from lambdaml.simulation.stub_replica import Costs
from lambdaml.training.footprint import remembered_bytes
from lambdaml.worker.machine import conclude

ASSUMED_STEP_S = 0.1
ASSUMED_PARAMETERS = 1_000_000
"""The assumptions without a job: a gradient takes 0.1 s at nominal speed, and the model has a million parameters."""

_MEASURE_S = 2.0


def assumed(
    codec: str = "fp32",
    step_s: float = ASSUMED_STEP_S,
    parameters: int = ASSUMED_PARAMETERS,
    parts: Parts | None = None,
) -> Costs:
    """Return costs of no particular job: an optimizer step takes 1 ns a parameter, reading an update as much again. The
    optimizer keeps one number for each parameter, and nearly all of these are in one square matrix. The parts say how many
    fragments of the same size the model has."""
    side = math.isqrt(parameters)
    layout = Layout(((side, side), (parameters - side * side,)))
    fragments = 1 if parts is None else parts.algorithm.fragments
    size = -(-CODECS.make(codec).expected_bytes(layout) // fragments)
    apply_s = 1e-9 * parameters
    each_s = apply_s / fragments
    memory = 0 if parts is None else remembered_bytes(parts, 4 * parameters, size, 4 * parameters)
    return Costs(step_s, 0.5 * each_s, apply_s, each_s, size, 8 * parameters, memory)


def measure_costs(job: Job, settings: Settings, clock: Callable[[], float] = time.perf_counter) -> Costs:
    """Time a job's gradients and optimizer steps for about two seconds, and weigh its objects.

    Call this in the thread of tensor work; see `lambdaml.training.one_thread.OneThread`.

    Raises:
        JobFailed: If the job's own code raised an error.
    """
    from lambdaml.training.replica import Replica

    replica = Replica(job, settings, clock)
    state_bytes = len(replica.state().dump())
    computes: list[float] = []
    encodes: list[float] = []
    applies: list[float] = []
    sizes: list[int] = []
    kept_bytes, begin, seq = 0, clock(), 0
    while seq < 4 or (clock() - begin < _MEASURE_S and seq < 200):
        if replica.parts.remembers and not seq:
            replica.memories.host(Memory(0), replica.log_state)
        assignment = replica.assign(0, seq)
        found = replica.compute(assignment)
        packed = clock()
        update = found.update(assignment, settings.codec, 1, "measure")
        sizes.append(len(conclude(replica, update)))
        if replica.parts.remembers:
            kept_bytes = replica.memories.of(0, seq + 1).size_bytes
        encodes.append(found.encode_s + clock() - packed)
        computes.append(found.compute_s / assignment.batches)
        entry = Entry(0, seq, found.base, 1, found.samples, found.loss, 0, 1.0)
        started = clock()
        replica.apply(Commit(seq, seq, ((entry,),)), {update.id: update})
        applies.append(clock() - started)
        seq += 1
    apply_s = median(applies[1:])
    times_s = median(computes[1:]), median(encodes[1:]), 0.8 * apply_s, 0.2 * apply_s
    size = mean(sizes[-replica.algorithm.fragments :])
    return Costs(*times_s, round(size), state_bytes, kept_bytes)

"""Checks the memories of a virtual run of cohorts: whoever takes a slot goes on from what it remembered at its latest turn.

An update counts as applied once it is made, unless it is one that every replica rejects. So no fates are needed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lambdaml.log import keys
from lambdaml.log.memory import Memory
from lambdaml.log.records import Update
from lambdaml.parts import Parts
from lambdaml.schedules.cohort import Cohorts
from lambdaml.settings import Settings
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.memory_judge import WHOLE, numbers_of, written_memories
from lambdaml.simulation.stub_replica import chain_digest


def cohorts_of(settings: Settings) -> Cohorts:
    """Return the cohorts of a run."""
    return Cohorts(settings.sharers, settings.workers, settings.seed)


def judge_turns(
    virtual: VirtualRun, updates: Mapping[tuple[int, int], Update], chains: Sequence[bytes]
) -> Iterator[str]:
    """Yield what is wrong with what workers sent and remembered, and the deletions of memories that are still needed.

    Args:
        chains: The state after each number of commits.
    """
    settings, written = virtual.settings, written_memories(virtual)
    ahead = Parts.of(settings).algorithm.ahead
    cohorts, residuals = cohorts_of(settings), dict[int, int]()
    for turn in range(settings.steps):
        for slot, worker in enumerate(cohorts.members(turn)):
            update = updates.get((slot, turn))
            if update is None or update.base_commit >= len(chains):
                continue
            residual = residuals.get(worker, 0)
            gradient = chain_digest(chains[update.base_commit], slot, turn, residual if ahead else 0)
            taken = (round(gradient * WHOLE) + residual) % WHOLE
            if update.loss != taken / WHOLE:
                yield f"update {(slot, turn)} does not carry what worker {worker} remembered at its latest turn"
                return
            if not virtual.bad(slot, turn):
                residuals[worker] = taken // 4
            memory = written.get((slot, turn + 1))
            if memory is None:
                yield f"update {(slot, turn)} was created before what worker {worker} remembers was written"
            elif _residual(memory) != residuals.get(worker, 0) % WHOLE:
                yield f"{keys.memory(slot, turn + 1)} is not what worker {worker} remembers"
    for gone in virtual.bucket.deleted:
        if gone.key.startswith(keys.MEMORY):
            slot, seq = keys.update_id(gone.key)
            worker = cohorts.members(seq - 1)[slot]
            later = [keys.update_id(key) for key in gone.standing[keys.MEMORY]]
            if not any(other > seq and cohorts.members(other - 1)[place] == worker for place, other in later):
                yield f"{gone.key} was deleted, the newest that worker {worker} remembers"


def _residual(memory: Memory) -> int:
    residual, pending = numbers_of(memory)
    return residual % WHOLE if not pending else -1

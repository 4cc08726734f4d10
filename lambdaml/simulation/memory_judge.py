"""Checks the memories of a virtual run against rules of its own: every update, and every written memory.

Vectors are whole numbers here (`lambdaml.simulation.stub_replica`). What a worker was to send with an update is the
number of its gradient plus its residual; the update carries three quarters of that. What was not applied must be in the
residual from the first base on that lies behind the fate, exactly once.

If the algorithm computes ahead of the base, the gradient is that of the base with all that the worker has made and that
the base does not hold: its residual, and the vectors of its updates without a fate there.

Nobody can tell what an update carried whose object is damaged. So nothing that a worker was to send at a base behind its
fate may rest on it, nor on what the worker computed before the fate was known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lambdaml.log import keys, wire
from lambdaml.log.memory import Memory
from lambdaml.log.records import DAMAGED, Commit, Update
from lambdaml.parts import Parts
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.stub_replica import chain_digest

WHOLE = 2**48
"""Vectors are numbers modulo this."""


@dataclass(slots=True)
class _Kept:
    """What a worker must remember: its residual, its updates without a fate, and those of them that are damaged."""

    worker: int
    residual: int = 0
    pending: dict[int, int] = field(default_factory=dict)
    damaged: list[int] = field(default_factory=list)

    def settle(self, fates: Mapping[tuple[int, int], tuple[int, float]], before: int) -> None:
        """Take back what was not applied of the updates whose fates are in commits before this one."""
        known = {seq: fate for (worker, seq), fate in fates.items() if worker == self.worker and fate[0] < before}
        for seq in sorted(self.pending.keys() & known.keys()):
            taken = self.pending.pop(seq)
            self.residual += taken - round(known[seq][1] * (taken - taken // 4))
        if known.keys() & set(self.damaged):
            self.residual, self.pending = 0, {}
            self.damaged = [seq for seq in self.damaged if seq not in known]

    @property
    def ahead(self) -> int:
        """How far the worker's own model is ahead of the base."""
        return self.residual % WHOLE + sum(self.pending.values())


def remembers(virtual: VirtualRun) -> bool:
    """Return whether the workers of a run remember something."""
    return Parts.of(virtual.settings).remembers


def judge_memories(
    virtual: VirtualRun,
    commits: Sequence[Commit],
    updates: Mapping[tuple[int, int], Update],
    chains: Sequence[bytes],
) -> Iterator[str]:
    """Yield what is wrong with what workers sent and remembered.

    Args:
        chains: The state after each number of commits.
    """
    fates = {(entry.worker, entry.seq): (commit.commit, entry.weight) for commit in commits for entry in commit.entries}
    written, ahead = written_memories(virtual), Parts.of(virtual.settings).algorithm.ahead
    for worker in range(virtual.settings.workers):
        kept, seq = _Kept(worker), 0
        while (worker, seq) in updates:
            update = updates[worker, seq]
            if update.fault == DAMAGED:
                kept.damaged.append(seq)
            elif update.base_commit >= len(chains):
                break  # the log does not reach that far
            else:
                kept.settle(fates, update.base_commit)
                gradient = chain_digest(chains[update.base_commit], worker, seq, kept.ahead if ahead else 0)
                taken = (round(gradient * WHOLE) + kept.residual) % WHOLE
                if update.loss != taken / WHOLE and not kept.damaged:
                    yield f"update {(worker, seq)} does not carry its gradient with what is left of earlier ones"
                    break
                if not virtual.bad(worker, seq):
                    kept.residual, kept.pending[seq] = 0, taken
            seq += 1
            memory = written.get((worker, seq))
            if memory is not None:
                then = _Kept(worker, kept.residual, dict(kept.pending), list(kept.damaged))
                then.settle(fates, memory.ready_commit)
                if not then.damaged and (then.residual % WHOLE, then.pending) != numbers_of(memory):
                    yield f"{keys.memory(worker, seq)} is not what worker {worker} remembers"


def judge_horizons(virtual: VirtualRun, updates: Mapping[tuple[int, int], Update]) -> Iterator[str]:
    """Yield the deletions after which a memory could not be recovered: below the base of the update that follows the
    newest memory of each worker, a snapshot must stand. A worker that had made all its updates needs none."""
    counted = not virtual.settings.schedule.startswith("quorum")
    for gone in virtual.bucket.deleted:
        newest = dict.fromkeys(range(virtual.settings.workers), 0)
        newest |= dict(keys.update_id(key) for key in gone.standing[keys.MEMORY])  # rising, so the last one counts
        kept = [_commit_of(virtual, key) for key in gone.standing[keys.SNAPSHOTS]]
        decided = [seq for key in gone.standing[keys.HORIZONS][-1:] for seq in _record(virtual, key)["next_seq"]]
        for worker, seq in newest.items():
            following = updates.get((worker, seq))
            finished = decided and counted and decided[worker] == virtual.settings.steps
            if following is None or following.fault == DAMAGED or finished:
                continue
            if not any(commit <= following.base_commit for commit in kept):
                yield f"{gone.key} was deleted, without which the memory of worker {worker} cannot be recovered"


def _commit_of(virtual: VirtualRun, key: str) -> int:
    """Return the number of commits that a snapshot rests on, whether or not it was deleted since."""
    commit: int = _record(virtual, key)["log_state"]["commit"]
    return commit


def _record(virtual: VirtualRun, key: str) -> dict[str, Any]:
    data = virtual.bucket.get(key) or next(gone.data for gone in virtual.bucket.deleted if gone.key == key)
    record: dict[str, Any] = wire.load_json(data, key)
    return record


def numbers_of(memory: Memory) -> tuple[int, dict[int, int]]:
    """Return the residual and the pending vectors of a written memory."""
    residual = int(memory.arrays["residual"][0]) if "residual" in memory.arrays else 0
    return residual, {number: int(each.vector[0]) for number, each in memory.pending.items()}


def written_memories(virtual: VirtualRun) -> dict[tuple[int, int], Memory]:
    """Return the memories that the bucket holds or held. Of two at one place the first counts: the other followed its
    deletion, and nobody reads it, since newer ones stand."""
    found: dict[tuple[int, int], Memory] = {}
    bodies = [(gone.key, gone.data) for gone in virtual.bucket.deleted]
    bodies += [(key, data) for key, (data, _) in virtual.bucket.objects.items()]
    for key, data in bodies:
        if key.startswith(keys.MEMORY):
            found.setdefault(keys.update_id(key), Memory.read(data, key))
    return found

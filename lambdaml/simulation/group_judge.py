"""Checks a virtual run whose workers have models of their own: each goes on from the mean of its group, and from nothing else.

A model is a hash here (`lambdaml.simulation.stub_replica`), and so is a mean: over what passed in the group, in the order of
the workers. All of it is computed here from the updates' losses alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from lambdaml.log import keys, wire
from lambdaml.log.records import Commit, Update
from lambdaml.schedules import SCHEDULES
from lambdaml.schedules.groups import Groups
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.memory_judge import WHOLE, numbers_of, remembers, written_memories
from lambdaml.simulation.stub_replica import chain_digest


def judge_groups(
    virtual: VirtualRun, commits: Sequence[Commit], updates: Mapping[tuple[int, int], Update], start: bytes
) -> Iterator[str]:
    """Yield what is wrong with updates, memories, log entries and snapshots, and the deletions after which a model could
    not be found again.

    Args:
        start: The model with which all workers begin.
    """
    settings = virtual.settings
    grouping = _schedule(virtual).grouping(settings.workers, settings.seed)
    written, remembering = written_memories(virtual), remembers(virtual)
    models, residuals = dict.fromkeys(range(settings.workers), start), dict.fromkeys(range(settings.workers), 0)
    for turn in range(settings.steps):
        for worker, model in models.items():
            update = updates.get((worker, turn))
            if update is None:
                continue
            due = chain_digest(model, worker, turn)
            if remembering:
                taken = (round(due * WHOLE) + residuals[worker]) % WHOLE
                due = taken / WHOLE
                residuals[worker] = residuals[worker] if virtual.bad(worker, turn) else taken // 4
                memory = written.get((worker, turn + 1))
                if memory is not None and numbers_of(memory) != (residuals[worker], {}):
                    yield f"{keys.memory(worker, turn + 1)} is not what worker {worker} remembers"
            if update.loss != due:
                yield f"update {(worker, turn)} was not computed from the mean of its worker's group"
                return
        for group in grouping.of(turn):
            there = [worker for worker in group if (worker, turn) in updates and not virtual.bad(worker, turn)]
            if len([worker for worker in group if (worker, turn) in updates]) == len(group) and there:
                models |= dict.fromkeys(group, _mean(updates, there, turn))
    yield from _snapshots(virtual, commits, updates, start)
    yield from _entries(virtual, commits)
    yield from _deletions(virtual, updates)


def _schedule(virtual: VirtualRun) -> Groups:
    schedule = SCHEDULES.make(virtual.settings.schedule)
    assert isinstance(schedule, Groups)
    return schedule


def _mean(updates: Mapping[tuple[int, int], Update], workers: Sequence[int], turn: int) -> bytes:
    terms = [(worker, turn, updates[worker, turn].loss) for worker in workers]
    return hashlib.blake2b(repr(terms).encode(), digest_size=16).digest()


def _snapshots(
    virtual: VirtualRun, commits: Sequence[Commit], updates: Mapping[tuple[int, int], Update], start: bytes
) -> Iterator[str]:
    """Yield the snapshots, and the result, that are not the mean over all workers in the latest round with an update that
    counts."""
    after, entries = {0: start}, [(step, commit) for commit in commits for step in commit.steps]
    for version, (step, _) in enumerate(entries, 1):
        if any((entry.worker, entry.seq) not in updates for entry in step):
            return
        mean = _mean(updates, [entry.worker for entry in step], step[0].seq) if step else after[version - 1]
        after[version] = mean
    for info in virtual.bucket.list(keys.SNAPSHOTS):
        record = wire.load_json(virtual.bucket.get(info.key) or b"", info.key)
        if record["chain"] != after.get(keys.number(info.key), b"").hex():
            yield f"{info.key} is not the mean of what the log applies"
    data = virtual.bucket.get(keys.MODEL)
    if data is not None and wire.load_json(data, keys.MODEL)["chain"] != after[max(after)].hex():
        yield "the result is not the mean of the last models"


def _entries(virtual: VirtualRun, commits: Sequence[Commit]) -> Iterator[str]:
    """Yield the log entries that do not have whole rounds of all workers, or not as many as the schedule says."""
    settings, every = virtual.settings, _schedule(virtual).every
    for commit in commits:
        turns = {entry.seq for entry in commit.entries}
        due = set(range(commit.commit * every, min((commit.commit + 1) * every, settings.steps)))
        if turns != due and commit.entries:
            yield f"{keys.log(commit.commit)} decides rounds {sorted(turns)}, not {sorted(due)}"
        if len(commit.entries) != len(turns) * settings.workers:
            yield f"{keys.log(commit.commit)} does not decide all updates of its rounds"
        if any(entry.fate == "rejected" and not virtual.bad(entry.worker, entry.seq) for entry in commit.refused):
            yield f"{keys.log(commit.commit)} rejects an update that passes"


def _deletions(virtual: VirtualRun, updates: Mapping[tuple[int, int], Update]) -> Iterator[str]:
    """Yield the updates that were deleted although some worker had not come so far that its model rests on later ones."""
    settings, remembering = virtual.settings, remembers(virtual)
    for gone in virtual.bucket.deleted:
        if not gone.key.startswith(keys.UPDATES):
            continue
        _, turn = keys.update_id(gone.key)
        newest = dict.fromkeys(range(settings.workers), 0)
        newest |= dict(keys.update_id(key) for key in gone.standing[keys.MEMORY])
        for worker in range(settings.workers):
            if (worker, turn + 1) not in updates and turn + 1 < settings.steps:
                yield f"{gone.key} was deleted, on which the model of worker {worker} rests"
            if remembering and newest[worker] < turn + 2 and turn + 1 < settings.steps:
                yield f"{gone.key} was deleted, without which the memory of worker {worker} cannot be recovered"

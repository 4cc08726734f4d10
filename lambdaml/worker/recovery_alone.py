"""Recovers the memories of workers that have models of their own, after a crash.

No log is followed: the base of each update is the mean of its group's models in the round before. A worker's latest updates
are computed again one after the other, from its newest written memory on, on a machine beside the function's own, and
compared with those in the bucket. What this needs of several rounds is read at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lambdaml.events import RememberedEvent
from lambdaml.log.memory import Memory
from lambdaml.log.records import DAMAGED, Update
from lambdaml.worker.averages import fetched, model_before, source_of
from lambdaml.worker.machine import Machine
from lambdaml.worker.recomputing import Made, comes_out
from lambdaml.worker.recovery import Recovered, lost, newest_written
from lambdaml.worker.restoring import newest_snapshot
from lambdaml.worker.shared import Shared
from lambdaml.worker.window import WINDOW_BYTES, Id

_AT_ONCE = 16
"""So many rounds are read at once."""


async def recover_alone(shared: Shared, wanted: Mapping[int, int]) -> list[Recovered]:
    """Return the memories of these workers after as many updates as `wanted` says, all of which exist. Return none if
    the run ends or this function must leave meanwhile.

    Raises:
        RunFailed: If an update turns out different from the one in the bucket, or what it needs was deleted.
    """
    world, started = shared.world, shared.world.now()
    side = await world.compute(shared.replica.twin)
    state = await newest_snapshot(world, side)
    await world.compute(lambda: side.load(state))
    found, updates = [], 0
    for worker, seq in wanted.items():
        recovered = Recovered(await newest_written(shared, worker, 0, seq) or Memory(worker))
        updates += seq - recovered.memory.seq
        side.memories.host(recovered.memory, side.log_state)
        while recovered.memory.seq < seq and not shared.ending:
            known = await _read_ahead(shared, side, recovered.memory, seq)
            while (worker, recovered.memory.seq) in known and not shared.ending:
                await _again(shared, side, recovered, known)
        side.memories.drop(worker)
        found.append(recovered)
    if shared.ending:
        return []
    took_s = round(world.now() - started, 3)
    world.emit(RememberedEvent(workers=sorted(wanted), updates=updates, seconds=took_s))
    return found


async def _read_ahead(shared: Shared, side: Machine, memory: Memory, end: int) -> dict[Id, Update]:
    """Read a worker's next updates with those of its groups in the rounds before, as many as fit into the window."""
    assert side.own is not None
    worker, grouping = memory.worker, side.own.grouping
    room = max(1, WINDOW_BYTES // max(1, shared.window.update_bytes) // (len(grouping.around(0, worker)) + 1))
    turns = range(memory.seq, min(memory.seq + room, memory.seq + _AT_ONCE, end))
    wanted = {(worker, turn) for turn in turns}
    wanted |= {(member, turn - 1) for turn in turns if turn for member in grouping.around(turn - 1, worker)}
    ordered = sorted(wanted)
    found = await shared.world.gather(*[fetched(shared, *each) for each in ordered])
    return dict(zip(ordered, found, strict=True))


async def _again(shared: Shared, side: Machine, recovered: Recovered, known: Mapping[Id, Update]) -> None:
    """Compute a worker's next update again, let the worker remember it, and compare it unless it is damaged."""
    memory, settings = recovered.memory, shared.settings
    worker, seq = memory.worker, memory.seq
    assert side.own is not None
    source = source_of(shared, side, known)
    side.own.take(worker, await model_before(source, side, worker, seq))
    update = known[worker, seq]
    made = Made.of(update)
    if update.fault == DAMAGED:
        made = replace(made, assignment=side.assign(worker, seq))
    shared.computing += 1
    try:
        same = await shared.world.compute(lambda: comes_out(side, made, settings))
    finally:
        shared.computing -= 1
    recovered.compute_s += made.compute_s
    recovered.history += 1 / settings.rounds_kept(made.size_bytes * settings.workers)
    shared.waits.progress()
    if not same and update.fault != DAMAGED:
        raise lost(worker, seq)

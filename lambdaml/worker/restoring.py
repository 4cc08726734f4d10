"""Restores a function's replica: it loads the newest snapshot with all that belongs to it."""

from __future__ import annotations

from lambdaml.errors import RunFailed, RunNotFound
from lambdaml.log import keys
from lambdaml.log.reads import demand_present
from lambdaml.log.records import Commit, Update
from lambdaml.log.snapshot import FROZEN_DIGEST
from lambdaml.log.state import LogState
from lambdaml.worker.machine import Machine, MachineState
from lambdaml.worker.reading import read
from lambdaml.worker.shared import Shared
from lambdaml.worker.world import World

_RESTORES = 5
"""This many snapshots are tried, since each may be deleted while it is read."""


async def restore(shared: Shared) -> bool:
    """Load the newest snapshot, find the end of the log, and return whether the run is new.

    Raises:
        RunNotFound: If the run has no snapshot.
        RunFailed: If each snapshot that was found was deleted before it was read.
    """
    world = shared.world
    state = await newest_snapshot(world, shared.replica)
    await world.compute(lambda: shared.replica.load(state))
    known = LogState.load(state.meta["log_state"], shared.settings.workers, shared.settings.steps)
    entries = await world.store.list(keys.LOG, after=keys.log(known.commit - 1) if known.commit else "")
    shared.start_at(known, keys.number(entries[-1].key) + 1 if entries else known.commit)
    return shared.tail == 0


async def newest_snapshot(world: World, machine: Machine) -> MachineState:
    """Return the newest snapshot. If it is deleted before it is read, a newer one exists, so it looks again.

    Raises:
        RunNotFound: If there is none.
        RunFailed: If each snapshot that was found was deleted before it was read.
    """
    for _ in range(_RESTORES):
        snapshots = await world.store.list(keys.SNAPSHOTS)
        if not snapshots:
            raise RunNotFound("the run has no snapshot: it was never started, or not by this version")
        found = await read_machine_state(world, machine, snapshots[-1].key)
        if found is not None:
            return found
    raise RunFailed(f"{snapshots[-1].key} was deleted while a function started, and so were those before it")


async def whole_state_at(shared: Shared, commits: int) -> MachineState:
    """Return the whole state after so many commits, from the newest snapshot at or before it, the log and the updates.

    Raises:
        RunFailed: If objects that this needs were deleted.
    """
    world, side = shared.world, shared.replica.twin()
    for info in reversed(await world.store.list(keys.SNAPSHOTS)):
        state = await read_machine_state(world, side, info.key)
        if state is not None and state.meta["log_state"]["commit"] <= commits:
            break
    else:
        raise RunFailed(f"no snapshot from before commit {commits} is left")
    await world.compute(lambda: side.load(state))
    for number in range(side.log_state.commit, commits):
        key = keys.log(number)
        commit = demand_present(await read(world, key, Commit.read), key)
        await world.compute(lambda commit=commit: side.begin(commit))  # type: ignore[misc]
        for step in commit.steps:
            for entry in step:
                update = demand_present(await read(world, at := keys.update(entry.worker, entry.seq), Update.read), at)
                await world.compute(lambda entry=entry, update=update: side.add(entry, update))  # type: ignore[misc]
            await world.compute(lambda step=step: side.step(step))  # type: ignore[misc]
        await world.compute(lambda commit=commit: side.end(commit))  # type: ignore[misc]
    return await world.compute(side.state)


async def read_machine_state(world: World, machine: Machine, key: str) -> MachineState | None:
    """Return a snapshot with its frozen parameters, or None if there is no such snapshot."""
    state = await read(world, key, machine.read)
    if state is None or FROZEN_DIGEST not in state.meta:
        return state
    return state.over(demand_present(await read(world, keys.FROZEN, machine.read), keys.FROZEN))

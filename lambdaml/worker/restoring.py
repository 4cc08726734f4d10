"""Restores a function's replica: it loads the newest snapshot with all that belongs to it."""

from __future__ import annotations

from lambdaml.errors import RunFailed, RunNotFound
from lambdaml.log import keys
from lambdaml.log.reads import demand_present
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
    state = await _newest_snapshot(world, shared.replica)
    await world.compute(lambda: shared.replica.load(state))
    known = LogState.load(state.meta["log_state"], shared.settings.workers, shared.settings.steps)
    entries = await world.store.list(keys.LOG, after=keys.log(known.commit - 1) if known.commit else "")
    shared.start_at(known, keys.number(entries[-1].key) + 1 if entries else known.commit)
    return shared.tail == 0


async def _newest_snapshot(world: World, machine: Machine) -> MachineState:
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


async def read_machine_state(world: World, machine: Machine, key: str) -> MachineState | None:
    """Return a snapshot with its frozen parameters, or None if there is no such snapshot."""
    state = await read(world, key, machine.read)
    if state is None or FROZEN_DIGEST not in state.meta:
        return state
    return state.over(demand_present(await read(world, keys.FROZEN, machine.read), keys.FROZEN))

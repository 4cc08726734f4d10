"""Averages models of workers from the bucket alone, in a run whose workers have models of their own."""

from __future__ import annotations

from dataclasses import replace

from lambdaml.errors import RunFailed
from lambdaml.log import keys
from lambdaml.log.own_models import OwnModel
from lambdaml.log.reads import demand_present
from lambdaml.log.records import DAMAGED, Body, Commit, Update
from lambdaml.log.reports import RoundReport
from lambdaml.worker.checking import checked_update
from lambdaml.worker.machine import Machine
from lambdaml.worker.reading import read
from lambdaml.worker.restoring import read_machine_state
from lambdaml.worker.shared import Shared


async def fetched(shared: Shared, worker: int, seq: int) -> Update:
    """Read and check an update that exists.

    Raises:
        RunFailed: If it does not.
    """
    key = keys.update(worker, seq)
    data = await shared.world.store.get(key)
    if data is None:
        raise RunFailed(f"{key} is in the log but not in the bucket: was it deleted?")
    return await checked_update(shared, data, worker, seq)


async def reports_before(shared: Shared, worker: int, seq: int) -> tuple[RoundReport, ...]:
    """Return the reports on a worker's latest rounds before this one, from the headers of its updates. Those of damaged
    updates say so."""
    assert shared.replica.own is not None
    lost: list[RoundReport] = []
    for turn in range(seq - 1, -1, -1):
        update = await fetched(shared, worker, turn)
        known = () if update.fault == DAMAGED else update.reports
        if known or len(lost) == shared.replica.own.every:
            return (*known, *lost)[-shared.replica.own.every :]
        lost.insert(0, RoundReport(turn, 0, 0, float("nan"), fault=DAMAGED))
    return tuple(lost)


async def first_model(shared: Shared, machine: Machine) -> Body:
    """Return the model with which all workers begin.

    Raises:
        RunFailed: If it was deleted.
    """
    assert machine.own is not None
    body, version = machine.own.loaded
    if not version:
        return body
    side = await shared.world.compute(machine.twin)
    state = await read_machine_state(shared.world, side, keys.snapshot(0))
    if state is None:
        raise RunFailed(f"{keys.snapshot(0)} is needed to begin as a worker: was it deleted?")
    await shared.world.compute(lambda: side.load(state))
    assert side.own is not None
    return side.own.loaded[0]


async def model_before(shared: Shared, machine: Machine, worker: int, seq: int) -> OwnModel:
    """Return the model from which a worker computes an update: the mean over its group in the round before. If all updates
    of the group were rejected, it is the model of the round before that."""
    own, compute = machine.own, shared.world.compute
    assert own is not None
    if seq == 0:
        return OwnModel.of(0, await first_model(shared, machine))
    mean, passing = machine.rounds.averaging({}), False
    for member in own.grouping.around(seq - 1, worker):
        update = await fetched(shared, member, seq - 1)
        if not update.fault:
            await compute(lambda update=update: mean.add(update))  # type: ignore[misc]
            passing = True
    reports = await reports_before(shared, worker, seq)
    if not passing:
        return replace(await model_before(shared, machine, worker, seq - 1), seq=seq, reports=reports)
    return await compute(lambda: OwnModel.of(seq, mean.finish(), reports))


async def take_mean(shared: Shared, machine: Machine, commit: Commit) -> None:
    """Take the mean of all workers' models after a commit as the machine's model.

    Their updates are read one after the other. If all were rejected in the last round, it is the mean after an earlier one,
    or the model that the machine has loaded.
    """
    own, world = machine.own, shared.world
    assert own is not None
    while not any(commit.steps) and commit.version > own.loaded[1]:
        key = keys.log(commit.commit - 1)
        commit = demand_present(await read(world, key, Commit.read), key)
    step = next((step for step in reversed(commit.steps) if step), ())
    if not step or commit.last_version <= own.loaded[1]:
        await world.compute(lambda: machine.rounds.put(own.loaded[0]))
        return
    mean = machine.rounds.averaging(own.turnout(step[0].seq, {entry.worker for entry in step}))
    for entry in step:
        update = await fetched(shared, entry.worker, entry.seq)
        await world.compute(lambda update=update: mean.add(update))  # type: ignore[misc]
    await world.compute(lambda: machine.rounds.put(mean.finish()))

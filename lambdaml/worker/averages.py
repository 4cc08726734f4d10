"""Finds models of workers in the bucket alone, in a run whose workers have models of their own.

Functions and readers of a run find them with the same code, each in its own way of waiting.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

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
from lambdaml.worker.window import Id

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """The way in which one who looks for models reads and computes.

    Attributes:
        fetch: Reads and checks the update of a worker and round. It must exist.
        first: Reads the model with which all workers begin.
        compute: Runs tensor work.
    """

    fetch: Callable[[int, int], Awaitable[Update]]
    first: Callable[[], Awaitable[Body]]
    compute: Callable[[Callable[[], Any]], Awaitable[Any]]


def source_of(shared: Shared, machine: Machine, known: Mapping[Id, Update] | None = None) -> Source:
    """Return the way in which a function does so.

    Args:
        known: The updates that were read before, by worker and round.
    """

    async def fetch(worker: int, seq: int) -> Update:
        found = (known or {}).get((worker, seq))
        return await fetched(shared, worker, seq) if found is None else found

    return Source(
        fetch,
        lambda: _first_model(shared, machine),
        shared.world.compute,
    )


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


async def _first_model(shared: Shared, machine: Machine) -> Body:
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


async def reports_before(source: Source, machine: Machine, worker: int, seq: int) -> tuple[RoundReport, ...]:
    """Return the reports on a worker's latest rounds before this one, from the headers of its updates. Those of damaged
    updates say so."""
    assert machine.own is not None
    every, lost = machine.own.every, list[RoundReport]()
    for turn in range(seq - 1, -1, -1):
        update = await source.fetch(worker, turn)
        known = () if update.fault == DAMAGED else update.reports
        if known or len(lost) == every:
            return (*known, *lost)[-every:]
        lost.insert(0, RoundReport(turn, 0, 0, float("nan"), fault=DAMAGED))
    return tuple(lost)


async def model_before(source: Source, machine: Machine, worker: int, seq: int) -> OwnModel:
    """Return the model from which a worker computes an update: the mean over its group in the round before. If all updates
    of the group were rejected, it is the model of the round before that. It has no reports, which only a header needs."""
    assert machine.own is not None
    if seq == 0:
        return OwnModel.of(0, await source.first())
    mean, passing = machine.rounds.averaging({}), False
    for member in machine.own.grouping.around(seq - 1, worker):
        update = await source.fetch(member, seq - 1)
        if not update.fault:
            await source.compute(lambda update=update: mean.add(update))  # type: ignore[misc]
            passing = True
    if not passing:
        return replace(await model_before(source, machine, worker, seq - 1), seq=seq)
    model: OwnModel = await source.compute(lambda: OwnModel.of(seq, mean.finish()))
    return model


async def take_mean(shared: Shared, machine: Machine, commit: Commit) -> None:
    """Take the mean of all workers' models after a commit as the machine's model.

    Their updates are read one after the other. If all were rejected in the last round, it is the mean after an earlier one,
    or the model that the machine has loaded.
    """
    own, world = machine.own, shared.world
    assert own is not None
    own.mean_at = commit.commit + 1
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

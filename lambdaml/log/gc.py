"""Gc: delete what only replay needs of a run that nobody works on."""

from __future__ import annotations

from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.holders import working
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import demand_present, read_many, read_now
from lambdaml.log.retention import Horizon, pinned_version
from lambdaml.log.snapshot import State
from lambdaml.storage.probe import store_time


def gc(run: RunReader) -> int:
    """Delete what the run's newest snapshot has made unnecessary; returns how many objects.

    Snapshots before the result's, before the newest and before what is pinned go, and the updates that have their
    fate before the earliest one kept. The log, the metrics, the trace and the usage stay. Versions before that
    snapshot can no longer be replayed.

    Raises:
        SettingsError: functions work on the run, by the store's clock; they may still need what would be deleted.
    """
    holders = working(run.store, run.tail()[0], store_time(run.store))
    if holders:
        raise SettingsError(f"{run.url} is being trained by {', '.join(holders)}: wait for its end, or cancel it")
    found = garbage(run)
    if found is None:
        return 0
    horizon, doomed = found
    run.store.create(keys.horizon(horizon.commit), horizon.dump())
    run.store.delete(doomed)
    return len(doomed)


def garbage(run: RunReader) -> tuple[Horizon, list[str]] | None:
    """What `gc` would delete: the horizon to publish first, and the keys to delete then, in their order. None if that
    is nothing."""
    store = run.store
    infos = list(store.list(keys.SNAPSHOTS))
    pins = read_many(store, [info.key for info in store.list(keys.PINS)], pinned_version)
    if not infos:
        return None
    result = next((commit.stop.version for commit in run.log() if commit.stop), None)
    newest = keys.number(infos[-1].key)
    wanted = min(version for version in (newest, result, *pins) if version is not None)
    oldest = max((info.key for info in infos if keys.number(info.key) <= wanted), default=infos[0].key)
    horizon = Horizon.of(demand_present(read_now(store, oldest, State.load), oldest).meta["log_state"])
    doomed = [info.key for info in infos if info.key < oldest]
    for info in store.list(keys.UPDATES):
        worker, seq = keys.update_id(info.key)
        if seq < horizon.next_seq[worker]:
            doomed.append(info.key)
    spent = [info.key for info in store.list(keys.HORIZONS) if keys.number(info.key) < horizon.commit]
    return (horizon, doomed + spent) if doomed else None

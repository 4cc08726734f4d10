"""Deletes what only replay needs, in a run that nobody works on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.controls import lost_memories, wishes
from lambdaml.log.holders import working
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import demand_present, read_many, read_now
from lambdaml.log.retention import Horizon, below, newest_memories, pinned_version, spent_travels
from lambdaml.log.snapshot import State, meta_of
from lambdaml.parts import Parts
from lambdaml.schedules.cohort import Turns
from lambdaml.storage.probe import store_time


def gc(run: RunReader) -> int:
    """Delete what the run's newest snapshot has made unnecessary, and return the number of objects deleted.

    It deletes the snapshots that are older than the result's, the newest one and every pinned one, and the updates that
    got their fate before the earliest snapshot kept, with the sums of these, what was measured beside them, and the memories
    that only those rest on. It keeps the log, the metrics, the trace and the usage. Versions before that snapshot can no longer be replayed. If the run has not ended,
    what a recovery of its workers' memories needs is kept, too.

    Raises:
        SettingsError: If functions work on the run, by the store's clock. They may still need what would be deleted.
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
    """Return the horizon that `gc` would publish first, and the keys that it would then delete, in order.

    The result is None if it would delete nothing.
    """
    store = run.store
    infos = list(store.list(keys.SNAPSHOTS))
    pins = read_many(store, [info.key for info in store.list(keys.PINS)], pinned_version)
    if not infos:
        return None
    stop = next((commit.stop for commit in run.log() if commit.stop), None)
    newest = keys.number(infos[-1].key)
    result = None if stop is None else stop.version
    wanted = min(version for version in (newest, result, *pins) if version is not None)
    remembered = _remembered(run) if stop is None else None

    def suffices(key: str) -> bool:
        return remembered is None or Horizon.of(meta_of(store, key)["log_state"]).leaves(remembered)

    usable = (info.key for info in reversed(infos) if keys.number(info.key) <= wanted)
    oldest = next(filter(suffices, usable), infos[0].key)
    horizon = Horizon.of(demand_present(read_now(store, oldest, State.load), oldest).meta["log_state"])
    doomed = [info.key for info in infos if info.key < oldest]
    for info in [*store.list(keys.UPDATES), *store.list(keys.EXTRA_OBJECTS)]:
        worker, seq = keys.update_id(info.key)
        if seq < horizon.next_seq[worker]:
            doomed.append(info.key)
    doomed += [keys.memory(*each) for each in _unneeded(run, horizon, remembered)]
    sums = below(horizon, store.list(keys.BLOCKS), [*store.list(keys.REDUCED), *store.list(keys.SUMS)])
    sums += spent_travels(horizon, store.list(keys.TRAVEL))
    spent = [info.key for info in store.list(keys.HORIZONS) if keys.number(info.key) < horizon.commit]
    return (horizon, doomed + sums + spent) if doomed + sums else None


def _unneeded(run: RunReader, horizon: Horizon, remembered: Sequence[int] | None) -> Iterator[tuple[int, int]]:
    """Yield the memories that nobody can need from the horizon on, each by its worker and the number of its updates."""
    written = [keys.update_id(info.key) for info in run.store.list(keys.MEMORY)]
    if run.settings.takes_turns:
        yield from Turns(run.settings).superseded(written, horizon.next_seq[0])
        return
    for worker, seq in written:
        if seq < horizon.next_seq[worker] and not (remembered is not None and seq >= remembered[worker]):
            yield worker, seq


def _remembered(run: RunReader) -> list[int] | None:
    """Return for each worker the number of updates after which its newest memory was written, or began anew; None in a
    run without memory."""
    if not Parts.of(run.settings).remembers or run.settings.takes_turns:  # then there is one with each update
        return None
    marks = [keys.update_id(info.key) for info in run.store.list(keys.MEMORY)] + lost_memories(wishes(run.store))
    return newest_memories(marks, run.settings.workers)

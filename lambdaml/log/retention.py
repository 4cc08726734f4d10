"""Says what a run keeps of its history. `lambdaml.worker.retention` deletes the rest while the run goes on.

A run goes on from its newest snapshot. The snapshots before it, and the updates that got their fate before it, serve
replay only. If their rounds or their bytes are bounded (`Settings.keep_rounds`, `Settings.keep_bytes`), whoever writes
the log deletes the oldest of them, and with the updates the sums of them that patterns wrote (`lambdaml.log.partial`).

The *horizon* says from which snapshot on everything is kept. It is an object that is created before anything below it
is deleted, so whoever finds an object missing can tell deletion from loss: functions that a horizon has passed load the
newest snapshot, and readers begin at the horizon. Snapshots are deleted before the updates that a replay from them
would need. Horizon objects are deleted last, so that a successor finds a deletion that was begun. A snapshot or an
update that was written late, by a delayed request, may lie below the horizon; nobody looks there.

A *pin* keeps the history from a version on for a reader. The reader writes the pin first and then looks at the horizon;
whoever deletes publishes the horizon first and then looks at the pins. So one of the two sees the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lambdaml.errors import BadObject, SettingsError
from lambdaml.log import keys, wire
from lambdaml.log.reads import demand_present, read_now
from lambdaml.log.state import KNOWN_FATES
from lambdaml.storage import ObjectInfo
from lambdaml.storage.protocol import Bytes, Store

ROUNDS_UNDER_WAY = 2 * KNOWN_FATES
"""If rounds are counted, this many are held free: those of updates that have no fate yet, and as many that are made while
older ones are deleted."""


def least_rounds(snapshot_every: int) -> int:
    """Return the least number of rounds that a run can keep: with fewer, the horizon would have to pass what functions
    that have just fallen silent still need, or the only snapshot."""
    return 2 * snapshot_every + ROUNDS_UNDER_WAY


@dataclass(frozen=True, slots=True)
class Horizon:
    """A snapshot, as a place in the run's history.

    Attributes:
        version: The snapshot's version.
        commit: The number of log entries that the snapshot rests on.
        next_seq: For each worker, the number of its updates that have their fate in those entries.
    """

    version: int
    commit: int
    next_seq: tuple[int, ...]

    @property
    def progress(self) -> int:
        """The number of updates with a fate, over all workers."""
        return sum(self.next_seq)

    def leaves(self, remembered: Sequence[int] | None) -> bool:
        """Return whether everything from here on suffices to recover all memories.

        A memory after q updates is recovered from the base of update q. That lies behind the fate of update q - 2, since
        a worker has at most two updates pending.

        Args:
            remembered: For each worker, the number of updates after which its newest memory was written; None in a run
                without memory.
        """
        if remembered is None:
            return True
        pairs = zip(self.next_seq, remembered, strict=True)
        return all(decided <= seq - KNOWN_FATES for decided, seq in pairs)

    @staticmethod
    def of(log_state: Mapping[str, Any]) -> Horizon:
        """Return the place of a snapshot from the log state in its metadata; see `LogState.dump`."""
        return Horizon(log_state["version"], log_state["commit"], tuple(log_state["next_seq"]))

    def dump(self) -> bytes:
        """Return the object's bytes."""
        return wire.dump_json({"version": self.version, "commit": self.commit, "next_seq": list(self.next_seq)})

    @staticmethod
    def read(data: Bytes, key: str) -> Horizon:
        """Read a horizon back from its object.

        Raises:
            BadObject: If the object is damaged.
        """
        record = wire.load_json(data, key)
        try:
            return Horizon(int(record["version"]), int(record["commit"]), tuple(map(int, record["next_seq"])))
        except (KeyError, TypeError, ValueError) as error:
            raise BadObject(f"{key} is no horizon") from error


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes from which the bytes of a run's history follow.

    Attributes:
        update_bytes: The size of the largest update seen.
        snapshot_bytes: The size of the largest snapshot seen.
        every: The number of updates between snapshots, over all workers.
    """

    update_bytes: int
    snapshot_bytes: int
    every: int

    def history(self, updates: int) -> int:
        """Return the bytes of this many updates and their snapshots, including the snapshots at both ends."""
        return updates * self.update_bytes + (updates // self.every + 1) * self.snapshot_bytes


def newest_memories(marks: Iterable[tuple[int, int]], workers: int) -> list[int]:
    """Return for each worker the number of updates after which its newest memory was written.

    Args:
        marks: A worker and such a number for each memory, and for each one that began anew, in any order.
    """
    newest = [0] * workers
    for worker, seq in marks:
        newest[worker] = max(newest[worker], seq)
    return newest


def below(horizon: Horizon, blocks: Iterable[ObjectInfo], sums: Iterable[ObjectInfo]) -> list[str]:
    """Return the keys of the slices of updates and of sums that a horizon lets go."""
    doomed = [info.key for info in sums if keys.reduced_commit(info.key) < horizon.commit]
    for info in blocks:
        worker, seq = keys.block_id(info.key)
        if seq < horizon.next_seq[worker]:
            doomed.append(info.key)
    return doomed


def spent_travels(horizon: Horizon, travels: Iterable[ObjectInfo]) -> list[str]:
    """Return the keys of the travelling models that were judged by updates which a horizon lets go."""
    found = ((info.key, *keys.update_id(info.key)) for info in travels)
    return [key for key, worker, seq in found if seq + 1 < horizon.next_seq[worker]]


def updates_between(older: Horizon, newer: Horizon, key: Callable[[int, int], str] = keys.update) -> Iterator[str]:
    """Yield the keys of the updates that got their fate between the two horizons, or of other objects of theirs."""
    for worker, (start, end) in enumerate(zip(older.next_seq, newer.next_seq, strict=True)):
        for seq in range(start, end):
            yield key(worker, seq)


def horizon_of(store: Store) -> Horizon | None:
    """Return the newest horizon, or None if nothing was ever deleted."""
    *_, newest = [None, *(info.key for info in store.list(keys.HORIZONS))]
    return None if newest is None else demand_present(read_now(store, newest, Horizon.read), newest)


def snapshots_kept(store: Store) -> Iterator[ObjectInfo]:
    """Yield the snapshots from which the run can be replayed, in order."""
    horizon = horizon_of(store)
    first = horizon.version if horizon is not None else 0
    return store.list(keys.SNAPSHOTS, after=keys.snapshot(first - 1) if first else "")


def pin_version(store: Store, name: str, version: int) -> None:
    """Keep the history from a version on until `unpin_version`, whatever the run's bound says.

    Raises:
        SettingsError: If that history is deleted already, or the name cannot be part of a key.
    """
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        raise SettingsError(f"a pin's name is made of letters, digits, '_', '-' and '.' (it is {name!r})")
    store.put(keys.pin(name), wire.dump_json({"version": version}))
    horizon = horizon_of(store)
    if horizon is not None and horizon.version > version:
        unpin_version(store, name)
        raise SettingsError(f"the history of {store.url} begins at version {horizon.version}: {version} is deleted")


def unpin_version(store: Store, name: str) -> None:
    """Remove a pin. It is no error if the pin does not exist."""
    store.delete([keys.pin(name)])


def pinned_version(data: Bytes, key: str) -> int:
    """Return the version that a pin names."""
    record: dict[str, Any] = wire.load_json(data, key)
    try:
        return int(record["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadObject(f"{key} is no pin") from error

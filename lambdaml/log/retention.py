"""What a run keeps of its history. How the rest is deleted while it goes on stands in `lambdaml.worker.retention`.

A run goes on from its newest snapshot. The snapshots before it, and the updates that have their fate before it, serve
replay only; where their bytes are bounded (`Settings.keep_bytes`), whoever writes the log deletes the oldest of them.

The *horizon* says from which snapshot on everything is kept. It is an object that is created before anything below it
is deleted, so whoever finds an object missing can tell deletion from loss: functions that a horizon has passed load the
newest snapshot, readers begin at the horizon. Snapshots are deleted before the updates that a replay from them would
demand. Horizon objects are deleted last, so that a successor finds what was begun. A snapshot or an update that was
written late, by a request of long ago, may stand below the horizon; nobody looks there.

A *pin* keeps the history from a version on for a reader. It is written first, and the horizon looked at afterwards;
whoever deletes publishes the horizon first and looks at the pins afterwards: so one of the two sees the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lambdaml.errors import BadObject, SettingsError
from lambdaml.log import keys, wire
from lambdaml.log.reads import demand_present, read_now
from lambdaml.storage import ObjectInfo
from lambdaml.storage.protocol import Bytes, Store


@dataclass(frozen=True, slots=True)
class Horizon:
    """A snapshot, as a place in the run's history.

    Attributes:
        version: of the snapshot.
        commit: log entries that it rests on.
        next_seq: per worker, how many of its updates have their fate in those.
    """

    version: int
    commit: int
    next_seq: tuple[int, ...]

    @property
    def progress(self) -> int:
        """Updates with a fate, over all workers."""
        return sum(self.next_seq)

    @staticmethod
    def of(log_state: Mapping[str, Any]) -> Horizon:
        """The place of a state whose account of the log is this; see `LogState.dump`."""
        return Horizon(log_state["version"], log_state["commit"], tuple(log_state["next_seq"]))

    def dump(self) -> bytes:
        """The object's bytes."""
        return wire.dump_json({"version": self.version, "commit": self.commit, "next_seq": list(self.next_seq)})

    @staticmethod
    def read(data: Bytes, key: str) -> Horizon:
        """Read one back.

        Raises:
            BadObject: it is damaged.
        """
        record = wire.load_json(data, key)
        try:
            return Horizon(int(record["version"]), int(record["commit"]), tuple(map(int, record["next_seq"])))
        except (KeyError, TypeError, ValueError) as error:
            raise BadObject(f"{key} is no horizon") from error


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a run's history is made of.

    Attributes:
        update_bytes: of the largest update seen.
        snapshot_bytes: of the largest snapshot seen.
        every: updates between snapshots, over all workers.
    """

    update_bytes: int
    snapshot_bytes: int
    every: int

    def history(self, updates: int) -> int:
        """Bytes of so many updates and their snapshots, those at both ends included."""
        return updates * self.update_bytes + (updates // self.every + 1) * self.snapshot_bytes


def updates_between(older: Horizon, newer: Horizon) -> Iterator[str]:
    """Keys of the updates that have their fate between the two."""
    for worker, (start, end) in enumerate(zip(older.next_seq, newer.next_seq, strict=True)):
        for seq in range(start, end):
            yield keys.update(worker, seq)


def horizon_of(store: Store) -> Horizon | None:
    """The newest horizon; None where nothing was ever deleted."""
    *_, newest = [None, *(info.key for info in store.list(keys.HORIZONS))]
    return None if newest is None else demand_present(read_now(store, newest, Horizon.read), newest)


def snapshots_kept(store: Store) -> Iterator[ObjectInfo]:
    """The snapshots that the run can be replayed from, in order."""
    horizon = horizon_of(store)
    first = horizon.version if horizon is not None else 0
    return store.list(keys.SNAPSHOTS, after=keys.snapshot(first - 1) if first else "")


def pin_version(store: Store, name: str, version: int) -> None:
    """Keep the history from a version on until `unpin_version`, whatever the run's bound says.

    Raises:
        SettingsError: it is deleted already, or the name is no part of a key.
    """
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        raise SettingsError(f"a pin's name is made of letters, digits, '_', '-' and '.' (it is {name!r})")
    store.put(keys.pin(name), wire.dump_json({"version": version}))
    horizon = horizon_of(store)
    if horizon is not None and horizon.version > version:
        unpin_version(store, name)
        raise SettingsError(f"the history of {store.url} begins at version {horizon.version}: {version} is deleted")


def unpin_version(store: Store, name: str) -> None:
    """Take a pin away; one that is not there is no error."""
    store.delete([keys.pin(name)])


def pinned_version(data: Bytes, key: str) -> int:
    """The version that a pin names."""
    record: dict[str, Any] = wire.load_json(data, key)
    try:
        return int(record["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadObject(f"{key} is no pin") from error

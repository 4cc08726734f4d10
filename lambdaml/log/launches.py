"""What the functions of one launch tell each other, and whoever launched them, by way of the bucket.

Each call of `train` or `resume` is a launch. Where functions share no memory with their engine, and where the engine may
be gone while they go on, the bucket holds what an engine would otherwise keep in its head:

launches/{launch}/work.json                          create-only: what its functions work on; see `lambdaml.engines.invoke`
launches/{launch}/lives/{index:05d}/{life:06d}.json  create-only: whoever writes it starts this life of function `index`
launches/{launch}/evaluations/{version:010d}.json    create-only: whoever writes it starts the evaluation of a snapshot
launches/{launch}/failures/{function}.json           create-only: the error for which a function gave up for good
launches/{launch}/leave.json                         create-only: a wish that all functions of the launch leave, with its reason

A function is a slot of the launch, and has one *life* after the other. Since a life is claimed before it is started, a
function that is started twice, or looked after by several others, goes on once. A claim says whether the life before
ended in order. If the latest ones all ended in death, without a commit in between, no other life may be claimed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lambdaml.errors import BadObject
from lambdaml.log import keys, wire
from lambdaml.log.holders import last_of
from lambdaml.log.members import demand_type, known
from lambdaml.log.reads import demand_present, read_many, read_now
from lambdaml.storage import ObjectInfo, Store

_WORK = "work.json"

SHOW_LEASES = 2.0
"""A life that was claimed has the time of so many leases to show itself before the next one is claimed."""

MAX_DEATHS = 5
"""After this many deaths in a row without a commit in between, a function gets no other life."""


def prefix_of(launch: str) -> str:
    """Return the text that begins the names of all functions of a launch, and no others."""
    return f"launch-{launch}."


def name_of(launch: str, index: int, life: int) -> str:
    """Return a name for a life of function `index`. It is another one each time, since a life may be started twice."""
    return f"{prefix_of(launch)}{index}.{life}-{secrets.token_hex(3)}"


def life_of(name: str) -> tuple[int, int]:
    """Return the number of the function, and that of its life, that this name of a life says."""
    index, life = name.partition(".")[2].partition("-")[0].split(".")
    return int(index), int(life)


@dataclass(frozen=True, slots=True)
class Claim:
    """The claim of one life of a function.

    Attributes:
        commits: The number of commits that the log had when the life was claimed, or a little earlier.
        died: Whether the life before ended in death.
        by: The name of who claimed it; empty for the launcher.
        token: A text that no other claim has, so that each is won by one.
    """

    commits: int
    died: bool
    by: str = ""
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def dump(self) -> bytes:
        """Return the bytes of the claim's object."""
        return wire.dump_json(asdict(self))

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> Claim:
        """Read a claim back from its object.

        Raises:
            BadObject: If the object is damaged.
        """
        try:
            life = known(Claim, wire.load_json(data, key))
            demand_type(life, int, "commits")
            demand_type(life, str, "by")
        except TypeError as error:
            raise BadObject(f"{key} is not the claim of a life: {error}") from error
        return life


class Launch:
    """One launch of a run's functions, as the bucket holds it.

    Args:
        store: The run's bucket.
        token: The launch's name, unique among all launches of the run.
    """

    def __init__(self, store: Store, token: str) -> None:
        self.token = token
        self._store = store
        self._base = f"{keys.LAUNCHES}{token}/"

    @staticmethod
    def newest(store: Store) -> tuple[Launch, dict[str, Any]] | None:
        """Return the newest launch of a run, and what its functions work on; None if there is none."""
        found = [info for info in store.list(keys.LAUNCHES) if info.key.endswith(_WORK)]
        if not found:
            return None
        key = max(found, key=lambda info: info.modified).key
        work = demand_present(read_now(store, key, wire.load_json), key)
        return Launch(store, key.split("/")[1]), work

    def begin(self, work: dict[str, Any]) -> None:
        """Note what the functions of the launch work on."""
        self._store.create(f"{self._base}{_WORK}", wire.dump_json(work))

    def next_life(self, index: int) -> int:
        """Return the number of the first life of function `index` that nobody has claimed."""
        return len(self._lives(index))

    def claim(self, index: int, life: int, commits: int = 0, by: str = "") -> bool:
        """Claim this life of function `index`, whose life before ended in order or which never had one.

        Args:
            commits: The number of commits that are known.

        Returns:
            Whether nobody else has claimed it.
        """
        return self._claim(index, life, Claim(commits, died=False, by=by))

    def revive(self, index: int, after_s: float, by: str = "") -> int | None:
        """Claim the next life of function `index`, whose latest one seems to have died.

        Args:
            after_s: The seconds that the latest life has to show itself after it was claimed.

        Returns:
            The number of the life. None if somebody else cares for it, or if nobody should: a function has given up,
            the latest lives all died without progress, or the launch is to leave.
        """
        lives = self._lives(index)
        if lives and time.time() - lives[-1].modified < after_s:
            return None
        commits = self.commits()
        if self.over() or self.failures() or self._hopeless(lives, commits):
            return None
        life = len(lives)
        return life if self._claim(index, life, Claim(commits, died=True, by=by)) else None

    def latest(self) -> dict[int, int]:
        """Return the number of the latest life of each function that has had one."""
        return dict(list(self.claimed()))

    def claimed(self) -> dict[tuple[int, int], float]:
        """Return when each life was claimed, by the numbers of the function and of the life, in their order."""
        listed = self._store.list(f"{self._base}lives/")
        found = {tuple(info.key.removesuffix(".json").rsplit("/", 2)[1:]): info.modified for info in listed}
        return {(int(index), int(life)): modified for (index, life), modified in found.items()}

    def hopeless(self, index: int) -> bool:
        """Return whether function `index` died too often without progress to get another life."""
        return self._hopeless(self._lives(index), self.commits())

    def evaluate(self, version: int, by: str = "") -> bool:
        """Claim the evaluation of a snapshot. Return whether nobody else has."""
        key = f"{self._base}evaluations/{version:010d}.json"
        return self._store.create(key, wire.dump_json({"by": by, "token": secrets.token_hex(8)})) is None

    def fail(self, function: str, error: dict[str, Any]) -> None:
        """Note the error for which a function gives up, as the fields of an `ErrorEvent`."""
        self._store.create(f"{self._base}failures/{function}.json", wire.dump_json(error))

    def failures(self) -> list[dict[str, Any]]:
        """Return the errors for which functions gave up."""
        found = read_many(
            self._store, [info.key for info in self._store.list(f"{self._base}failures/")], wire.load_json
        )
        return [record for record in found if record is not None]

    def began(self) -> float:
        """Return the time at which the launch began, by the store's clock."""
        key = f"{self._base}{_WORK}"
        return demand_present(self._store.head(key), key).modified

    def leave(self, reason: str = "") -> None:
        """Ask all functions of the launch to leave, and to start no others. `reason` says which cap made that necessary."""
        self._store.create(f"{self._base}leave.json", wire.dump_json({"reason": reason}))

    def reason(self) -> str:
        """Return the cap for which the functions of the launch were asked to leave; empty if there was none."""
        return str((read_now(self._store, f"{self._base}leave.json", wire.load_json) or {}).get("reason", ""))

    def over(self) -> bool:
        """Return whether the functions of the launch were asked to leave."""
        return self._store.head(f"{self._base}leave.json") is not None

    def commits(self) -> int:
        """Return the number of commits in the log."""
        found = last_of(lambda commit: self._store.head(keys.log(commit)), 0)
        return 0 if found is None else found[0] + 1

    def _lives(self, index: int) -> list[ObjectInfo]:
        return list(self._store.list(f"{self._base}lives/{index:05d}/"))

    def _claim(self, index: int, number: int, life: Claim) -> bool:
        return self._store.create(f"{self._base}lives/{index:05d}/{number:06d}.json", life.dump()) is None

    def _hopeless(self, lives: Sequence[ObjectInfo], commits: int) -> bool:
        latest = read_many(self._store, [info.key for info in lives[-MAX_DEATHS:]], Claim.read)
        died = [life for life in latest if life is not None and life.died and life.commits == commits]
        return len(died) == MAX_DEATHS

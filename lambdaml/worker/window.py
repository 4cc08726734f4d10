"""The updates that a function holds in memory: bounded in bytes, not in number.

A function reads updates before it can apply them. Here it is accounted for what they take: what is being read or made is
reserved, what was read is held until it was applied. At most `limit_bytes` is in memory at once: 256 MB, or two updates
where these are larger, the one that is being written and one that is being read. What does not fit waits in the store. An
update that is needed now takes the place of those that are needed later: their arrays are let go, their headers stay, and
they are read again when it is their turn.
"""

from __future__ import annotations

from collections.abc import Callable

from lambdaml.log.records import Update

WINDOW_BYTES = 256 * 2**20
"""What updates may take in a function's memory, if two of them do not take more."""

MAX_UNAPPLIED = 64
"""Commits that a function may have decided and not applied, however small their updates are."""

Id = tuple[int, int]
Place = tuple[int, int]
"""Where the log applies an update: number of the commit, and position in it."""


def most_bytes(update_bytes: int, updates: float = float("inf")) -> int:
    """The most that updates take in a function's memory.

    Args:
        update_bytes: of one.
        updates: how many there can be at once.
    """
    return int(min(max(WINDOW_BYTES, 2 * update_bytes), updates * update_bytes))


class Window:
    """Accounts for the updates in one function's memory.

    Args:
        update_bytes: what an update will take, before one was seen.

    Attributes:
        claims: tells the bytes that something else takes from the window, whether they fit or not: updates wait for them.
        held_bytes: of all updates that are in memory, being read or being made.
        update_bytes: of the largest update so far.
    """

    def __init__(self, update_bytes: int, claims: Callable[[], int] = lambda: 0) -> None:
        self.update_bytes = update_bytes
        self.claims = claims
        self.held_bytes = 0
        self._sizes: dict[Id, int] = {}
        self._reserved: dict[Id, int] = {}
        self._open: dict[Id, Update] = {}  # not decided yet
        self._open_bytes = 0
        self._decided: dict[Id, tuple[Place, Update]] = {}

    @property
    def limit_bytes(self) -> int:
        return most_bytes(self.update_bytes)

    def fits(self, over: bool = False) -> bool:
        """Whether another update may be read or made now; with `over`, if need be in place of undecided ones."""
        return self._fits_without(self._open_bytes if over else 0)

    def reserve(self, update: Id) -> None:
        """An update is about to be read or made; undecided ones make room, those of the latest turn first."""
        self.release(update)
        self._free_undecided()
        self._reserved[update] = self.update_bytes
        self.held_bytes += self.update_bytes

    def release(self, update: Id) -> None:
        """It was not there, or is not wanted."""
        self.held_bytes -= self._reserved.pop(update, 0)

    def hold(self, update: Update, size_bytes: int, place: Place | None = None) -> None:
        """An update is in memory now, in place of its reservation; with a place, it is decided."""
        self.release(update.id)
        self._forget(update)
        self.update_bytes = max(self.update_bytes, size_bytes)
        update.loaded = True
        self._sizes[update.id] = size_bytes
        self.held_bytes += size_bytes
        if place is None:
            self._open[update.id] = update
            self._open_bytes += size_bytes
        else:
            self._decided[update.id] = place, update

    def decide(self, update: Update, place: Place) -> None:
        """An update that is held has its place in the log now."""
        if self._open.pop(update.id, None) is not None:
            self._open_bytes -= self._sizes[update.id]
            self._decided[update.id] = place, update

    def free(self, update: Update) -> None:
        """Let go of an update's arrays, for good or until it is read again."""
        self._forget(update)
        update.let_go()

    def can_fit(self, place: Place, wanted: Place | None) -> bool:
        """Whether an update that is waited for finds room if those that are needed later make it; others never do."""
        if wanted is None or place > wanted:
            return False
        later_bytes = sum(self._sizes[key] for key, (after, _) in self._decided.items() if after > place)
        return self._fits_without(self._open_bytes + later_bytes)

    def make_room(self, place: Place) -> list[tuple[Place, Id]]:
        """Have updates that are needed later make room for one that is applied next; returns which of them are decided."""
        self._free_undecided()
        evicted = []
        for after, update in sorted(self._decided.values(), key=lambda held: held[0], reverse=True):
            if self.fits() or after < place:
                break
            self.free(update)
            evicted.append((after, update.id))
        return evicted

    def _fits_without(self, spare_bytes: int) -> bool:
        """Whether another update fits where so many bytes are let go."""
        return self.held_bytes + self.claims() - spare_bytes + self.update_bytes <= self.limit_bytes

    def _free_undecided(self) -> None:
        """Let go of undecided updates, those of the latest turn first, until another fits."""
        for other in sorted(self._open, key=lambda each: (each[1], each[0]), reverse=True):
            if self.fits():
                return
            self.free(self._open[other])

    def _forget(self, update: Update) -> None:
        size_bytes = self._sizes.pop(update.id, 0)
        self.held_bytes -= size_bytes
        if self._open.pop(update.id, None) is not None:
            self._open_bytes -= size_bytes
        self._decided.pop(update.id, None)

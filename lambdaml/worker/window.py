"""Accounts for the updates that a function holds in memory. They are bounded in bytes, not in number.

A function reads updates before it can apply them. The window reserves room for an update that is being read or made,
and holds one that was read until it was applied. At most `limit_bytes` is in memory at once: 256 MB, or two updates if
these are larger, the one that is being written and one that is being read. Updates that do not fit wait in the store.
An update that is needed now takes the place of those that are needed later: their arrays are freed, their headers stay,
and they are read again when it is their turn.
"""

from __future__ import annotations

from collections.abc import Callable

from lambdaml.log.records import Update

WINDOW_BYTES = 256 * 2**20
"""Updates may take this much of a function's memory, or two updates' worth if that is more."""

MAX_UNAPPLIED = 64
"""A function may have at most this many commits decided and not applied, however small their updates are."""

Id = tuple[int, int]
Place = tuple[int, int]
"""The place at which the log applies an update: the number of the commit, and the position in it."""


def most_bytes(update_bytes: int, updates: float = float("inf")) -> int:
    """Return the most bytes that updates take in a function's memory.

    Args:
        update_bytes: The size of one update.
        updates: The most updates that can exist at once.
    """
    return int(min(max(WINDOW_BYTES, 2 * update_bytes), updates * update_bytes))


class Window:
    """Accounts for the updates in one function's memory.

    Args:
        update_bytes: The bytes that an update will take, as estimated before one was seen.

    Attributes:
        claims: A function that returns the bytes that something else takes from the window. They count whether they fit
            or not, so updates wait for them.
        held_bytes: The bytes of all updates that are in memory, being read or being made.
        update_bytes: The size of the largest update so far.
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
        """The most bytes that updates may take in the function's memory."""
        return most_bytes(self.update_bytes)

    def fits(self, over: bool = False) -> bool:
        """Return whether another update may be read or made now, with `over` also in place of undecided ones."""
        return self._fits_without(self._open_bytes if over else 0)

    def fits_two(self) -> bool:
        """Return whether two other updates may be read or made now."""
        return self._fits_without(-self.update_bytes)

    def fits_alone(self) -> bool:
        """Return whether another update fits if all others make room that were read and are not applied yet."""
        return self._fits_without(self._open_bytes + sum(self._sizes[key] for key in self._decided))

    def reserve(self, update: Id) -> None:
        """Reserve room for an update that is about to be read or made.

        Undecided updates make room for it, those with the highest sequence numbers first.
        """
        self.release(update)
        self._free_undecided()
        self._reserved[update] = self.update_bytes
        self.held_bytes += self.update_bytes

    def release(self, update: Id) -> None:
        """Cancel the reservation of an update that did not exist or is not wanted."""
        self.held_bytes -= self._reserved.pop(update, 0)

    def hold(self, update: Update, size_bytes: int, place: Place | None = None) -> None:
        """Note that an update is in memory, in place of its reservation. With a place in the log, it is decided."""
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
        """Note that an update that is held now has its place in the log."""
        if self._open.pop(update.id, None) is not None:
            self._open_bytes -= self._sizes[update.id]
            self._decided[update.id] = place, update

    def free(self, update: Update) -> None:
        """Free an update's arrays, for good or until it is read again."""
        self._forget(update)
        update.let_go()

    def can_fit(self, place: Place, wanted: Place | None) -> bool:
        """Return whether an update finds room if those that are needed later make room.

        They do so only for an update that is waited for, so the result is false for others.
        """
        if wanted is None or place > wanted:
            return False
        later_bytes = sum(self._sizes[key] for key, (after, _) in self._decided.items() if after > place)
        return self._fits_without(self._open_bytes + later_bytes)

    def make_room(self, place: Place) -> list[tuple[Place, Id]]:
        """Free updates that are needed later, for one that is applied next, and return those that are decided."""
        self._free_undecided()
        evicted = []
        for after, update in sorted(self._decided.values(), key=lambda held: held[0], reverse=True):
            if self.fits() or after < place:
                break
            self.free(update)
            evicted.append((after, update.id))
        return evicted

    def _fits_without(self, spare_bytes: int) -> bool:
        """Return whether another update fits once this many bytes are freed."""
        return self.held_bytes + self.claims() - spare_bytes + self.update_bytes <= self.limit_bytes

    def _free_undecided(self) -> None:
        """Free undecided updates, those with the highest sequence numbers first, until another update fits."""
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

"""Finds out from a run's bucket which functions work on it.

A function holds a lease until the lease's duration has passed since its last sign of life: the lease itself, or the
worker's newest update (`lambdaml.worker.leases`). Both are dated by the store's clock, and a reader's own clock may be
off. So a reader that may write asks the store for its time, by writing an object; one that only looks takes its own
clock as a hint.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from lambdaml.errors import StoreError
from lambdaml.log import keys
from lambdaml.log.lease import Lease
from lambdaml.log.reads import read_many
from lambdaml.log.records import Commit
from lambdaml.storage import ObjectInfo, Store
from lambdaml.storage.backend import BATCH
from lambdaml.storage.probe import store_time

_DATE_S = 1.0
"""A store rounds its dates down by at most this many seconds."""

MAX_SKEW_S = 900.0
"""A reader's clock is assumed to be off by at most this many seconds. S3 refuses requests from a clock that is off by
more."""

_LOG_ENTRIES = (1, 15, 240)
"""The log's last entries are searched for a worker's newest update in portions of these sizes."""


@dataclass(slots=True)
class Holder:
    """A function that took a lease, which may have run out since.

    Attributes:
        function: The function's name.
        worker: The worker that it holds.
        duration_s: The seconds from a sign of life to the end of the lease.
        seen: The time of its last sign of life, by the store's clock.
    """

    function: str
    worker: int
    duration_s: float
    seen: float

    def silent_s(self, now: float) -> float:
        """Return the seconds since the lease ran out. The number is negative while the lease holds."""
        return now - self.seen - self.duration_s - _DATE_S


def working(store: Store, commits: int, now: float) -> tuple[str, ...]:
    """Return the functions whose leases have not run out at a moment of the store's clock.

    Args:
        commits: The number of entries in the log.
        now: The moment, by the store's clock.
    """
    return _alive(_holders(store), store, commits, now)


def seem_working(store: Store, commits: int, now: float) -> tuple[str, ...]:
    """Return the functions that seem to be working, by a clock that may be off by `MAX_SKEW_S`.

    If all leases have run out by that clock, but by less than `MAX_SKEW_S`, the store is asked for its time. A reader
    that may not write must believe its own clock.
    """
    holders = _holders(store)
    now = max([now, *(holder.seen for holder in holders)])
    alive = _alive(holders, store, commits, now)
    if not alive and any(holder.silent_s(now) < MAX_SKEW_S for holder in holders):
        with suppress(StoreError):
            return _alive(holders, store, commits, store_time(store))
    return alive


def last_of(look: Callable[[int], ObjectInfo | None], first: int) -> tuple[int, ObjectInfo] | None:
    """Return the number and the info of the last object, or None if none exists.

    The objects are numbered from `first` without a gap. The search takes two looks each time that their count doubles.
    """
    found = look(first)
    if found is None:
        return None
    last, step = first, 1
    while (info := look(last + step)) is not None:
        last, found, step = last + step, info, 2 * step
    missing = last + step
    while missing - last > 1:
        middle = (last + missing) // 2
        if (info := look(middle)) is not None:
            last, found = middle, info
        else:
            missing = middle
    return last, found


def _holders(store: Store) -> list[Holder]:
    """Return who holds each worker's newest lease and is not known to have ended. `seen` is the date of that lease."""
    infos = _newest_leases(store)
    leases = read_many(store, [info.key for info in infos], Lease.read)
    held = [(lease, info) for lease, info in zip(leases, infos, strict=True) if lease and not lease.released]
    functions = dict.fromkeys(lease.function for lease, _ in held)
    ended = {function for function in functions if store.head(keys.usage(function)) is not None}
    return [
        Holder(lease.function, lease.worker, lease.duration_s, info.modified)
        for lease, info in held
        if lease.function not in ended
    ]


def _newest_leases(store: Store) -> list[ObjectInfo]:
    """Return each worker's newest lease, from one page of a list, or by bisection if one page does not hold them."""
    infos = list(islice(store.list(keys.LEASES), BATCH))
    if len(infos) < BATCH:
        return list({info.key.rsplit("/", 1)[0]: info for info in infos}.values())
    return list(_leases_by_bisection(store))


def _leases_by_bisection(store: Store) -> Iterator[ObjectInfo]:
    worker = 0
    while found := last_of(lambda generation: store.head(keys.lease(worker, generation)), 1):
        yield found[1]
        worker += 1


def _alive(holders: list[Holder], store: Store, commits: int, now: float) -> tuple[str, ...]:
    """Return the functions that hold a lease. If none of a function's leases holds by its own date, the newest updates
    of its workers count."""
    alive = {holder.function for holder in holders if holder.silent_s(now) < 0}
    others = [holder for holder in holders if holder.function not in alive]
    next_seq = _next_seq(store, commits, {holder.worker for holder in others})
    for holder in others:
        if holder.function not in alive:
            holder.seen = max(holder.seen, _newest_update(store, holder.worker, next_seq.get(holder.worker)))
            if holder.silent_s(now) < 0:
                alive.add(holder.function)
    return tuple(dict.fromkeys(holder.function for holder in holders if holder.function in alive))


def _next_seq(store: Store, commits: int, workers: Collection[int]) -> dict[int, int]:
    """Return the sequence number of a recent update of each of these workers that the log's last entries name."""
    found: dict[int, int] = {}
    end = commits
    for count in _LOG_ENTRIES:
        if end == 0 or all(worker in found for worker in workers):
            break
        start = max(0, end - count)
        for commit in read_many(store, [keys.log(number) for number in range(start, end)], Commit.read):
            for entry in commit.entries if commit is not None else ():
                found[entry.worker] = max(entry.seq, found.get(entry.worker, 0))
        end = start
    return found


def _newest_update(store: Store, worker: int, next_seq: int | None) -> float:
    """Return the date of the worker's newest update, or 0 if it has none.

    Args:
        next_seq: The number of an update that existed, at which the search begins; None to search from the first one.
    """

    def look(seq: int) -> ObjectInfo | None:
        return store.head(keys.update(worker, seq))

    found = None if next_seq is None else last_of(look, next_seq)
    if found is None:  # not in the log's last entries, or deleted by `gc`
        after = "" if next_seq is None else keys.update(worker, next_seq)
        first = next(iter(store.list(keys.updates(worker), after=after)), None)
        found = None if first is None else last_of(look, keys.number(first.key))
    return 0.0 if found is None else found[1].modified

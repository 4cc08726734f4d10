"""Who works on a run, as far as its bucket tells.

A function holds a lease until its duration has passed since its last sign of life: the lease itself, or the worker's
newest update (`lambdaml.worker.leases`). Both have dates of the store's clock, and a reader's own clock may be off. So whoever
may write asks the store for its time, by writing an object; whoever only looks takes its own clock for a hint.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from lambdaml.errors import StoreError
from lambdaml.log import keys
from lambdaml.log.reads import read_many
from lambdaml.log.records import Commit, Lease
from lambdaml.storage import ObjectInfo, Store
from lambdaml.storage.backend import BATCH
from lambdaml.storage.probe import store_time

_DATE_S = 1.0
"""What a store cuts off its dates, at most."""

MAX_SKEW_S = 900.0
"""A reader's clock is taken to be off by no more. S3 refuses the requests of those that are."""

_LOG_ENTRIES = (1, 15, 240)
"""The log's last entries, in the portions in which they are asked for a worker's newest update."""


@dataclass(slots=True)
class Holder:
    """A function that holds a lease, unless that has run out.

    Attributes:
        seen: its last sign of life, by the store's clock.
    """

    function: str
    worker: int
    duration_s: float
    seen: float

    def silent_s(self, now: float) -> float:
        """For how long the lease has run out; negative while it holds."""
        return now - self.seen - self.duration_s - _DATE_S


def working(store: Store, commits: int, now: float) -> tuple[str, ...]:
    """Functions whose leases have not run out at a moment of the store's clock.

    Args:
        commits: entries of the log.
    """
    return _alive(_holders(store), store, commits, now)


def seem_working(store: Store, commits: int, now: float) -> tuple[str, ...]:
    """The same as far as a clock tells that may be off by `MAX_SKEW_S`.

    If all leases have run out by that clock, but by less than that, the store is asked for its time. A reader who may not
    write must believe its own.
    """
    holders = _holders(store)
    now = max([now, *(holder.seen for holder in holders)])
    alive = _alive(holders, store, commits, now)
    if not alive and any(holder.silent_s(now) < MAX_SKEW_S for holder in holders):
        with suppress(StoreError):
            return _alive(holders, store, commits, store_time(store))
    return alive


def last_of(look: Callable[[int], ObjectInfo | None], first: int) -> tuple[int, ObjectInfo] | None:
    """The last of objects that are numbered from `first` on without a gap, or None if there are none.

    Two looks for each time that their number doubles.
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
    """Who holds the newest lease of each worker and is not known to have ended; `seen` is the date of that lease."""
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
    """Each worker's newest lease: from one page of a list, or by bisection where they are more than that."""
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
    """Functions of which a lease holds; where none does by its own date, the newest updates count."""
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
    """Sequence numbers of late updates of these workers, from the log's last entries, as far as they are there."""
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
    """The date of the worker's newest update; 0 if there is none.

    Args:
        next_seq: one that there was, so that it need not be sought from the beginning.
    """

    def look(seq: int) -> ObjectInfo | None:
        return store.head(keys.update(worker, seq))

    found = None if next_seq is None else last_of(look, next_seq)
    if found is None:  # not in the log's last entries, or deleted by `gc`
        after = "" if next_seq is None else keys.update(worker, next_seq)
        first = next(iter(store.list(keys.updates(worker), after=after)), None)
        found = None if first is None else last_of(look, keys.number(first.key))
    return 0.0 if found is None else found[1].modified

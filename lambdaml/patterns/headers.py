"""Headers: what the function that writes the log reads of updates, where nobody needs all of them whole.

The header of an update tells of its worker's latest rounds (`lambdaml.log.reports`). So one ranged read of each worker
decides several rounds. Nobody waits for it; hence a worker's header is only looked for when the function has passed its
round with a worker of its own.
"""

from __future__ import annotations

from lambdaml.errors import BadObject, ReplicaDiverged
from lambdaml.log import keys
from lambdaml.log.own_models import reported
from lambdaml.log.records import Commit, Update
from lambdaml.log.reports import RoundReport, header_reports
from lambdaml.worker.averages import reports_before, source_of
from lambdaml.worker.looking import Looks
from lambdaml.worker.poll_timer import FLOATS, PollTimer
from lambdaml.worker.shared import Shared
from lambdaml.worker.window import Id
from lambdaml.worker.world import Task

FIRST_BYTES = 4096
"""So many bytes of an update are read for its header, which may be longer; then it is read again, to its end."""


class Headers:
    """The updates that headers tell of and that have no fate yet.

    Attributes:
        arrived: These updates, without bodies, by worker and sequence number.
        news: A number that grows with each header that arrives.
        interval_s: The seconds between the two latest commits.
        newest: The newest update of each worker that is held here.
    """

    def __init__(self, shared: Shared, looks: Looks) -> None:
        own = shared.replica.own
        assert own is not None
        self.arrived: dict[Id, Update] = {}
        self.news = 0
        self.interval_s = 0.0
        self._shared, self._own, self._looks = shared, own, looks
        self._decided_at = shared.world.now()
        self.newest: dict[int, int] = {}
        self._told: dict[Id, tuple[RoundReport, ...]] = {}  # by the ends of log entries, for workers that are held here
        self._bases: dict[Id, str] = {}
        self._first: int | None = None  # the first round of which this function took the log entry
        self._barren: list[tuple[int, int]] = []  # the groups of the latest commit of which all updates were rejected
        self._paces: dict[int, PollTimer[float]] = {}
        self._tasks: list[Task] = []

    def attend(self, deciding: bool) -> None:
        """Read headers if this function writes the log, and otherwise do not."""
        if deciding and not self._tasks:
            workers = range(self._shared.settings.workers)
            self._tasks = [self._shared.spawn(self._watch(worker)) for worker in workers]
        elif not deciding:
            for task in self._tasks:
                task.cancel()
            self._tasks = []

    def published(self, update: Update) -> None:
        """Note that a worker that is held here published an update."""
        worker, seq = update.id
        self.newest[worker] = seq
        if seq == self._end(seq):
            self._told[worker, seq] = update.reports

    def take(self, commit: Commit) -> dict[Id, Update]:
        """Return the updates that get their fate in this commit, and forget them.

        Raises:
            ReplicaDiverged: If workers of a group went on from different models.
        """
        now, taken = self._shared.world.now(), {}
        self.interval_s, self._decided_at = now - self._decided_at, now
        for entry in commit.entries:
            self._told.pop((entry.worker, entry.seq), None)
            if (update := self.arrived.pop((entry.worker, entry.seq), None)) is not None:
                taken[update.id] = update
        barren, turns = self._own.barren(commit), {entry.seq for entry in commit.entries}
        self._barren += barren
        if turns and self._first is None:
            self._first = min(turns)
        self._compare(turns)
        self._barren = barren
        return taken

    def _compare(self, turns: set[int]) -> None:
        """Compare the models that the workers of a group went on from after each round whose log entry is known."""
        for turn in sorted(turns - {self._first}):
            for group in self._own.grouping.of(turn - 1):
                found = {self._bases.pop((worker, turn), "") for worker in group}
                if len(found - {""}) > 1 and (turn - 1, group[0]) not in self._barren:
                    raise ReplicaDiverged(
                        f"workers {', '.join(map(str, group))} averaged the same models in round {turn - 1}, and went on from "
                        "different ones: is an update damaged, or do functions run on different processors?"
                    )

    def _end(self, seq: int) -> int:
        """Return the number of the last round of the log entry that this round belongs to."""
        every = self._own.every
        return min(seq // every * every + every, self._shared.settings.steps) - 1

    async def _watch(self, worker: int) -> None:
        shared, known = self._shared, self._shared.known
        pace = self._paces.setdefault(worker, PollTimer(FLOATS))
        pace.said(0.0)
        while (first := shared.known.next_seq[worker]) < shared.settings.steps:
            known = shared.known
            last = self._end(first)
            await shared.until(lambda: known.next_seq[worker] > first or self._there(worker, first))
            if known.next_seq[worker] == first:
                found = self._told.get((worker, last)) or await self._look(worker, first, last, pace)
                if found is not None and known.next_seq[worker] == first:
                    self._note(worker, first, found)
            await shared.until(lambda: known.next_seq[worker] > first)

    def passed(self, first: int) -> bool:
        """Return whether a worker that is held here has come past the log entry that begins with this round, so that others
        probably have come to its end."""
        newest = max((self.newest.get(held, -1) for held in self._shared.leases.held), default=-1)
        return newest >= min(self._end(first) + 1, self._shared.settings.steps - 1)

    def _there(self, worker: int, first: int) -> bool:
        """Return whether the header that ends this log entry is there, or probably is if another function holds its worker."""
        here = worker not in self._shared.leases.held or self.newest.get(worker, -1) >= self._end(first)
        return here and self.passed(first)

    def _note(self, worker: int, first: int, reports: tuple[RoundReport, ...]) -> None:
        shared = self._shared
        for report in reports:
            if report.seq >= first:
                update = reported(worker, report, shared.settings.codec)
                update.arrived_s = shared.world.now()
                self.arrived[update.id] = update
                self._bases[update.id] = report.base
        self.news += 1
        shared.leases.heard(worker, now=True)
        shared.changed()

    async def _look(self, worker: int, first: int, last: int, pace: PollTimer[float]) -> tuple[RoundReport, ...] | None:
        """Wait for a worker's header, and return its reports; None if the rounds got their fates meanwhile."""
        shared = self._shared
        try:
            return await self._looks.find(
                keys.update(worker, last),
                lambda: self._read(worker, last),
                pace,
                lambda: shared.known.next_seq[worker] == first,
                worker=worker,
                behind=False,
            )
        except BadObject:
            return await reports_before(source_of(shared, shared.replica), shared.replica, worker, last + 1)

    async def _read(self, worker: int, seq: int) -> tuple[RoundReport, ...] | None:
        key, size_bytes = keys.update(worker, seq), FIRST_BYTES
        while True:
            data, _ = await self._looks.get(key, (0, size_bytes))
            if data is None:
                return None
            reports, needed = header_reports(data, key, worker)
            if reports:
                return reports
            if len(data) < size_bytes or needed <= size_bytes:
                raise BadObject(f"{key} ends within its header")
            size_bytes = needed

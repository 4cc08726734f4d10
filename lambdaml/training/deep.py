"""A deep check computes a sample of a run's updates again, and compares them with those in the bucket.

A unit of the sample is what can be computed by itself. In a run without memory it is an interval between two snapshots:
the updates whose bases lie in it. In a run with memory it is a stretch of one worker's life, from one memory object to
the next, since its memory must be followed from there; at the end of a stretch the memory is compared, too. A stretch
also begins with the worker, and where its memory began anew.

The choice of units is drawn with the run's token as the seed, so that it is the same in every check of a run, and
differs between runs of one seed.

An update is decided later than its base. So there are two passes: the replay of `verify` hands in the updates (`note`),
and `check` then follows the log once more and computes each of them at its base.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING

from lambdaml.errors import BadObject
from lambdaml.log import keys
from lambdaml.log.blocks import read_update
from lambdaml.log.controls import lost_memories, wishes
from lambdaml.log.extra import is_extra
from lambdaml.log.memory import Memory
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import demand_present, read_now
from lambdaml.log.records import DAMAGED, Update, damaged
from lambdaml.log.snapshot import meta_of, read_state
from lambdaml.schedules.cohort import Turns
from lambdaml.seeds import derive_seed
from lambdaml.training.replay import commits_from
from lambdaml.worker.machine import Computed
from lambdaml.worker.recomputing import Made, comes_out

if TYPE_CHECKING:
    from lambdaml.training.replica import Replica

Told = Callable[[int, int], None]
"""Is called with the number of things that are done, and the number of all."""


@dataclass(slots=True)
class Findings:
    """Says what a deep check has done and found.

    Attributes:
        recomputed: The number of updates that were computed again.
        unchecked: The number of chosen updates that could not be: what they were computed from is deleted, not in the
            log, or lost.
        memories: The number of memory objects that were compared.
        differ: A sentence about each object that is not what comes out.
    """

    recomputed: int = 0
    unchecked: int = 0
    memories: int = 0
    differ: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Stretch:
    """A part of a worker's life in which its memory can be followed.

    Attributes:
        worker: The worker.
        start: The number of its first update.
        end: The number of the update after it.
        written: Whether the memory before its first update is in the bucket; otherwise it is an empty one.
        lost: Whether the memory began anew at the end, since an update before that came out different.
        damaged: The number of its first update whose object is damaged.
        left: The number of tasks that are not done yet.
        begun: Whether a task was done.
        memory: The worker's memory while it is followed.
    """

    worker: int
    start: int
    end: int
    written: bool
    lost: bool
    damaged: int | None = None
    left: int = 0
    begun: bool = False
    memory: Memory | None = None

    def excuses(self, seq: int) -> bool:
        """Return whether the bucket says that an update need not come out the same."""
        return self.lost or (self.damaged is not None and self.damaged < seq)


@dataclass(frozen=True, slots=True)
class _Task:
    """What to do at one position of the log: compare a memory by its digest, or compute an update.

    Attributes:
        seq: The number of the update, or of the updates that the memory follows.
        stretch: The stretch that it belongs to; None in a run without memory.
        made: The update; None for a memory.
        digest: The digest of the memory object; "" for an update.
    """

    worker: int
    seq: int
    stretch: _Stretch | None = None
    made: Made | None = None
    digest: str = ""

    @property
    def order(self) -> tuple[int, int, bool]:
        """The order within a position: a memory is compared before the update that is computed from it."""
        return self.worker, self.seq, self.made is not None


class DeepCheck:
    """Checks a sample of a run's updates.

    Args:
        share: The share of the units that is checked, in (0, 1]; at least one is.
        snapshots: The versions of the snapshots that are kept, in order.
        commits: The number of log entries.
        remembers: Whether the run's workers remember something.
    """

    def __init__(self, run: RunReader, share: float, snapshots: Sequence[int], commits: int, remembers: bool) -> None:
        self._run, self._commits, self._remembers = run, commits, remembers
        self._findings = Findings()
        self._turns = Turns(run.settings) if run.settings.takes_turns else None
        self._published = [keys.update_id(info.key) for info in run.store.list(keys.UPDATES)]
        metas = {each: meta_of(run.store, keys.snapshot(each)) for each in snapshots}
        self._snapshots: dict[int, int] = {meta["log_state"]["commit"]: each for each, meta in metas.items()}
        self._starts = sorted(self._snapshots)  # in commits
        self._intervals = [start for start in self._starts if start < commits] or self._starts[:1]
        self._stretches = list(stretches(run, self._published)) if remembers else []
        self._begins = [(each.worker, each.start) for each in self._stretches]
        units = len(self._stretches if remembers else self._intervals)
        draw = random.Random(derive_seed("deep", run.settings.token))
        self._chosen = set(draw.sample(range(units), min(units, max(1, round(share * units)))))
        self._noted: defaultdict[int, list[tuple[int, Made | None]]] = defaultdict(list)  # by unit; None is damaged
        self._tasks: defaultdict[int, list[_Task]] = defaultdict(list)  # by the number of commits before it
        self._followed: set[_Stretch] = set()

    def note(self, updates: Iterable[Update]) -> None:
        """Note those of these updates that are to be checked."""
        for update in updates:
            self._note(update)

    def _note(self, update: Update) -> None:
        if self._remembers:
            unit = bisect_right(self._begins, update.id) - 1
            if unit < 0 or self._begins[unit][0] != update.worker:  # a run that goes on has just published it
                return
        else:
            unit = max(0, bisect_right(self._intervals, update.base_commit) - 1)
        if unit in self._chosen:
            self._noted[unit].append((update.seq, None if update.fault == DAMAGED else Made.of(update)))

    def check(self, replica: Replica, decided: Sequence[int], told: Told) -> Findings:
        """Compute the chosen updates again.

        Args:
            replica: A replica of the run, whatever its state.
            decided: For each worker, the number of its updates that have a fate.
            told: Is called with the number of updates that were computed, and the number of all.
        """
        self._note_pending(decided)
        for unit, noted in sorted(self._noted.items()):
            if self._remembers:
                self._plan_stretch(self._stretches[unit], noted)
            else:
                for _, made in noted:
                    if made is not None:
                        self._plan(None, made)
        total = sum(task.made is not None for tasks in self._tasks.values() for task in tasks)
        ahead = deque(sorted(self._tasks))
        while ahead:
            key = keys.snapshot(self._snapshots[self._start(ahead[0])])
            replica.load(demand_present(read_state(self._run.store, key), key))
            self._follow(replica, ahead, lambda: told(self._findings.recomputed, total))
        return self._findings

    def _start(self, commit: int) -> int:
        """Return the place of the newest snapshot at or before this number of commits."""
        return self._starts[bisect_right(self._starts, commit) - 1]

    def _note_pending(self, decided: Sequence[int]) -> None:
        """Note the updates that have no fate."""
        for worker, seq in self._published:
            if seq >= decided[worker]:
                key = keys.update(worker, seq)
                try:
                    self._note(demand_present(read_update(self._run.store, key), key))
                except BadObject:
                    self._note(damaged(worker, seq, 0))

    def _plan(self, stretch: _Stretch | None, made: Made) -> bool:
        """Plan an update, and return whether it can be computed."""
        possible: bool = self._starts[0] <= made.base_commit <= self._commits
        if possible:
            self._add(made.base_commit, _Task(made.assignment.worker, made.assignment.seq, stretch, made))
        else:
            self._findings.unchecked += 1
        return possible

    def _add(self, commit: int, task: _Task) -> None:
        self._tasks[commit].append(task)
        if task.stretch is not None:
            task.stretch.left += 1

    def _plan_stretch(self, stretch: _Stretch, noted: list[tuple[int, Made | None]]) -> None:
        """Plan a stretch, as far as it can be followed without a gap, and the memory at its end."""
        at, whole = self._starts[0], True
        for due, (seq, made) in enumerate(sorted(noted, key=itemgetter(0)), stretch.start):
            whole = whole and seq == due
            if made is None:
                stretch.damaged = seq if stretch.damaged is None else stretch.damaged
            elif whole and at <= made.base_commit:
                whole, at = self._plan(stretch, made), made.base_commit
            else:
                whole = False
                self._findings.unchecked += 1
        known = whole and stretch.damaged is None and not stretch.lost and stretch.start + len(noted) == stretch.end
        memory = whole_memory(self._run, stretch.worker, stretch.end) if known else None
        if memory is not None and at <= memory.ready_commit <= self._commits:
            self._add(memory.ready_commit, _Task(stretch.worker, stretch.end, stretch, digest=memory.digest()))

    def _follow(self, replica: Replica, ahead: deque[int], told: Callable[[], None]) -> None:
        """Follow the log while tasks lie ahead, until a later snapshot is the better start for the next one."""
        entries = commits_from(self._run, replica.log_state.commit)
        while ahead:
            if ahead[0] == replica.log_state.commit:
                for task in sorted(self._tasks.pop(ahead.popleft()), key=lambda task: task.order):
                    self._do(replica, task)
                    told()
            elif self._start(ahead[0]) > replica.log_state.commit and not self._followed:
                return
            else:
                replica.apply(*demand_present(next(entries, None), keys.log(replica.log_state.commit)))

    def _do(self, replica: Replica, task: _Task) -> None:
        """Compute an update, or compare a memory, if the worker's memory could be followed up to there."""
        stretch, findings = task.stretch, self._findings
        same = True
        if stretch is not None and not self._follows(replica, stretch, task.seq):
            findings.unchecked += task.made is not None
        elif task.made is None:
            findings.memories += 1
            same = replica.memories.of(task.worker, task.seq).digest() == task.digest
            if not same:
                findings.differ.append(f"{keys.memory(task.worker, task.seq)} is not what its worker remembered")
        else:
            same = comes_out(replica, task.made, self._run.settings, lambda found: self._compare(task, found))
            known = stretch is not None and stretch.excuses(task.seq)
            findings.unchecked += not same and known
            findings.recomputed += same or not known
            if not same and not known:
                findings.differ.append(f"{keys.update(task.worker, task.seq)} is not what is computed again")
        if stretch is not None:
            stretch.left -= 1
            if not (same and stretch.left):
                self._let_go(replica, stretch)

    def _compare(self, task: _Task, found: Computed) -> None:
        """Compare what was measured beside an update, if anything was."""
        key = keys.extra(task.worker, task.seq)
        if found.extra and not is_extra(self._run.store, key, found.extra):
            self._findings.differ.append(f"{key} is not what is measured again")

    def _follows(self, replica: Replica, stretch: _Stretch, seq: int) -> bool:
        """Return whether the worker's memory after `seq` updates was followed. It is taken up at the first task.

        Updates whose objects are damaged are rejected, and nothing is remembered of them.
        """
        if not stretch.begun:
            stretch.begun = True
            for other in [other for other in self._followed if other.worker == stretch.worker]:
                self._let_go(replica, other)
            found = self._before(stretch)
            if found is not None and found.ready_commit <= replica.log_state.commit:
                if self._turns is not None:
                    replica.memories.begin_turn(found, stretch.worker, stretch.start, replica.log_state)
                else:
                    replica.memories.host(found, replica.log_state)
                stretch.memory = found
                self._followed.add(stretch)
        if stretch.memory is not None:
            stretch.memory.seq = seq
        return stretch.memory is not None

    def _before(self, stretch: _Stretch) -> Memory | None:
        """Return the memory with which a stretch begins; None if it is not there."""
        if self._turns is None:
            return whole_memory(self._run, stretch.worker, stretch.start) if stretch.written else Memory(stretch.worker)
        latest = self._turns.latest(stretch.worker, stretch.start)
        return Memory(stretch.worker) if latest is None else whole_memory(self._run, latest[0], latest[1] + 1)

    def _let_go(self, replica: Replica, stretch: _Stretch) -> None:
        if stretch in self._followed:
            self._followed.remove(stretch)
            stretch.memory = None
            replica.memories.drop(stretch.worker)


def stretches(run: RunReader, published: Sequence[tuple[int, int]]) -> Iterator[_Stretch]:
    """Yield the stretches of all workers in which there are updates, in order.

    Args:
        published: The updates in the bucket, by worker and number, in order.
    """
    resets = set(lost_memories(wishes(run.store)))
    written = {keys.update_id(info.key) for info in run.store.list(keys.MEMORY)} - resets
    marks = sorted({(worker, 0) for worker, _ in published} | {each for each in resets | written if each[1]})
    for number, (worker, start) in enumerate(marks):
        following = marks[number + 1] if number + 1 < len(marks) else (worker + 1, 0)
        there = published[bisect_left(published, (worker, start)) : bisect_left(published, following)]
        if there:
            end = following if following[0] == worker else (worker, there[-1][1] + 1)
            yield _Stretch(worker, start, end[1], (worker, start) in written, end in resets)


def whole_memory(run: RunReader, worker: int, seq: int) -> Memory | None:
    """Return a memory object; None if there is none that is whole, since a recovery would do without it."""
    try:
        return read_now(run.store, keys.memory(worker, seq), Memory.read)
    except BadObject:
        return None

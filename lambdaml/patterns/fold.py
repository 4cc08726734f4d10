"""Fold: whoever writes the log also writes the model after each commit, and the others take that over.

In a logged run every function would read every update, and take every step. Here only the holder of worker 0 does. After
a commit it writes one object with the log entry and the parameters and buffers; the others read this object alone, and
need no state of an optimizer or of a rule. A commit on G updates takes G + 2 puts, at most G gets by the writer, and one
get by each other function.

A function whose replica has only followed cannot take a step. Before it writes the log in place of a dead writer, it
computes the whole state from the newest snapshot that it is not behind of, the log and the updates since.
"""

from __future__ import annotations

import math

from lambdaml.log import keys
from lambdaml.log.records import Commit, Update
from lambdaml.parts import Parts
from lambdaml.patterns.gather import GatherExchange
from lambdaml.worker.looking import Looks
from lambdaml.worker.machine import Folded
from lambdaml.worker.poll_timer import FLOATS, entry_due_s, entry_scale_s
from lambdaml.worker.reading import read
from lambdaml.worker.restoring import whole_state_at
from lambdaml.worker.shared import Shared
from lambdaml.worker.window import Id

FOLLOWERS_PER_S = 1000
"""So many functions may read models in a second. With more of them, fewer commits are decided, on more updates each: a store
answers only so many reads, and each commit is read by all."""

IN_FLIGHT = 2
"""So many models may be on their way to the store while further commits are applied."""


def least_s(followers: int) -> float:
    """Return the least seconds between two commits, which so many functions follow."""
    return followers / FOLLOWERS_PER_S


class Fold:
    """One function adds up, and the others take over its model."""

    def bracket(self, workers: int) -> None:
        """Return None: it adds up in any bracket."""

    def slices(self, workers: int) -> int:
        """Return 0: updates are written as a whole."""
        return 0

    def misfit(self, parts: Parts, workers: int) -> str:
        """Return why a run with these parts cannot use it, or ""."""
        if parts.schedule.deterministic:
            return "is for runs in which one function decides commits, and here all do: use tree, scatter or gather"
        return ""

    def exchange(self, shared: Shared) -> FoldExchange:
        """Return one function's part."""
        return FoldExchange(shared)


class FoldExchange(GatherExchange):
    """One function's part: it gathers while it writes the log, and follows otherwise."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._models = Looks(shared)
        self._timer = _EntryTimer(shared)
        self._found: Folded | None = None
        self._writing: set[int] = set()
        self._decided = -math.inf
        self._standing: set[int] | None = None  # the commits whose models were there when this function began to lead

    def take(self, commit: Commit) -> dict[Id, Update]:
        """Return the known updates that get their fate in this commit, and forget them."""
        self._decided = self._shared.world.now()
        return super().take(commit)

    async def await_turn(self) -> None:
        """Wait until all others had time to read the model after the last commit."""
        shared, world = self._shared, self._shared.world
        pause_s = self._decided + least_s(len(shared.others)) - world.now()
        if pause_s > 0:
            await world.sleep(pause_s)

    def forecast_s(self, commit: Commit) -> float:
        """Return the seconds from now until another commit after this one will be decided."""
        return max(super().forecast_s(commit), least_s(len(self._shared.others)))

    async def next(self) -> Commit | None:
        """Return the commit that follows the known ones, or None if this function now writes the log."""
        shared = self._shared
        if shared.writes_log:
            return await super().next()
        commit = shared.known.commit
        await shared.until(lambda: shared.unapplied < IN_FLIGHT or shared.writes_log)
        key = keys.reduced(commit, "fold")

        async def fetch() -> Folded | None:
            data, _ = await self._models.get(key)
            if data is None:
                return None
            return await read(shared.world, key, lambda data, key: Folded.read(shared.replica, data, key), data)

        found = await self._models.find(
            key, fetch, self._timer, lambda: not shared.writes_log, worker=0, behind=commit < shared.tail
        )
        self._found = found
        if found is None:
            return None
        self._timer.found(found.commit)
        return found.commit

    def total(self, commit: Commit) -> Folded | None:
        """Return the model after this commit, if it was taken over, and forget it."""
        found, self._found = self._found, None
        return found if found is not None and found.commit.commit == commit.commit else None

    async def applied(self, commit: Commit) -> None:
        """Write the model after this commit, if this function has taken the steps itself: it writes the log, or did so
        when the commit was decided."""
        shared = self._shared
        if shared.follows:
            return
        if self._standing is None:
            self._standing = await self._models_there() if commit.commit else set()
        if commit.commit not in self._standing:
            folded = await shared.world.compute(lambda: Folded.of(shared.replica, commit))
            self._writing.add(commit.commit)
            shared.spawn(self._write(commit.commit, folded))
        most = 0 if commit.stop else IN_FLIGHT
        await shared.until(lambda: len(self._writing) <= most)

    def delivered(self, commits: int) -> bool:
        """Return whether the models after so many commits exist. One that starts from a snapshot writes none before it."""
        return all(number >= commits for number in self._writing)

    async def _models_there(self) -> set[int]:
        """Return the commits whose models exist. A writer that died may have left out one before the newest."""
        return {keys.reduced_commit(info.key) for info in await self._shared.world.store.list(keys.REDUCED)}

    async def _write(self, commit: int, folded: Folded) -> None:
        world = self._shared.world
        await world.store.create(keys.reduced(commit, "fold"), await world.background(folded.pack))
        self._writing.discard(commit)
        self._shared.changed()

    async def lead(self) -> None:
        """Make the replica whole, so that it can take steps."""
        shared = self._shared
        await shared.until(lambda: not shared.unapplied)
        if shared.follows:
            state = await whole_state_at(shared, shared.applied)
            await shared.world.compute(lambda: shared.replica.load(state))
            shared.follows = False

    def counted(self) -> dict[str, int]:
        """Return the reads since the last call."""
        updates = super().counted()
        return {name: count + updates[name] for name, count in self._models.counted().items()}


class _EntryTimer:
    """Times the look for the next model by the forecast in the last log entry."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._found_s: float | None = None
        self._next_s = 0.0

    def found(self, commit: Commit) -> None:
        """Note the entry that was just found."""
        self._found_s, self._next_s = self._shared.world.now(), commit.next_s

    def delay_s(self) -> float | None:
        if self._found_s is None:
            return None
        now = self._shared.world.now()
        return max(0.0, entry_due_s(self._found_s, self._shared.latency_s, self._next_s) - now)

    def scale_s(self, latency_s: float) -> float:
        return entry_scale_s(FLOATS, latency_s, self._next_s)

    def said(self, duration_s: float) -> None:
        """Do nothing: the log entry says more."""

    def looked(self, late_s: float, latency_s: float) -> None:
        """Do nothing: the log entry says more."""

"""All functions that follow the log, at once: when each finds an entry, has read its updates, and has applied it.

The same as `lambdaml.worker.log_reader.LogReader`, `Gather.load` and `Function._apply`, for arrays of functions. An entry costs some
dozen operations on arrays, however many functions read it and however many updates it holds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from lambdaml.simulation.draws import Floats
from lambdaml.simulation.scene import Ints, Scene
from lambdaml.worker.log_reader import _BURST, _EARLY


@dataclass(slots=True)
class Known:
    """A commit, and when each function had it queued to be applied."""

    version: int
    queued_s: Floats
    last_s: float


class Readers:
    """Where each function stands in the log. Function 0 writes it.

    Attributes:
        core_s: per function, when its core will have done what it was asked for.
        known: the commits that not all functions have queued yet, and the one before.
    """

    def __init__(self, scene: Scene, begun: Floats, latency_s: Floats) -> None:
        self._scene = scene
        self._latency_s = latency_s
        self._found_s, self._seen_s = begun.copy(), begun.copy()
        self._burst = np.ones(len(begun), np.int64)
        self._asked = np.zeros(len(begun), np.int64)
        self._pipe_s, self._applied_s = np.zeros(len(begun)), begun.copy()
        self._next_s = 0.0
        self.core_s = begun.copy()
        self.known = deque([Known(0, begun.copy(), float(begun.max()))])

    def read(self, commit: int, visible_s: float, next_s: float, size_bytes: float) -> None:
        """All find the entry that can be read from `visible_s` on."""
        found, seen, burst, asked = self._found_s, self._seen_s, self._burst, self._asked
        with_last = asked > commit
        hit = with_last & (seen >= visible_s)
        misses = int((asked - commit)[with_last & ~hit].sum())
        whole = hit & (asked == commit + 1)
        burst[whole] = np.minimum(_BURST, 2 * burst[whole])
        burst[with_last & ~hit] = 1
        hit[0] = True
        todo = np.flatnonzero(~hit)
        if todo.size:
            misses += self._look(todo, commit, visible_s)
        self._next_s = next_s
        tally = self._scene.tally
        tally.get(len(found) - 1, size_bytes, misses)

    def _look(self, todo: Ints, commit: int, visible_s: float) -> int:
        """Look until it is there; returns how many looks found nothing."""
        scene, found, latency = self._scene, self._found_s, self._latency_s[todo]
        asking = self._burst[todo]
        look = found[todo]
        early = np.maximum(look, look - 2 * latency + _EARLY * self._next_s)
        look = np.where(asking == 1, early, look)
        self._asked[todo] = commit + asking
        pause = np.clip(np.maximum(latency, self._next_s / 2) / 4, 0.001, 1.0)
        misses, first = 0, True
        while True:
            latency = scene.reads.many(todo.size)
            seen = look + latency / 2
            hit = seen >= visible_s
            done = todo[hit]
            found[done] = (look + latency)[hit]
            self._seen_s[done] = seen[hit]
            if first:
                self._burst[done[asking[hit] == 1]] = 2
            else:
                self._burst[done], self._asked[done] = 1, commit + 1
            if done.size == todo.size:
                return misses
            left = ~hit
            misses += int(asking[left].sum()) if first else int(left.sum())
            todo, pause, first = todo[left], pause[left], False
            look = (look + latency)[left] + pause * (0.75 + 0.5 * scene.rng.random(todo.size))
            pause = np.minimum(1.0, pause * 1.5)

    def apply(self, version: int, updates: Floats, own: int, steps: int, done_s: float, now: float) -> Known:
        """All read the updates of the commit that they lack, and apply it; the writer had it at `done_s`.

        Args:
            version: after the commit.
            updates: per function, how many it must read.
            own: how many updates the commit applies.
        """
        scene, found = self._scene, self._found_s
        found[0] = done_s
        reads = int(updates.sum())
        late_s = scene.limit.delay_s(now, reads + len(found))
        loaded = found + late_s
        if reads:
            size = scene.update_bytes
            arrives = loaded + scene.reads.largest(np.maximum(updates, 1.0)) + size / scene.connection_bytes_per_s
            self._pipe_s = np.maximum(self._pipe_s, loaded) + updates * (size / scene.bytes_per_s)
            loaded = np.where(updates > 0, np.maximum(arrives, self._pipe_s), loaded)
            scene.tally.get(reads, size)
        queued = np.maximum(loaded, self._applied_s)
        cost_s = scene.costs.apply_s * steps + scene.costs.apply_update_s * own
        if cost_s:
            work = cost_s * scene.factors()
            scene.tally.busy_s += float(work.sum())
            self._applied_s = np.maximum(queued, self.core_s) + work
        else:
            self._applied_s = np.maximum(queued, self.core_s)
        self.core_s = self._applied_s.copy()
        self.known.append(Known(version, queued, float(queued.max())))
        while self.known[1].last_s <= now:
            self.known.popleft()
        return self.known[-1]

    def version_at(self, function: int, now: float) -> int:
        """What the function works from, if it begins now."""
        for known in reversed(self.known):
            if known.queued_s[function] <= now:
                return known.version
        return self.known[0].version

    @property
    def writer_applied_s(self) -> float:
        """When the writer has applied the newest commit."""
        return float(self._applied_s[0])

    @property
    def applied_s(self) -> Floats:
        """When each function has applied the newest commit."""
        return self._applied_s

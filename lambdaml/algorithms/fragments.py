"""Fragments: a worker that takes local steps sends a part of its model at a time, and goes on with its own values of the rest.

The parameters are divided into F fragments. Update s carries the displacement of fragment s mod F: how far the worker's
own values are from the global ones that it last took over. After the commit the worker takes the new global values of
this fragment over, in place of its own. No other parameter of the global model has moved meanwhile, so the base of an
update has all the global values that a worker ever took over, and only its own values must be remembered.

Source: Douillard et al., "Streaming DiLoCo with overlapping communication" (arXiv 2501.18512), where fragments are layers.
Here they are whole parameters, dealt by Graham's rule of the longest first ("Bounds on multiprocessing timing
anomalies", SIAM J. Appl. Math. 17, 1969): the largest fragment has at most 4/3 - 1/(3F) of the best possible size.
Parameters of the same size go to the fragments in turn, so that layers that are alike are strided, as in the paper.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import Layout, Vector
from lambdaml.log.memory import Arrays, Memory

if TYPE_CHECKING:
    from lambdaml.algorithms import Batch, LocalModel

_OWN, _REACHED, _SINCE = "own", "reached", "since"
"""The names of the memory's arrays and value that hold a worker's own values, whether its batches reached a parameter
since the worker took it over, and the number of commits that its latest update rests on."""


def divide(layout: Layout, count: int) -> list[list[int]]:
    """Return the numbers of the parameters of each fragment, rising. They go by size, the largest first, each to the
    fragment that is the smallest so far."""
    sizes = [math.prod(shape) for shape in layout.shapes]
    fragments: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, 0, fragment) for fragment in range(count)]  # numbers, parameters
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        load, held, least = loads[0]
        fragments[least].append(number)
        heapq.heapreplace(loads, (load + sizes[number], held + 1, least))
    return [sorted(fragment) for fragment in fragments]


def fragment_layouts(layout: Layout, count: int) -> list[Layout]:
    """Return the layout of each fragment."""
    return [Layout(tuple(layout.shapes[number] for number in each), layout.dtype) for each in divide(layout, count)]


@dataclass(slots=True)
class Carried:
    """What a worker carries from one update to the next.

    Attributes:
        fragments: The numbers of the parameters of each fragment.
        spans: The place of each parameter in a flat vector.
        base: The global values at the base of the update.
        values: The values that the worker goes on from: its own, or the global ones of fragments that it takes over.
        reached: For each parameter, whether a batch reached it since the worker took it over.
        commit: The number of commits that the base rests on.
    """

    fragments: list[list[int]]
    spans: list[slice]
    base: Vector
    values: Vector
    reached: NDArray[np.bool_]
    commit: int

    @staticmethod
    def resume(model: LocalModel, base: Vector, count: int, memory: Memory) -> Carried:
        """Return what an update begins with at a base with these values. Commit c moved fragment c mod `count`. A worker takes over the fragments
        that have moved since the base of the update before, and all of them if it remembers nothing."""
        fragments, spans = divide(model.layout, count), model.layout.spans
        carried = Carried(fragments, spans, base, base.copy(), np.zeros(len(spans), bool), model.commit)
        since = memory.values.get(_SINCE)
        if since is not None:
            moved = {commit % count for commit in range(since, model.commit)}
            own = [number for fragment in range(count) if fragment not in moved for number in fragments[fragment]]
            carried._copy(own, memory.arrays[_OWN], carried.values)
            carried.reached[own] = memory.arrays[_REACHED][own]
        return carried

    def send(self, model: LocalModel, seq: int, batches: Sequence[Batch]) -> NDArray[np.int32]:
        """Leave the displacement of update `seq` in the flat gradient, and set the parameters back to the base.

        Returns:
            The parameters of its fragment that no batch has reached since the worker took them over.
        """
        for batch in batches:
            self.reached[np.setdiff1d(np.arange(len(self.reached)), batch.absent)] = True
        self.values, sent = model.values(), self.base.copy()
        numbers = self.fragments[seq % len(self.fragments)]
        self._copy(numbers, self.values, sent)
        model.restore(sent)
        model.displace(self.base)
        return np.array([number for number in numbers if not self.reached[number]], np.int32)

    def kept(self) -> tuple[Arrays, dict[str, Any]]:
        """Return the arrays and the values that the worker remembers after an update."""
        return {_OWN: self.values, _REACHED: self.reached.astype(np.uint8)}, {_SINCE: self.commit}

    def _copy(self, numbers: Iterable[int], source: Vector, target: Vector) -> None:
        for number in numbers:
            target[self.spans[number]] = source[self.spans[number]]

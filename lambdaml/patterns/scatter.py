"""Scatter: the vector is cut into P slices, and for each of them one function adds up all updates (scatter-reduce).

Every worker puts its update as one object with a block for each slice (`lambdaml.log.slices`), of which the function that
adds up a slice reads its block. It puts the sum as a piece, and every function reads all pieces. So a round takes N + P
puts and P(N-1) + P(N-1) gets, and each function reads and writes about twice the vector's bytes, however many workers
there are. The blocks of large updates are objects of their own; see `lambdaml.patterns.blocks`.
"""

from __future__ import annotations

from lambdaml.parts import Parts
from lambdaml.patterns.blocks import BlocksExchange
from lambdaml.patterns.scattering import ScatterExchange
from lambdaml.schedules import in_rounds
from lambdaml.staleness import Rule
from lambdaml.worker.machine import apart
from lambdaml.worker.shared import Shared


class Scatter:
    """Slices are added up by one function each."""

    def __init__(self, slices: int = 0) -> None:
        if slices < 0:
            raise ValueError(f"a vector is cut into 1 slice or more, not {slices}")
        self.count = slices

    def bracket(self, workers: int) -> None:
        """Return None: it adds up in any bracket."""

    def slices(self, workers: int) -> int:
        """Return the number of slices in which the updates of so many workers are written."""
        return self.count or workers

    def misfit(self, parts: Parts, workers: int) -> str:
        """Return why a run with these parts cannot use it, or ""."""
        if not in_rounds(parts.schedule, workers):
            return "adds up whole rounds, and this schedule has none: use gather"
        if parts.codec.record is None:
            return (
                "cuts updates into slices, and this codec's can only be read as a whole: use another codec, or gather"
            )
        if parts.algorithm.fragments > 1:
            return "cuts vectors at fixed places, and those of fragments have others: use gather or tree"
        if type(parts.rule).judge is not Rule.judge or parts.rule.transform(workers, 1) is not None:
            return "adds up slices, which do not say what this staleness rule looks at: use gather or tree"
        return ""

    def exchange(self, shared: Shared) -> ScatterExchange:
        """Return one function's part."""
        make = BlocksExchange if apart(shared.replica) else ScatterExchange
        return make(shared, self.slices(shared.settings.workers))

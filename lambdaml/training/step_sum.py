"""Adds up the vectors of a step's updates, or of some of them, in the run's bracket.

On each level of the bracket one sum is open. Once the next update belongs to another group, the sum of the finished
group goes into the one above it. So the additions, and the bits, are the same whether one function adds everything or
some add the sums of groups that others took.

A sum of one update is that update: it is scaled only when something else is added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lambdaml.algorithms import AS_SENT
from lambdaml.codecs import CODECS, Codec, Vector
from lambdaml.codecs.dense import add_to
from lambdaml.errors import BadObject
from lambdaml.log.bracket import Bracket
from lambdaml.log.commits import shares, summed
from lambdaml.log.records import Body, Entry, Update
from lambdaml.parts import Parts
from lambdaml.staleness import Transform
from lambdaml.training.bodies import split_body, split_buffers
from lambdaml.training.flat import ABSENT
from lambdaml.training.rows import Rows

if TYPE_CHECKING:
    from lambdaml.training.job_model import JobModel

SUM = "sum"
"""The name of the array of a sum."""

DENSE = CODECS.make("fp32")
"""The codec of sums."""


class Write(Protocol):
    """Adds a weighted vector to an array, or replaces the array's contents by it."""

    def __call__(self, weight: float, out: Vector, *, fresh: bool) -> None: ...


@dataclass(slots=True)
class _Open:
    """Holds an open sum. A single update has its factor here as long as it is not scaled."""

    vector: Vector | None = None
    used: bool = False
    factor: float | None = None


class StepSum:
    """One sum.

    Args:
        out: The array that holds the sum in the end.
        bracket: The bracket of the items that are added; flat if these are the sums of the groups of one level.
    """

    def __init__(self, out: Vector, bracket: Bracket | None = None) -> None:
        self._out = out
        self._bracket = bracket or Bracket()
        self._path: tuple[int, ...] = ()
        self._open = [_Open() for _ in range(self._bracket.levels + 1)]
        self._open[0].vector = out  # the first sum of each level moves up, and so ends on top

    def add(self, worker: int, factor: float | None, write: Write) -> None:
        """Add the update of a worker, or the sum of several.

        Args:
            worker: The worker, or the first of them. Workers come in rising order.
            factor: The factor of a single update; None for the sum of several.
            write: Adds the vector, without the factor.
        """
        path = self._bracket.path(worker)
        for level, (group, last) in enumerate(zip(path, self._path, strict=False)):
            if group == last:
                break
            self._close(level)
        self._path = path
        self._put(self._open[0], factor, write)

    def finish(self) -> bool:
        """Close all sums, and return whether the sum is a single update, which was not scaled."""
        for level in range(self._bracket.levels):
            self._close(level)
        return self._open[-1].factor is not None

    @property
    def used(self) -> bool:
        """Whether anything was added."""
        return any(place.used for place in self._open)

    def _put(self, place: _Open, factor: float | None, write: Write) -> None:
        if place.vector is None:
            place.vector = np.empty_like(self._out)
        if not place.used:
            write(1.0, place.vector, fresh=True)
            place.used, place.factor = True, factor
            return
        _scale(place)
        write(1.0 if factor is None else factor, place.vector, fresh=False)

    def _close(self, level: int) -> None:
        """Move the open sum of a level into the one above."""
        place, above = self._open[level], self._open[level + 1]
        if not place.used:
            return
        if not above.used:
            place.vector, above.vector = above.vector, place.vector
            above.used, above.factor = True, place.factor
        else:
            assert place.vector is not None
            self._put(above, place.factor, writer(place.vector))
        place.used, place.factor = False, None


class StepParts:
    """What a step takes of its updates: the sum of their vectors, and beside it their buffers and absent parameters.

    Args:
        model: The job's model, with the run's settings.
        rows: Finds the places of vectors that travel by rows.
        parts: The run's parts.
        out: The array for the sum; by default one is made.

    Attributes:
        rest: The buffers after each gradient.
        fresh: For each of these, whether it was computed from this very version.
        absent: The numbers of the parameters that none has a gradient of.
        kept: The vectors that were kept instead of being added.
    """

    def __init__(self, model: JobModel, rows: Rows, parts: Parts, out: Vector | None = None) -> None:
        self._model, self._rows, self._parts = model, rows, parts
        self._summands = parts.algorithm.summands
        self._aggregate = parts.aggregate
        self.rest: list[Body] = []
        self.fresh: list[bool] = []
        self.absent: set[int] = set()
        self.kept: list[Vector] = []
        self._travels: Body = {}
        layout = model.flat.layout
        self._out = np.empty(layout.size, layout.dtype) if out is None else out
        # A function that adds up a group for others adds one after the other: the groups are in the bracket already.
        self._sum = StepSum(self._out, parts.bracket if out is not None else None)

    def weighed(self, step: Sequence[Entry]) -> list[Entry]:
        """Return the entries with the numbers of samples that they count for."""
        counts = [counted(entry, self._parts, self._model) for entry in step]
        return [replace(entry, samples=count) for entry, count in zip(step, counts, strict=True)]  # type: ignore[arg-type]

    def add(self, entry: Entry, update: Update, *, fresh: bool = True, keep: bool = False) -> None:
        """Add an update, or keep its vector, as the run's aggregate needs it in any case."""
        body, rows, _ = split_body(update.body)
        codec, self._travels = self._parts.codec, self._rows.travels(entry.seq)
        if keep or self._aggregate is not None:
            self.kept.append(self._rows.unpack(codec, body, rows))
        else:
            self._sum.add(entry.worker, self._factor(entry), self._writer(codec, body, rows))
        self.note([update], [fresh])

    def join(self, entries: Sequence[Entry], body: Body) -> None:
        """Add a sum that another function took of the updates with these entries.

        Args:
            body: The sum; nothing if the array for the sum holds it already.

        Raises:
            BadObject: If it is no vector of this model.
        """
        factor = self._factor(entries[0]) if len(entries) == 1 else None
        if not body:
            self._sum.add(entries[0].worker, factor, _stand)
            return
        self._travels = self._rows.travels(entries[0].seq)
        vector, size = body.get(SUM), self._rows.layout(self._travels).size
        if len(body) != 1 or vector is None or (vector.shape, vector.dtype) != ((size,), self._out.dtype):
            raise BadObject(f"a partial sum holds {sorted(body)}, which is no vector of this model")
        self._sum.add(entries[0].worker, factor, self._writer(DENSE, {"gradient": vector}, self._travels))

    def note(self, updates: Sequence[Update], fresh: Sequence[bool]) -> None:
        """Note what is not summed."""
        for update, new in zip(updates, fresh, strict=True):
            rest = split_body(update.body)[2]
            absent = set(rest.pop(ABSENT).tolist()) if ABSENT in rest else set()
            absent.update(self._rows.stays(update.seq))
            self.absent = self.absent & absent if self.rest else absent
            self.rest += split_buffers({name: np.array(array) for name, array in rest.items()}, self._summands)
            self.fresh += [new] * self._summands

    def mean(self, weighed: Sequence[Entry], transform: Transform | None, parameters: Callable[[], Vector]) -> bool:
        """End the sum and divide it, so that the array for it holds the mean of the updates that have these entries, or what
        the run's aggregate puts in its place; do not divide it if the algorithm adds. In a mean of statistics, the parameters
        stand in for what the run's rule takes off the weights.

        Args:
            weighed: The entries of the step, as `weighed` returns them.
            transform: The transform of the run's rule, if it has one: the vectors were kept for it.
            parameters: Returns the trained parameters.

        Returns:
            Whether a step is to be taken along it.
        """
        if self._aggregate is not None:
            enough = len(self.kept) >= self._aggregate.least
            if enough:
                self._aggregate.combine(self.kept, self._out)
            return enough
        nominal = self._parts.algorithm.nominal(self._model.settings)
        factors, divisor = summed(weighed, nominal, self._summands > 1)
        if self._parts.algorithm.adds:
            divisor = 1.0
        out, moves = self._out, True
        if transform is not None:
            entries = [replace(entry, weight=factor) for entry, factor in zip(weighed, factors, strict=True)]
            terms, divisor = transform.terms(entries, self.kept, divisor, parameters)
            for number, (vector, weight) in enumerate(terms):
                add_to(out, vector, weight, fresh=not number)
            moves = bool(terms)
        elif self._sum.finish() and factors[0] != 1.0:
            out *= out.dtype.type(factors[0])
        if divisor != 1.0:
            out /= out.dtype.type(divisor)
        if AS_SENT & self._parts.algorithm.gives and any(entry.weight != 1.0 for entry in weighed):
            out += (1 - sum(shares(weighed))) * parameters()
        return moves

    def averaged(self, weighed: Sequence[Entry]) -> Vector:
        """End the sum and return the mean of vectors that stand for themselves."""
        self.mean(weighed, None, lambda: self._out)
        return self._out

    def shares(self, weighed: Sequence[Entry]) -> list[float]:
        """Return the weight of each gradient in the mean."""
        if self._summands == 1:
            return shares(weighed)
        counts = ((entry, self._model.sampler.counts(entry.worker, entry.seq)) for entry in weighed)
        return shares([replace(entry, samples=samples) for entry, each in counts for samples in each])

    def finish(self) -> Body:
        """End the sum and return it, without what its updates do not carry."""
        self._sum.finish()
        return {SUM: self._rows.pack(self._out, self._travels)} if self._sum.used else {}

    def _factor(self, entry: Entry) -> float:
        return factor_of(entry, self._parts, self._model)

    def _writer(self, codec: Codec, body: Body, rows: Body) -> Write:
        if rows and self._summands > 1:  # a sum is added in all its places, so that not even a zero's sign differs
            return writer(self._rows.unpack(codec, body, rows))
        return lambda weight, out, *, fresh: self._rows.add(codec, body, rows, weight, out, fresh)


def counted(entry: Entry, parts: Parts, model: JobModel) -> float:
    """Return the number of samples that an update counts for in the mean of its step."""
    samples = parts.algorithm.samples(entry, model.settings, model.sampler.share(entry.worker, entry.seq))
    return samples * model.turnout.get(entry.worker, 1)


def factor_of(entry: Entry, parts: Parts, model: JobModel) -> float:
    """Return the factor of an update in the sum of its step, as `lambdaml.log.commits.summed` has it for several."""
    if parts.algorithm.summands > 1:
        return entry.weight
    return entry.weight * (counted(entry, parts, model) / parts.algorithm.nominal(model.settings))


def writer(vector: Vector) -> Write:
    """Return what adds this vector to an array."""

    def write(weight: float, out: Vector, *, fresh: bool) -> None:
        add_to(out, vector, weight, fresh=fresh)

    return write


def _stand(weight: float, out: Vector, *, fresh: bool) -> None:
    """Leave in an array what stands there."""


def _scale(place: _Open) -> None:
    if place.factor is not None and place.factor != 1.0:
        assert place.vector is not None
        place.vector *= place.vector.dtype.type(place.factor)
    place.factor = None

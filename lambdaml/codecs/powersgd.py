"""The codec `powersgd:RANK` sends a matrix as the product of two narrow ones.

Source: Vogels, Karimireddy, Jaggi (arXiv 1905.13727). A tensor of two or more dimensions is a matrix M of its first
dimension and all others, n x m. With a random right factor Q (m x r) to begin with, P = M Q, the columns of P are made
orthonormal, and Q = M^T P; the decoded matrix is P Q^T. That is a step of subspace iteration, so M is projected onto a
space of r dimensions, near that of its r largest singular values. The paper starts from the Q of the update before;
codecs are stateless, so a second iteration takes the place of this. What is left out is M minus its projection: never
more than M itself, and nothing if M has no more than rank r.

A body holds one array, `numbers`, in the vector's dtype. For each tensor in their order it holds first the r columns of
P, one after the other, and then those of Q, together r (n + m) numbers; or all numbers of the tensor, if these are not
more, or if it has fewer than two dimensions. If anything in a matrix is not finite, neither is what is decoded.

All sums are added up in a fixed order, elementwise, so neither the body nor the decoded vector depends on the machine's
BLAS or the number of its threads. Decoding adds up the products of columns in their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import Layout, UpdateContext, Vector, decode_vector
from lambdaml.codecs.dense import add_to
from lambdaml.codecs.sums import row_sums
from lambdaml.log.records import Body

_SIDE = 2**8
_PIECE = _SIDE**2
"""Matrices are processed in pieces of about this many numbers, square ones if they can be, so that no intermediate value
has a matrix's size."""

_VANISHED = 1e-14
"""A column of which no larger part than this is left is one of those before it."""

Matrix = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Tensor:
    """The place of a tensor in the vector and in the body, and the sides of its matrix if it is sent as two factors."""

    vector: slice
    body: slice
    rows: int
    columns: int
    factored: bool

    def factors(self, numbers: Vector) -> tuple[Matrix, Matrix]:
        """Return the columns of P and those of Q, each as a row."""
        flat = numbers[self.body]
        cut = len(flat) // (self.rows + self.columns) * self.rows
        return flat[:cut].reshape(-1, self.rows), flat[cut:].reshape(-1, self.columns)


class PowerSgd:
    """Sends matrices of a low rank.

    Args:
        rank: The columns of each factor, r.
        iterations: How often P and Q are computed from each other.
    """

    exact = False
    record: tuple[int, int] | None = None
    feedback = True
    needs: frozenset[str] = frozenset()

    def __init__(self, rank: int, iterations: int = 2) -> None:
        for name, value in (("rank", rank), ("iterations", iterations)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        self.rank = rank
        self.iterations = iterations

    def misfit(self, layout: Layout) -> str:
        if any(tensor.factored for tensor in self._tensors(layout)):
            return ""
        tensors = self._tensors(layout)
        best = max(((t.rows * t.columns - 1) // max(t.rows + t.columns, 1) for t in tensors), default=0)
        advice = f"the highest that saves something is {best}" if best > 0 else "no rank does"
        return f"saves nothing with rank {self.rank} on any tensor of this model ({advice})"

    def expected_bytes(self, layout: Layout) -> int:
        return self._count(layout) * layout.itemsize

    def encode(self, vector: Vector, layout: Layout, context: UpdateContext) -> Body:
        numbers = np.empty(self._count(layout), vector.dtype)
        draws = np.random.Philox(key=context.seed)
        for tensor in self._tensors(layout):
            whole = vector[tensor.vector]
            if not tensor.factored:
                numbers[tensor.body] = whole
                continue
            matrix, (left, right) = whole.reshape(tensor.rows, tensor.columns), tensor.factors(numbers)
            right[:] = _drawn(draws, right.size).reshape(right.shape)
            with np.errstate(all="ignore"):
                for _ in range(self.iterations):
                    _multiply(matrix, _shortened(right), out=left)
                    left[:] = _orthonormal(left)
                    _multiply(matrix.T, left, out=right)
        return {"numbers": numbers}

    def check(self, body: Body, layout: Layout) -> str:
        if set(body) != {"numbers"}:
            return f"holds {', '.join(sorted(body)) or 'nothing'} where numbers are due"
        numbers, due = body["numbers"], (self._count(layout),)
        if numbers.shape != due or numbers.dtype != layout.dtype:
            return f"has numbers of shape {numbers.shape} {numbers.dtype.name}, not {due} {layout.dtype}"
        return ""

    def values(self, body: Body, layout: Layout) -> Vector:
        return decode_vector(self, body, layout)

    def add(
        self, body: Body, weight: float, out: Vector, layout: Layout, elements: slice, *, fresh: bool = False
    ) -> None:
        numbers = body["numbers"]
        with np.errstate(all="ignore"):
            for tensor in self._tensors(layout):
                start = tensor.vector.start
                first, last = max(elements.start, start) - start, min(elements.stop, tensor.vector.stop) - start
                if first >= last:
                    continue
                place = out[start + first - elements.start : start + last - elements.start]
                if not tensor.factored:
                    add_to(place, numbers[tensor.body][first:last], weight, fresh=fresh)
                    continue
                left, right = tensor.factors(numbers)
                rooms = np.empty((2, min(last - first, _PIECE)), numbers.dtype)
                for begin, rows, columns in _pieces(first, last, tensor.columns):
                    piece = _product(left[:, rows], right[:, columns], rooms).reshape(-1)
                    add_to(place[begin - first :][: len(piece)], piece, weight, fresh=fresh)

    def _tensors(self, layout: Layout) -> Iterator[_Tensor]:
        begin = 0
        for shape, span in zip(layout.shapes, layout.spans, strict=True):
            rows, columns = (shape[0], prod(shape[1:])) if len(shape) > 1 else (0, 0)
            short, long = self.rank * (rows + columns), rows * columns
            size = short if short < long else span.stop - span.start
            yield _Tensor(span, slice(begin, begin + size), rows, columns, short < long)
            begin += size

    def _count(self, layout: Layout) -> int:
        return sum(tensor.body.stop - tensor.body.start for tensor in self._tensors(layout))


def variants() -> list[str]:
    """Return the variants worth trying. Rank 1 saves something on nearly every matrix."""
    return ["powersgd:1"]


def _drawn(draws: np.random.Philox, count: int) -> NDArray[np.float32]:
    """Return uniform random numbers between -1 and 1, none of which is 0, on every machine the same."""
    odd = (draws.random_raw(count) >> np.uint64(40)).astype(np.int32) | 1
    return ((odd - 2**23) * np.float32(2.0**-23)).astype(np.float32)


def _multiply(matrix: Matrix, factors: Matrix, out: Matrix) -> None:
    """Write the product of a matrix and each row of `factors` into a row of `out`.

    Products of numbers are added up tile by tile, in one array of a tile's size for each factor, and only these are summed
    along their rows. All arrays have the matrix's order in memory, in which NumPy is quick.
    """
    height = min(len(matrix), _SIDE)
    width = min(matrix.shape[1], _PIECE // height)
    height = min(len(matrix), _PIECE // width)
    turned = matrix.flags.f_contiguous
    rooms = np.empty((len(factors) + 1, *((width, height) if turned else (height, width))), matrix.dtype)
    *totals, term = rooms.transpose(0, 2, 1) if turned else rooms
    for top in range(0, len(matrix), height):
        band = matrix[top : top + height]
        rooms[:-1] = 0
        for start in range(0, matrix.shape[1], width):
            tile = band[:, start : start + width]
            here = tuple(map(slice, tile.shape))
            for factor, total in zip(factors, totals, strict=True):
                total[here] += np.multiply(tile, factor[start : start + width], out=term[here])
        for product, total in zip(out, totals, strict=True):
            product[top : top + height] = row_sums(total[: len(band)], term[: len(band)])


def _shortened(factors: Matrix) -> Matrix:
    """Return the rows with a largest magnitude of 1, so that nothing in a product with them is much larger than what they
    are multiplied with."""
    largest = np.abs(factors).max(axis=1, keepdims=True)
    return factors / np.where(largest == 0, 1, largest)


def _orthonormal(left: Matrix) -> NDArray[np.float64]:
    """Return orthonormal rows that span what these do, by the modified Gram-Schmidt method, which is precise if it is
    applied twice. A row that is a sum of others before it becomes zero."""
    found = left.astype(np.float64)
    for _ in range(2):
        before = np.sqrt(_inner(found, found))
        for number, row in enumerate(found):
            length = np.sqrt(_inner(found[number : number + 1], row))[0]
            vanished = length == 0 or length < _VANISHED * before[number]
            row /= np.inf if vanished else length
            others = found[number + 1 :]
            others -= _inner(others, row)[:, None] * row
    return found


def _inner(rows: Matrix, others: Matrix) -> Matrix:
    terms = rows * others
    return row_sums(terms, np.empty_like(terms))


def _product(left: Matrix, right: Matrix, rooms: Matrix) -> Matrix:
    """Return P Q^T in an array of its own size in the first of two rooms, where the rows of `left` and `right` are the
    columns of P and Q."""
    shape = (left.shape[1], right.shape[1])
    total, term = rooms[:, : prod(shape)].reshape(2, *shape)
    np.multiply(left[0, :, None], right[0], out=total)
    for row, column in zip(left[1:], right[1:], strict=True):
        total += np.multiply(row[:, None], column, out=term)
    return total


def _pieces(first: int, last: int, columns: int) -> Iterator[tuple[int, slice, slice]]:
    """Cut these elements of a matrix into pieces of at most `_PIECE` numbers, each of whole rows or from a single one;
    yield their first elements, rows and columns."""
    while first < last:
        row, column = divmod(first, columns)
        height = min(_PIECE, last - first) // columns
        if column or not height:
            height, stop = 1, min(columns, column + _PIECE, column + last - first)
        else:
            stop = columns
        yield first, slice(row, row + height), slice(column, stop)
        first += height * (stop - column)

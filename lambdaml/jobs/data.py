"""Tables of features with a target for each row, dense or sparse: libsvm files, .npz files, and generated ones.

A batch of dense rows is a matrix. A batch of sparse rows is in the CSR format: the columns and the values of all its
numbers that are not zero, one row after the other, and the place where each row begins. Its product with a matrix is
`torch.nn.functional.embedding_bag`, which adds the same numbers in the same order each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from lambdaml.errors import JobError
from lambdaml.registry import Registry

_ITERATIONS = 30
"""The number of power iterations, which come within a few percent of the largest eigenvalue."""


class SparseRows(NamedTuple):
    """Some rows of a sparse table.

    Attributes:
        columns: The columns of the numbers, int64, one row after the other.
        values: The numbers, float32.
        starts: The place of each row's first number, int64.
    """

    columns: Tensor
    values: Tensor
    starts: Tensor


TableRows = Tensor | SparseRows
"""TableRows of a table: float32 of shape (rows, features), or sparse."""


def product(rows: TableRows, weight: Tensor) -> Tensor:
    """Return rows x weight, of shape (rows, outputs), for a weight of shape (features, outputs)."""
    if isinstance(rows, SparseRows):
        return F.embedding_bag(rows.columns, weight, rows.starts, mode="sum", per_sample_weights=rows.values)
    return rows @ weight


class Table(Dataset[tuple[TableRows, Tensor]]):
    """A table of features and targets. Several of its samples are a batch at once.

    Args:
        rows: The features.
        targets: The target of each row, float64.
        features: The number of columns.
        real: Whether targets are real numbers, and not classes.

    Attributes:
        targets: The target of each row: float32, or its class number as int64, which counts the classes from 0 in their order.
        classes: The number of classes; 0 if targets are real numbers.

    Raises:
        ValueError: If a number is not finite, or there is only one class.
    """

    def __init__(self, rows: TableRows, targets: Tensor, features: int, real: bool) -> None:
        self.rows, self.features, self.classes = rows, features, 0
        if not bool(torch.isfinite(self.numbers).all() and torch.isfinite(targets).all()):
            raise ValueError("it has numbers that are not finite")
        if real:
            self.targets = targets.float()
        else:
            found, self.targets = torch.unique(targets, return_inverse=True)
            self.classes = len(found)
            if self.classes < 2:
                raise ValueError(f"it has {self.classes} classes, and two or more are needed")

    @property
    def numbers(self) -> Tensor:
        """All numbers of the rows that are not left out."""
        return self.rows if isinstance(self.rows, Tensor) else self.rows.values

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[TableRows, Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[TableRows, Tensor]:
        """Return the rows with these numbers, and their targets."""
        wanted = torch.as_tensor(indices)
        if isinstance(self.rows, Tensor):
            return self.rows[wanted], self.targets[wanted]
        columns, values, starts = self.rows
        counts = torch.diff(starts, append=torch.tensor([len(columns)]))[wanted]
        begins = torch.cumsum(counts, 0) - counts
        places = torch.arange(int(counts.sum())) + torch.repeat_interleave(starts[wanted] - begins, counts)
        return SparseRows(columns[places], values[places], begins), self.targets[wanted]

    def curvature(self, batch_size: int) -> float:
        """Return the largest eigenvalue of the mean of (x, 1) (x, 1)' over the rows x, by power iteration, and beside it
        what a batch of this size adds to it: the mean of |(x, 1)|^2, divided by the size. With a learning rate of 1 over
        the sum, steps on random batches do not grow for a squared error."""
        weight, bias = torch.ones(self.features, 1, requires_grad=True), torch.ones(1, requires_grad=True)
        largest = 1.0
        for _ in range(_ITERATIONS):
            scores = product(self.rows, weight) + bias
            steps = torch.autograd.grad((scores.square().mean() / 2), (weight, bias))
            largest = float(sum(step.square().sum() for step in steps)) ** 0.5
            weight, bias = ((step / largest).requires_grad_() for step in steps)
        return largest + (1 + float(self.numbers.double().square().sum()) / len(self)) / batch_size


def read_table(source: str, *, real: bool) -> Table:
    """Return the table that a job's argument `data` names: a `.npz` file, any other file as libsvm, or `generated:...`.

    Args:
        source: The path of a file, or what `generated` takes, such as `generated:2000,20,density=0.05`.
        real: Whether generated targets are real numbers, and not class numbers.

    Raises:
        JobError: If there is no such file, or it holds no such table.
        SettingsError: If the table cannot be generated.
    """
    if source.partition(":")[0] in _GENERATORS.factories:
        return _GENERATORS.make(source, {"real": real})
    try:
        return _read_npz(source, real) if source.endswith(".npz") else _read_libsvm(source, real)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise JobError(f"{source} cannot be read as a table: {error}") from error


def generated(
    samples: int = 2000,
    features: int = 20,
    classes: int = 2,
    density: float = 1.0,
    seed: int = 0,
    real: bool = False,
) -> Table:
    """Return a table that is the same on every machine: normal features, and targets that a noisy linear model makes.

    Args:
        samples: The number of rows.
        features: The number of columns.
        classes: The number of classes; the targets are 0, 1, ...
        density: The share of numbers that are not zero; with less than 1 the table is sparse.
        seed: The seed of all that is random.
        real: Whether the targets are real numbers in place of classes.
    """
    if min(samples, features) < 1 or classes < 2 or not 0 < density <= 1:
        raise ValueError("samples and features must be 1 or more, classes 2 or more, and density between 0 and 1")
    draw = np.random.RandomState(seed)  # its streams never change
    x = draw.standard_normal((samples, features)) * (draw.random_sample((samples, features)) < density)
    scores = x @ draw.standard_normal((features, 1 if real else classes)) * (2 / math.sqrt(features * density))
    scores += draw.standard_normal(scores.shape)
    y = scores[:, 0] if real else scores.argmax(1).astype(np.float64)
    if density == 1:
        return Table(_floats(x), torch.from_numpy(y), features, real)
    rows, columns = np.nonzero(x)
    return _sparse(columns, x[rows, columns], np.searchsorted(rows, np.arange(samples)), y, features, real)


_GENERATORS: Registry[Table] = Registry("data", {"generated": "lambdaml.jobs.data:generated"})


def _read_libsvm(path: str, real: bool) -> Table:
    """Read lines of `target column:value ... # comment`. Columns count from 1, or from 0 if one is 0."""
    columns: list[int] = []
    values: list[float] = []
    starts: list[int] = []
    targets: list[float] = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            target, *pairs = line.partition("#")[0].split() or [""]
            if not target:
                continue
            starts.append(len(columns))
            try:
                targets.append(float(target))
                for pair in pairs:
                    column, _, value = pair.partition(":")
                    if column != "qid":
                        columns.append(int(column))
                        values.append(float(value))
            except ValueError:
                raise ValueError(f"line {number} is not of the form 'target column:value ...'") from None
    if not columns or min(columns) < 0:
        raise ValueError("it has no features" if not columns else "a column is less than 0")
    first = 0 if 0 in columns else 1
    return _sparse(np.array(columns) - first, np.array(values), starts, targets, max(columns) - first + 1, real)


def _read_npz(path: str, real: bool) -> Table:
    """Read `y` with a matrix `x`, or with the arrays `data`, `indices`, `indptr` and `shape` of one in CSR, as SciPy's
    `save_npz` names them."""
    with np.load(path, allow_pickle=False) as arrays:
        if "x" in arrays:
            x = np.asarray(arrays["x"])
            if x.ndim != 2 or len(x) != len(arrays["y"]):
                raise ValueError(f"x of shape {x.shape} is no matrix with a row for each of {len(arrays['y'])} targets")
            return Table(_floats(x), torch.tensor(arrays["y"], dtype=torch.float64), x.shape[1], real)
        rows, features = (int(size) for size in arrays["shape"])
        starts = np.asarray(arrays["indptr"])
        if (len(starts) - 1, rows) != (len(arrays["y"]),) * 2 or starts[-1] != len(arrays["data"]):
            raise ValueError("indptr, shape and y are not of the same rows")
        return _sparse(arrays["indices"], arrays["data"], starts[:-1], arrays["y"], features, real)


def _sparse(
    columns: NDArray[Any], values: NDArray[Any], starts: ArrayLike, targets: ArrayLike, features: int, real: bool
) -> Table:
    begins = np.asarray(starts)
    if len(columns) != len(values) or not len(begins) or begins[0] != 0 or (np.diff(begins) < 0).any():
        raise ValueError("its rows are not one after the other")
    if len(columns) and not 0 <= columns.min() <= columns.max() < features:
        raise ValueError(f"it has columns beyond its {features} features")
    rows = SparseRows(
        torch.tensor(columns, dtype=torch.int64), _floats(values), torch.tensor(begins, dtype=torch.int64)
    )
    return Table(rows, torch.tensor(np.asarray(targets), dtype=torch.float64), features, real)


def _floats(numbers: NDArray[Any]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)

"""What jobs share that look for clusters in rows of numbers: the rows themselves, and where to begin."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from lambdaml.errors import JobError
from lambdaml.jobs.data import Table, read_table
from lambdaml.statistics_job import StatisticsJob
from lambdaml.training.calls import fetch

DIGITS = "digits"
"""The name of the data that scikit-learn bundles: 1,797 images of 64 pixels, here from 0 to 1."""

MOST_SEEN = 2**16
"""The most rows that the beginning is chosen from."""


class CloudsJob(StatisticsJob):
    """Holds the rows of a job that describes them by several clouds. A batch is a tensor of rows, dense or CSR, or begins
    with one.

    Args:
        count: The number of clouds.
        data: The rows: `digits`, or the path of a .npy file, or of an .npz file with one array, or a table that
            `lambdaml.jobs.data.read_table` reads, such as a libsvm file. Its targets are left out.
        rate: The share of new means in each step; see `StatisticsJob`.

    Raises:
        ValueError: If there is not at least one cloud.
    """

    batch_size = 1024

    def __init__(self, count: int, data: str, rate: float) -> None:
        if count < 1:
            raise ValueError(f"there must be 1 cluster or more, not {count}")
        self.count, self.data, self.rate = count, data, rate

    @cached_property
    def rows(self) -> Dataset[Any]:
        """The rows that `data` names. Several of them are a batch at once."""
        return read_rows(self.data)

    def dataset(self) -> Dataset[Any]:
        return self.rows

    def collate(self, samples: Any) -> Any:
        """Make a batch of samples, unless a dataset's `__getitems__` has made one."""
        return samples if isinstance(samples, Tensor) else super().collate(samples)

    def seen(self) -> list[Tensor]:
        """Return the rows that the beginning is chosen from, in batches: all, or `MOST_SEEN` of them by chance.

        Raises:
            JobError: If there are more clouds than rows.
        """
        dataset: Any = self.dataset()
        samples = len(dataset)
        if samples < self.count:
            raise JobError(
                f"{type(self).__name__}: {self.count} clusters need as many samples, and there are {samples}"
            )
        numbers = sorted(torch.randperm(samples)[:MOST_SEEN].tolist())
        return [rows_of(batch) for batch in self._batches(dataset, numbers)]

    def objective(self, model: nn.Module) -> float:
        """Return the mean objective over all samples."""
        dataset: Any = self.dataset()
        batches = self._batches(dataset, range(len(dataset)))
        return sum(float(self.statistics(model, batch)[0]) for batch in batches) / len(dataset)

    def _batches(self, dataset: Any, numbers: Sequence[int]) -> Iterator[Any]:
        for start in range(0, len(numbers), self.batch_size):
            yield fetch(self, dataset, list(numbers[start : start + self.batch_size]))


def rows_of(batch: Any) -> Tensor:
    """Return the rows of a batch: its first part if it has several.

    Raises:
        JobError: If that is no tensor of rows.
    """
    rows = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(rows, Tensor) or rows.dim() != 2 or rows.layout not in (torch.strided, torch.sparse_csr):
        raise JobError("a batch must be, or begin with, a tensor with a row for each sample, dense or CSR")
    return rows if rows.is_floating_point() else rows.float()


def squared_norms(rows: Tensor) -> Tensor:
    """Return the squared length of each row, float64."""
    if rows.layout == torch.strided:
        return rows.double().square().sum(1)
    squares = rows.values().double().square()
    return torch.zeros(len(rows), dtype=torch.float64).index_add_(0, row_numbers(rows), squares)


def row_numbers(rows: Tensor) -> Tensor:
    """Return the row of each number that a CSR tensor holds."""
    return torch.repeat_interleave(torch.arange(len(rows)), rows.crow_indices().diff())


def plus_plus(batches: Sequence[Tensor], count: int) -> Tensor:
    """Choose rows to begin with, each with a probability proportional to its squared distance from the nearest one so far.

    It takes a pass over the rows for each. Source: Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding"
    (SODA 2007). Chance comes from torch's global stream.

    Returns:
        The chosen rows, float64, (count, features). If fewer rows than `count` differ, some are chosen twice.
    """
    norms = torch.cat([squared_norms(rows) for rows in batches])
    nearest = torch.full_like(norms, torch.inf)
    chosen = [_row(batches, int(torch.randint(len(norms), ())))]
    while len(chosen) < count:
        last = chosen[-1]
        products = torch.cat([(rows @ last.to(rows.dtype)).double() for rows in batches])
        nearest = torch.minimum(nearest, (norms - 2 * products + last.square().sum()).clamp_min(0))
        ends = nearest.cumsum(0)
        drawn = torch.rand((), dtype=torch.float64) * ends[-1]
        chosen.append(_row(batches, min(int(torch.searchsorted(ends, drawn, right=True)), len(norms) - 1)))
    return torch.stack(chosen)


def _row(batches: Sequence[Tensor], number: int) -> Tensor:
    for rows in batches:
        if number < len(rows):
            return rows[number].to_dense().double()
        number -= len(rows)
    raise IndexError(number)


class RowsAlone(Dataset[Tensor]):
    """The rows of a table without their targets: batches are dense or CSR tensors, float32."""

    def __init__(self, table: Table) -> None:
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")  # torch says so in each process
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, number: int) -> Tensor:
        return self.__getitems__([number])

    def __getitems__(self, numbers: Sequence[int]) -> Tensor:
        """Return the rows with these numbers."""
        rows, _ = self._table.__getitems__(numbers)
        if isinstance(rows, Tensor):
            return rows
        ends = torch.cat([rows.starts, torch.tensor([len(rows.columns)])])
        size = len(numbers), self._table.features
        return torch.sparse_csr_tensor(ends, rows.columns, rows.values, size, check_invariants=False)


def read_rows(data: str) -> Dataset[Any]:
    """Return the rows that a job's argument `data` names.

    Raises:
        JobError: If they cannot be read, or are no finite numbers, or scikit-learn is needed and not installed.
        SettingsError: If the table cannot be generated.
    """
    if data == DIGITS:
        return TensorDataset(_bundled())
    if not data.endswith((".npy", ".npz")):
        return RowsAlone(read_table(data, real=True))
    try:
        found = np.load(data)
        names = found.files if isinstance(found, np.lib.npyio.NpzFile) else []
        if len(names) > 1:
            return RowsAlone(read_table(data, real=True))
        rows = torch.from_numpy(np.ascontiguousarray(found[names[0]] if names else found, np.float32))
    except (OSError, ValueError, TypeError) as error:
        raise JobError(f"{data} is no .npy or .npz file of rows: {error}") from None
    if rows.dim() != 2 or not rows.isfinite().all():
        raise JobError(f"{data} must hold finite numbers, with a row for each sample: it has shape {tuple(rows.shape)}")
    return TensorDataset(rows)


def _bundled() -> Tensor:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise JobError("the data 'digits' come with scikit-learn: pip install scikit-learn, or name a file") from None
    return torch.from_numpy(load_digits().data).float() / 16

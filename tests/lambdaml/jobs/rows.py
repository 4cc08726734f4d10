"""Rows that the tests of jobs share, dense and sparse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lambdaml.jobs.kmeans import KMeans


class SparseRows:
    """A dataset whose batches are CSR tensors."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Tensor:
        return self.rows[number]

    def __getitems__(self, numbers: list[int]) -> Tensor:
        return self.rows[numbers].to_sparse_csr()


class SparseKMeans(KMeans):
    """The same clusters of the same rows, which come as CSR tensors."""

    def dataset(self) -> Any:
        return SparseRows(self.rows)


def blobs(samples: int = 300, features: int = 4, groups: int = 3, apart: float = 5.0) -> Tensor:
    """Return rows around some points that are about this far apart."""
    draw = torch.Generator().manual_seed(3)
    centres = apart * torch.randn(groups, features, generator=draw)
    return centres[torch.arange(samples) % groups] + torch.randn(samples, features, generator=draw)

"""K-means (Lloyd's algorithm): each step puts each centre in the middle of the samples that are nearest to it.

The model's parameters are the sums and the numbers of the samples of each cluster, both divided by the number of all samples. A
centre is a sum divided by a number. So centres are weighted by their samples, whoever holds these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lambdaml.jobs.clouds import DIGITS, CloudsJob, plus_plus, row_numbers, rows_of, squared_norms


class Centres(nn.Module):
    """The clusters of k-means.

    Args:
        centres: The centres to begin with, (clusters, features).

    Attributes:
        sums: The mean over all samples of the sample, if it is in the cluster, and otherwise 0, float64, (clusters, features).
        counts: The share of the samples in each cluster, float64.
    """

    def __init__(self, centres: Tensor) -> None:
        super().__init__()
        counts = torch.full((len(centres),), 1 / len(centres), dtype=torch.float64)
        self.sums, self.counts = nn.Parameter(centres * counts[:, None]), nn.Parameter(counts)

    @property
    def centres(self) -> Tensor:
        """The centres, float64, (clusters, features)."""
        return self.sums / self.counts[:, None]

    def forward(self, rows: Tensor) -> Tensor:
        """Return the number of the nearest centre of each row, dense or CSR."""
        centres = self.centres
        return (centres.square().sum(1).to(rows.dtype) - 2 * (rows @ centres.to(rows.dtype).T)).argmin(1)


class KMeans(CloudsJob):
    """Clusters rows, dense or CSR. The loss is the inertia of a sample: its squared distance from the nearest centre.

    The model begins with centres of k-means++, which takes a pass over the rows for each cluster, or as long as 1 to 10 steps
    on one worker, each time a function starts. A cluster that no sample is nearest to keeps its centre.

    Args:
        clusters: The number of clusters.
        data: The rows: `digits`, or the path of a .npy file, or of an .npz file with one array, or a table, such as a libsvm
            file, whose targets are left out. A subclass may define `dataset` instead.
        rate: The share of new means in each step; see `StatisticsJob`.
    """

    def __init__(self, clusters: int = 10, data: str = DIGITS, rate: float = 1.0) -> None:
        super().__init__(clusters, data, rate)

    def model(self) -> nn.Module:
        return Centres(plus_plus(self.seen(), self.count))

    def statistics(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert isinstance(model, Centres)
        rows, centres = rows_of(batch), model.centres
        nearest = model(rows)
        counts = torch.bincount(nearest, minlength=len(centres)).double()
        sums = torch.zeros_like(centres)
        if rows.layout == torch.strided:
            sums.index_add_(0, nearest, rows.double())
        else:
            places = nearest[row_numbers(rows)] * centres.shape[1] + rows.col_indices()
            sums.view(-1).index_add_(0, places, rows.values().double())
        inertia = squared_norms(rows).sum() - 2 * (centres * sums).sum() + (counts * centres.square().sum(1)).sum()
        return inertia, {"sums": sums, "counts": counts}

    def maximise(self, model: nn.Module, means: Mapping[str, Tensor]) -> None:
        assert isinstance(model, Centres)
        filled = means["counts"] > 0
        super().maximise(
            model,
            {
                "sums": torch.where(filled[:, None], means["sums"], model.sums),
                "counts": torch.where(filled, means["counts"], model.counts),
            },
        )

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"inertia": self.objective(model)}

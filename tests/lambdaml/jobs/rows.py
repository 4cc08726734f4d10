"""Rows that the tests of jobs share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import dump_svmlight_file, load_digits
from torch import Tensor


def digits() -> Tensor:
    """Return the rows that the jobs take unless they are given others."""
    return torch.from_numpy(load_digits().data).float() / 16


def as_libsvm(rows: Tensor, path: Path) -> str:
    """Write rows to a file from which they are read as sparse ones."""
    dump_svmlight_file(rows.numpy(), np.zeros(len(rows)), str(path), zero_based=False)
    return str(path)


def blobs(samples: int = 300, features: int = 4, groups: int = 3, apart: float = 5.0) -> Tensor:
    """Return rows around some points that are about this far apart."""
    draw = torch.Generator().manual_seed(3)
    centres = apart * torch.randn(groups, features, generator=draw)
    return centres[torch.arange(samples) % groups] + torch.randn(samples, features, generator=draw)

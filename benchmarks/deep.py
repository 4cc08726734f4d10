"""A job whose depth is an argument: the deeper it is, the less staleness it tolerates."""

import sys
from itertools import pairwise
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from digits import Digits  # type: ignore[import-not-found]


class Deep(Digits):  # type: ignore[misc]
    """The digits with this many hidden layers of 64."""

    def __init__(self, depth: int = 2, lr: float = 0.15) -> None:
        super().__init__(lr=lr)
        self.depth = depth

    def model(self) -> nn.Module:
        sizes = [64] * (self.depth + 1)
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(64, 10))

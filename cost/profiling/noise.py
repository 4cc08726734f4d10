"""The gradient noise scale: the batch size beyond which a larger batch is hardly worth its samples.

    B_simple = tr(Sigma) / |G|^2

where G is the true gradient and Sigma the covariance of one sample's gradient (McCandlish et al., An empirical model of
large-batch training, arXiv 1812.06162). A batch of B samples has a gradient of expected square |G|^2 + tr(Sigma) / B,
so the squares at two batch sizes give both unknowns without bias (appendix A.1). Their quotient is biased, so each is
averaged before it is taken. For a given loss, optimizer steps and samples then trade off as

    (steps / least steps - 1) (samples / least samples - 1) = 1,    B_noise = least samples / least steps

`B_simple` is used for B_noise, which suits optimizers whose best step is set by the noise. It changes during training.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING

from lambdaml.algorithms import Assignment
from lambdaml.cost.profiling.facts import NoisePoint, NoiseScale
from lambdaml.training.sampling import Sampler

if TYPE_CHECKING:
    from lambdaml.training.replica import Replica

MOST_BATCHES = 32
LEAST_BATCHES = 4


def estimate_noise(small_squares: Sequence[float], sizes: Sequence[int], large_square: float) -> tuple[float, float]:
    """Estimate (|G|^2, tr(Sigma)), both without bias. The first may be negative.

    Args:
        small_squares: The squared 2-norms of the gradients of small batches, at least two.
        sizes: The samples of each batch.
        large_square: The squared 2-norm of the gradient over all their samples together.
    """
    large = sum(sizes)
    trace = (fmean(small_squares) - large_square) / (fmean(1 / size for size in sizes) - 1 / large)
    return large_square - trace / large, trace


def layout(samples: int, batch_size: int, most: int = MOST_BATCHES) -> tuple[int, int]:
    """Return (size, number) of the small batches, which have the job's own size if the data set holds enough of these.

    Raises:
        ValueError: If there are fewer than two samples.
    """
    if samples < 2:
        raise ValueError("a noise scale needs at least two samples")
    size = max(1, min(batch_size, samples // LEAST_BATCHES))
    return size, max(2, min(most, samples // size))


class Noise:
    """A collector of points along a training.

    Args:
        replica: The replica whose gradients are taken. Its sampler is borrowed.
        batches: The most batches of each point.
    """

    def __init__(self, replica: Replica, batches: int = MOST_BATCHES) -> None:
        settings = replica.settings
        self._replica = replica
        self._size, self._count = layout(settings.samples, settings.batch_size, batches)
        self._sampler = Sampler(settings.samples, 1, self._size, settings.seed + 1)
        self.points: list[NoisePoint] = []
        self.gradients = 0

    def add(self) -> NoisePoint:
        """Measure at the replica's present version, on samples of a separate pass; the state is left unchanged.

        Raises:
            JobFailed: If the job's own code raised an error.
        """
        import torch

        replica, first = self._replica, len(self.points) * self._sampler.steps_per_epoch
        total = torch.zeros(replica.flat.size, dtype=torch.float64, device=replica.device)
        squares: list[float] = []
        sizes: list[int] = []
        kept, replica.local.sampler = replica.sampler, self._sampler
        try:
            for seq in range(first, first + min(self._count, self._sampler.steps_per_epoch)):
                samples = replica.compute(Assignment(0, seq, seq, 1)).samples
                gradient = replica.flat.vector.double()
                squares.append(float(gradient.dot(gradient)))
                sizes.append(samples)
                total += samples * gradient
        finally:
            replica.local.sampler = kept
        total /= sum(sizes)
        self.gradients += len(sizes)
        point = NoisePoint(replica.version, *estimate_noise(squares, sizes, float(total.dot(total))))
        self.points.append(point)
        return point

    def result(self) -> NoiseScale:
        """Return the noise scale over all points."""
        scales = [scale for point in self.points if (scale := point.noise_scale_samples) is not None]
        large = min(self._size * self._count, self._replica.settings.samples)
        return NoiseScale(median(scales) if scales else None, self._size, large, self._count, tuple(self.points))

"""The paper's theorem beside an experiment: asynchronous SGD with the step size that it requires, and its bound.

    x_{k+1} = x_k - eta_k g(x_{tau_k}),    k - s + 1 <= tau_k <= k,    eta_k = mu / (s L sqrt(k))
    min_k |grad F(x_k)|^2 <= (s L (F(x_0) - inf F) / mu^2 + sigma^2 log(T) / s) / sqrt(T)

mu bounds from below the gradient coherence <grad F(x_k), grad F(x_t)> / |grad F(x_k)|^2 over the last s steps, L is the
smoothness of F, and sigma^2 is the variance of g. The theorem is recalled from arXiv 1810.03264 and not checked against
its text. Here tau_k is uniform on its s values, F is the mean loss on the first 1,000 training samples of the digits,
and its infimum is taken as 0. mu and L have no closed form for a network: both are measured along a run with a constant
rate, L as the largest change of the gradient over the change of the parameters. The bound thus holds for the measured
path only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lambdaml.seeds import derive_seed
from lambdaml.studies.data import Images, digits
from lambdaml.studies.pool import one_thread
from lambdaml.studies.staleness.mlp import Mlp

_REFERENCE, _BATCH, _RATE, _WIDTH = 1000, 32, 0.04, 64


@dataclass(frozen=True, slots=True)
class Theorem:
    """The theorem for one model and s, as it was measured.

    Attributes:
        model: The name of the model.
        s: The number of values that the delay takes.
        coherence: The least mu measured after a tenth of the run. The theorem says nothing if it is not above 0.
        smoothness: The smoothness L.
        variance: The variance sigma^2 of a batch's gradient at the beginning.
        measured: Pairs (T, least squared gradient norm up to T).
        bound: Pairs (T, the theorem's bound), or nothing if mu is not above 0.
    """

    model: str
    s: int
    coherence: float
    smoothness: float
    variance: float
    measured: list[tuple[int, float]]
    bound: list[tuple[int, float]]


@one_thread()
def theorem(depth: int, s: int, steps: int = 800, seed: int = 0) -> Theorem:
    """Measure mu, L and sigma^2 for a network on the digits, run the theorem's SGD, and put its bound beside it.

    Args:
        depth: The number of hidden layers.
        s: The number of values of the delay, 1 or more; 1 is sequential SGD.
    """
    images = digits()
    net = Mlp((images.inputs.shape[1], *[_WIDTH] * depth, images.classes))
    coherence, smoothness = _along_a_run(net, images, s, steps, seed)
    start = net.initial(seed)[None]
    variance = _variance(net, images, start, seed)
    mu = coherence if coherence > 0 else 0.1  # a step needs a size even where the theorem is silent
    rates = [mu / (s * smoothness * math.sqrt(k + 1)) for k in range(steps)]
    measured, least = [], math.inf
    for k, point in enumerate(_path(net, images, s, rates, seed)):
        if k + 1 in _marks(steps):
            least = min(least, float(_full(net, images, point).square().sum()))
            measured.append((k + 1, least))
    bound: list[tuple[int, float]] = []
    if coherence > 0:
        gap = s * smoothness * _loss(net, images, start) / mu**2
        bound = [(t, (gap + variance * math.log(t) / s) / math.sqrt(t)) for t in sorted(_marks(steps)) if t > 1]
    name = f"dnn{depth}" if depth else "mlr"
    return Theorem(name, s, coherence, smoothness, variance, measured, bound)


def _along_a_run(net: Mlp, images: Images, s: int, steps: int, seed: int) -> tuple[float, float]:
    """Return the least coherence over s steps after a tenth of the run, and the largest smoothness, each tenth step."""
    every, points, gradients = 10, [], []
    for k, point in enumerate(_path(net, images, s, [_RATE / s] * steps, seed)):
        if k % every == 0:
            points.append(point)
            gradients.append(_full(net, images, point))
    smoothness = max(
        float((g - before_g).norm() / (x - before_x).norm())
        for x, before_x, g, before_g in zip(points[1:], points, gradients[1:], gradients)
        if not torch.equal(x, before_x)
    )
    back = max(1, -(-(s - 1) // every)) if s > 1 else 0
    inner = [
        float((gradients[k] * gradients[t]).sum() / gradients[k].square().sum())
        for k in range(max(back, len(gradients) // 10), len(gradients))
        for t in range(k - back, k + 1)
    ]
    return min(inner), smoothness


def _path(net: Mlp, images: Images, s: int, rates: list[float], seed: int) -> list[Tensor]:
    """Return the parameters before each step, each [1, size]."""
    stream = np.random.RandomState(derive_seed("study theorem", seed, s) % 2**32)
    points = [net.initial(seed)[None]]
    for k, rate in enumerate(rates):
        stale = points[stream.randint(max(0, k - s + 1), k + 1)]
        samples = torch.from_numpy(stream.randint(0, _REFERENCE, (1, _BATCH), np.int64))
        points.append(points[-1] - rate * net.gradients(stale, images.inputs[samples], images.labels[samples]))
    return points[:-1]


def _full(net: Mlp, images: Images, point: Tensor) -> Tensor:
    return net.gradients(point, images.inputs[None, :_REFERENCE], images.labels[None, :_REFERENCE])


def _loss(net: Mlp, images: Images, point: Tensor) -> float:
    logits = net.logits(point, images.inputs[None, :_REFERENCE])[0]
    return float(F.cross_entropy(logits, images.labels[:_REFERENCE]))


def _variance(net: Mlp, images: Images, point: Tensor, seed: int, batches: int = 50) -> float:
    stream = np.random.RandomState(derive_seed("study variance", seed) % 2**32)
    samples = torch.from_numpy(stream.randint(0, _REFERENCE, (batches, _BATCH), np.int64))
    found = net.gradients(point.expand(batches, -1), images.inputs[samples], images.labels[samples])
    return float((found - _full(net, images, point)).square().sum(1).mean())


def _marks(steps: int) -> set[int]:
    """Return about 60 step counts, equally spaced in their logarithm."""
    return {round(math.exp(math.log(steps) * part / 60)) for part in range(61)}

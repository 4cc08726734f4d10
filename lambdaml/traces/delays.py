"""Delay models make synthetic staleness, which is seeded and the same on every machine.

A model gives, for each iteration, how many iterations late each sender's update reaches each receiver. Each delay is an
independent draw for its (sender, receiver) pair, as in the staleness study of Dai et al. (ICLR 2019, arXiv 1810.03264).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lambdaml.errors import SettingsError
from lambdaml.registry import Registry
from lambdaml.seeds import derive_seed
from lambdaml.settings import Settings
from lambdaml.traces import Trace


class Delays(Protocol):
    """A model of the delays with which updates come to their receivers."""

    def matrix(self, iteration: int, senders: int, receivers: int, seed: int = 0) -> NDArray[np.int64]:
        """Return delays in iterations, 0 or more: int64 [senders, receivers], as a pure function of the arguments."""


DELAYS: Registry[Delays] = Registry(
    "delay model",
    {
        "categorical": "lambdaml.traces.delays:Categorical",
        "geometric": "lambdaml.traces.delays:Geometric",
        "gaussian": "lambdaml.traces.delays:ClippedGaussian",
    },
)


@dataclass(frozen=True, slots=True)
class Categorical:
    """`categorical:S` is uniform on 0, 1, ..., S, with mean S/2. It is the staleness study's main model.

    Attributes:
        s: The largest delay, in iterations, 0 or more.
    """

    s: int

    def __post_init__(self) -> None:
        if self.s < 0:
            raise ValueError(f"s must be 0 or more, not {self.s}")

    def matrix(self, iteration: int, senders: int, receivers: int, seed: int = 0) -> NDArray[np.int64]:
        return _stream(seed, iteration).randint(0, self.s + 1, (senders, receivers), np.int64)


@dataclass(frozen=True, slots=True)
class Geometric:
    """`geometric:MEAN` has P(k) = p (1 - p)^k on 0, 1, ..., where p = 1 / (mean + 1). It has a long tail.

    Attributes:
        mean: The mean delay, in iterations, 0 or more.
    """

    mean: float

    def __post_init__(self) -> None:
        if not 0 <= self.mean < np.inf:
            raise ValueError(f"mean must be 0 or more, not {self.mean}")

    def matrix(self, iteration: int, senders: int, receivers: int, seed: int = 0) -> NDArray[np.int64]:
        trials = _stream(seed, iteration).geometric(1.0 / (self.mean + 1.0), (senders, receivers))
        return trials.astype(np.int64) - 1


@dataclass(frozen=True, slots=True)
class ClippedGaussian:
    """`gaussian:S` has the S values 0 ... range = S - 1. It is normal with mean range/2 and standard deviation range/6,
    rounded and clipped.

    Source: the staleness simulator of FLeet (arXiv 2006.07273), StalenessSimulator.java.

    Attributes:
        s: The number of different delays, 1 or more.
    """

    s: int

    def __post_init__(self) -> None:
        if self.s < 1:
            raise ValueError(f"s must be 1 or more, not {self.s}")

    def matrix(self, iteration: int, senders: int, receivers: int, seed: int = 0) -> NDArray[np.int64]:
        highest = self.s - 1
        drawn = _stream(seed, iteration).standard_normal((senders, receivers)) * (highest / 6) + highest / 2
        return np.clip(np.floor(drawn + 0.5), 0, highest).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Gives delays that were recorded elsewhere. It ignores the seed.

    Attributes:
        matrices: A matrix of delays in iterations for each iteration, as integers [senders, receivers].
    """

    matrices: Sequence[NDArray[Any]]

    def matrix(self, iteration: int, senders: int, receivers: int, seed: int = 0) -> NDArray[np.int64]:
        """Return the recorded delays; see `Delays.matrix`.

        Raises:
            SettingsError: If no such delays were recorded.
        """
        if not 0 <= iteration < len(self.matrices):
            raise SettingsError(f"delays were recorded for {len(self.matrices)} iterations, not for number {iteration}")
        delays = np.array(self.matrices[iteration], np.int64)
        if delays.shape != (senders, receivers) or delays.min(initial=0) < 0:
            raise SettingsError(
                f"the delays recorded for iteration {iteration} must be 0 or more, "
                f"of shape ({senders}, {receivers}), not {delays.shape}"
            )
        return delays


def synthetic_trace(
    delays: Delays | str, workers: int, steps: int, seed: int = 0, settings: Settings | None = None
) -> Trace:
    """Make the trace of a run whose updates are as late as a delay model says. The only receiver is the log.

    Iteration t is one optimizer step on the mean of all workers' updates number t; each was computed from version
    max(0, t - d) with its own delay d. If all delays are 0, this is BSP. `lambdaml.replay_trace` fills in samples,
    losses and weights.

    Args:
        delays: A model, or the name of one: `categorical:S`, `geometric:MEAN`, `gaussian:S`.
        workers: The number of workers.
        steps: The number of optimizer steps.
        seed: The seed of the delays.
        settings: The settings of the run that the trace represents, with as many workers and steps.

    Raises:
        SettingsError: If there is no such model, or the model or the settings do not fit.
    """
    if workers < 1 or steps < 1:
        raise SettingsError(f"workers and steps must be 1 or more, not {workers} and {steps}")
    if settings is not None and (settings.workers, settings.steps) != (workers, steps):
        raise SettingsError(
            f"the settings are of {settings.workers} workers and {settings.steps} steps, not {workers} and {steps}"
        )
    model = DELAYS.make(delays) if isinstance(delays, str) else delays
    rows = []
    for step in range(steps):
        for worker, delay in enumerate(model.matrix(step, workers, 1, seed)[:, 0].tolist()):
            base = max(0, step - delay)
            fate = {"fate": "applied", "reason": "", "staleness": step - base}
            rows.append({"worker": worker, "seq": step, "commit": step, "base": base, "version": step + 1, **fate})
    meta = {
        "source": "synthetic",
        "settings": settings.model_dump() if settings else None,
        "stop": {"reason": "steps", "version": None},
        "commits": steps,
        "delays": delays if isinstance(delays, str) else type(delays).__name__,
        "seed": seed,
    }
    return Trace(rows, meta)


def _stream(seed: int, iteration: int) -> np.random.RandomState:
    # RandomState's streams are frozen by NumPy's policy; Generator's may change between releases.
    return np.random.RandomState(derive_seed("delays", seed, iteration) % 2**32)

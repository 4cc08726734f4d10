"""I-Prof: how long a piece of work takes on a device, even a new one, learnt from every run.

The idea of FLeet's profiler (Damaskinos et al., Middleware 2020, arXiv 2006.07273): what a task costs grows linearly
with its size, and the slope can be told from what the device is like,

    cost = c0 + slope(device) * size

* **Cold start.** For a device without history the slope is linear in its features, by ordinary least squares over all
  observations. If these do not determine it, the nearest one to the prior without observations is taken.
* **Personal.** A device with history has weights of its own. They start from the cold start's and follow each
  observation (x, y) as a passive-aggressive regressor does (Crammer et al., JMLR 2006, PA-I):
  w <- w + sign(y - w.x) min(C, max(0, |y - w.x| - epsilon) / |x|^2) x.

Here a *device* is a function of some size on some platform, a *size* the seconds that the profile expects of a gradient
(so that one slope serves every job and batch size, and c0 is 0), and the slope is the device's slowdown:

    iprof = IProf.open(profile)
    iprof.learn_run(device, profile, trace.rows)    # after a run
    iprof.save()
    iprof.slowdown(device)                          # for the next plan, with `Profile.costs`
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.cost.profiling.profile import Profile
from lambdaml.engines.resources import cores
from lambdaml.simulation.platform import Platform

_SCHEMA_VERSION = 1

EPSILON = 0.1
"""FLeet's epsilon: smaller errors of the latency's slope are no reason to learn."""

MOST_KEPT = 2_000
"""The number of newest observations to which the cold start is fitted."""

SLOWDOWN_EPSILON = 0.03
"""The epsilon for a slowdown, which is about 1."""

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Device:
    """The device that runs a function, in the numbers that tell how fast it is.

    Attributes:
        name: The name of the platform and the function's size. Devices of one name share a history.
        memory_mb: The memory of a function, or 0 if nothing limits it.
        vcpus: The vCPUs of a function.
        arm: Whether the architecture is arm64.
        contention: The functions that compute at a time for each core of a shared machine, at least 1.
    """

    name: str
    memory_mb: float
    vcpus: float
    arm: bool = False
    contention: float = 1.0

    @staticmethod
    def of(platform: Platform) -> Device:
        """Return the device of a platform's functions."""
        vcpus = min(platform.max_vcpus, platform.memory_mb / platform.mb_per_vcpu) if platform.mb_per_vcpu else 1.0
        return Device(f"{platform.name}:{platform.memory_mb}", platform.memory_mb, vcpus, "arm" in platform.name)

    @staticmethod
    def here(functions: int = 1, busy: float = 1.0) -> Device:
        """Return the device of this many functions that work side by side on this machine.

        Args:
            busy: The share of its time for which each of them computes, rather than waits for the store or for others.
        """
        here = cores()
        arm = os.uname().machine in ("aarch64", "arm64")
        return Device(f"local:{functions}/{here}", 0.0, 1.0, arm, max(1.0, busy * functions / here))

    def features(self) -> list[float]:
        """Return the features of the regression, all of similar size. The first is constant."""
        return [1.0, self.memory_mb / 2048, 1 / max(self.vcpus, 0.05), float(self.arm), self.contention - 1]


PRIOR = (1.0, 0.0, 0.0, 0.0, 1.0)
"""The weights of these features without any observation: a device is slower only if it shares its core."""


@dataclass(slots=True)
class SlopeModel:
    """The two regressions, for any features and units.

    Attributes:
        c0: The cost of a task of size 0.
        prior: The weights without any observation.
        epsilon: The largest error of the slope that is no reason to learn.
        aggressiveness: The longest step along x, called C. By default, steps are not limited.
        observations: The features and the slope of each observation, the oldest first.
        personal: The weights of each device that has some of its own.
    """

    c0: float
    prior: list[float]
    epsilon: float = EPSILON
    aggressiveness: float = math.inf
    observations: list[tuple[list[float], float]] = field(default_factory=list)
    personal: dict[str, list[float]] = field(default_factory=dict)
    _cold: Weights | None = None

    def cold_start(self) -> Weights:
        """Fit least squares over all observations. If these leave it open, take the nearest weights to `prior`."""
        if self._cold is None:
            prior = np.array(self.prior)
            if self.observations:
                rows = np.array([features for features, _ in self.observations])
                slopes = np.array([slope for _, slope in self.observations])
                prior = prior + np.linalg.lstsq(rows, slopes - rows @ prior, rcond=None)[0]
            self._cold = prior
        return self._cold

    def observe(self, features: Sequence[float], size: float, cost: float) -> None:
        """Learn, for devices without history, from the cost of a task of this size."""
        self.observations.append((list(features), (cost - self.c0) / size))
        del self.observations[:-MOST_KEPT]
        self._cold = None

    def correct(self, device: str, features: Sequence[float], size: float, cost: float) -> None:
        """Learn for this device."""
        x = np.array(features)
        weights = np.array(self.personal[device]) if device in self.personal else self.cold_start()
        error = (cost - self.c0) / size - float(weights @ x)
        step = min(self.aggressiveness, max(0.0, abs(error) - self.epsilon) / float(x @ x))
        self.personal[device] = (weights + math.copysign(step, error) * x).tolist()

    def slope(self, device: str, features: Sequence[float]) -> float:
        """Return the slope by the device's own weights, if any; bad extrapolation by least squares may be negative."""
        weights = np.array(self.personal[device]) if device in self.personal else self.cold_start()
        return float(weights @ np.array(features))


def learn(
    profile: Profile,
    rows: Iterable[Mapping[str, Any]],
    device: Device,
    speed: float = 1.0,
    folder: Path | None = None,
    batches: int = 1,
) -> int:
    """Learn from a run and save what was learnt; arguments are those of `IProf.learn_run` and `IProf.open`.

    Returns:
        The number of updates that were learnt from, or 0 if anything prevented it. This never raises.
    """
    try:
        iprof = IProf.open(profile, folder)
        count = iprof.learn_run(device, profile, rows, speed, batches)
        return count if count and iprof.save() else 0
    except Exception:  # the run has succeeded; only plans get a little worse
        return 0


def busy(rows: Iterable[Mapping[str, Any]], functions: int) -> float:
    """Return the share of their time for which functions computed, by a run's trace, or 1 if it does not tell."""
    known = [
        row for row in rows if row.get("compute_s") and row.get("started_s") is not None and row.get("committed_s")
    ]
    if not known:
        return 1.0
    span_s = max(row["committed_s"] for row in known) - min(row["started_s"] for row in known)
    return min(1.0, math.fsum(row["compute_s"] for row in known) / (functions * span_s)) if span_s > 0 else 1.0


def home() -> Path:
    """Return the folder that keeps what was learnt: `$LAMBDAML_HOME`, or else `~/.cache/lambdaml`."""
    return Path(os.environ.get("LAMBDAML_HOME") or Path.home() / ".cache" / "lambdaml")


class IProf:
    """The speeds that runs have shown for devices, relative to the machine on which profiles are measured.

    Args:
        path: The file that `save` writes, or None to keep nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.runs = 0
        self.model = SlopeModel(0.0, list(PRIOR), SLOWDOWN_EPSILON)

    @staticmethod
    def open(profile: Profile, folder: Path | None = None) -> IProf:
        """Load what was learnt with profiles of the same machine: nothing, if the file is missing or unreadable.

        Args:
            folder: The folder of the file; by default `home()`.
        """
        name = "-".join(f"{profile.machine.architecture} {profile.machine.processor}".lower().split())
        plain = "".join(letter if letter.isalnum() else "-" for letter in name)
        iprof = IProf((folder or home()) / f"iprof-{plain}-{profile.machine.device.partition(':')[0]}.json")
        with suppress(OSError, ValueError, KeyError, TypeError):
            iprof._load(json.loads(iprof.path.read_bytes()))  # type: ignore[union-attr]
        return iprof

    def slowdown(self, device: Device) -> float:
        """Return how many times longer work takes on the device than its platform's speed suggests."""
        return max(0.05, self.model.slope(device.name, device.features()))

    def knows(self, device: Device) -> bool:
        """Return whether a run on the device was learnt from."""
        return device.name in self.model.personal

    def learn_run(
        self,
        device: Device,
        profile: Profile,
        rows: Iterable[Mapping[str, Any]],
        speed: float = 1.0,
        batches: int = 1,
    ) -> int:
        """Learn from a run's trace, and return the number of its updates that were learnt from.

        The run is one observation, the median of its updates, so that a straggler is not mistaken for the device.

        Args:
            profile: The profile of the run's job.
            rows: The rows of a `Trace`; those with `samples` and `compute_s` count.
            speed: The speed of the device, which plans take into account separately; see `Platform.speed`.
            batches: The number of batches of an update. If there are several, an inner step follows each.
        """
        inner_s = profile.optimizer_s if batches > 1 else 0.0
        ratios = [
            row["compute_s"] * speed / (batches * (profile.step_time.step_s(row["samples"] / batches) + inner_s))
            for row in rows
            if row.get("samples") and row.get("compute_s")
        ]
        if not ratios:
            return 0
        features = device.features()
        self.model.observe(features, 1.0, median(ratios))
        self.model.correct(device.name, features, 1.0, median(ratios))
        self.runs += 1
        return len(ratios)

    def save(self) -> bool:
        """Save what was learnt, and return whether that was possible. This never raises."""
        if self.path is None:
            return False
        record = {
            "schema_version": _SCHEMA_VERSION,
            "runs": self.runs,
            "observations": self.model.observations,
            "personal": self.model.personal,
        }
        written = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(json.dumps(record, allow_nan=False))
            written.replace(self.path)
        except (OSError, ValueError):
            return False
        return True

    def _load(self, record: Mapping[str, Any]) -> None:
        if record["schema_version"] != _SCHEMA_VERSION:
            return
        observations = [([float(x) for x in features], float(slope)) for features, slope in record["observations"]]
        personal = {str(name): [float(w) for w in weights] for name, weights in record["personal"].items()}
        width = len(self.model.prior)
        if {len(row) for row in [*(f for f, _ in observations), *personal.values()]} <= {width}:
            self.model.observations, self.model.personal, self.runs = observations, personal, int(record["runs"])

"""The records of a profile: what was measured of a job, its machine and its store.

Every number has its unit in its name. Times are those of one thread on the machine that the profile names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lambdaml.simulation.channel import Channel
from lambdaml.storage.meter import MeterReading


@dataclass(frozen=True, slots=True)
class JobFacts:
    """The job that was measured.

    Attributes:
        spec, args, fingerprint: The job as run.json names it.
        samples: The samples of its data set.
        batch_size: The samples of an update, as the job has them.
        steps_per_epoch: The steps in which one worker with that batch size goes through the data set.
        parameters: The number of all parameters, as in run.json.
        model_bytes: The size of model.safetensors.
        snapshot_bytes: The size of a snapshot with the optimizer's state after a few steps.
        algorithm: The algorithm that was measured: `gradient`, or that of a job that has no gradient.
    """

    spec: str
    args: dict[str, Any]
    fingerprint: str
    samples: int
    batch_size: int
    steps_per_epoch: int
    parameters: int
    model_bytes: int
    snapshot_bytes: int
    algorithm: str = "gradient"


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """The machine on which the job was measured.

    Attributes:
        architecture: The architecture, `x86_64` or `aarch64`.
        processor: The name of the processor.
        cores: The cores that this process may use.
        memory_mb: The memory that this process may use; a MB is 2^20 bytes, as function platforms count.
        gflops: The speed of one thread that multiplies float32 matrices of 512 x 512.
        device: The device of tensor work, `cpu` or `cuda`.
        versions: The versions of Python, torch and lambdaml.
    """

    architecture: str
    processor: str
    cores: int
    memory_mb: int
    gflops: float
    device: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class ProfilingCost:
    """The cost of measuring itself.

    Attributes:
        seconds: The total seconds.
        phases_s: The seconds by what was measured.
        gradients: The gradients that were computed.
        requests: The requests to the store, by kind.
        sent_bytes, received_bytes: The bytes sent to and received from the store.
    """

    seconds: float
    phases_s: dict[str, float]
    gradients: int
    requests: dict[str, int]
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class StepPoint:
    """The times of gradients of one batch size: fetching the batch, forward, backward.

    Attributes:
        repetitions: The number of gradients that were timed.
        peak_memory_mb: The peak memory of the process.
    """

    batch_size: int
    repetitions: int
    median_s: float
    p95_s: float
    p99_s: float
    peak_memory_mb: float


@dataclass(frozen=True, slots=True)
class StepTime:
    """The time of a gradient, `overhead_s + slope_s_per_sample * batch_size`, and its spread.

    Attributes:
        sigma: The sigma of the lognormal distribution of the times about their median.
        p95_over_p50, p99_over_p50: The percentiles of all measured times, each over the median of its batch size.
        worst_fit_error: The largest relative distance of a point's median from the line.
        points: The points that were measured, one for each batch size.
    """

    overhead_s: float
    slope_s_per_sample: float
    sigma: float
    p95_over_p50: float
    p99_over_p50: float
    worst_fit_error: float
    points: tuple[StepPoint, ...]

    def step_s(self, batch_size: float) -> float:
        """Return the median seconds of a gradient of this many samples."""
        return self.overhead_s + self.slope_s_per_sample * batch_size


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """The peak memory of a process with one replica, `base_mb + slope_mb_per_sample * batch_size`, in MB of 2^20 bytes.

    A function also holds updates that were read and not yet applied: see `Profile.function_mb`.
    """

    base_mb: float
    slope_mb_per_sample: float

    def peak_mb(self, batch_size: float) -> float:
        """Return the peak memory at this batch size."""
        return self.base_mb + self.slope_mb_per_sample * batch_size


@dataclass(frozen=True, slots=True)
class LargeUpdate:
    """The times of a codec with the job's vector so many times in a row; see `CodecFacts`."""

    times: int
    encode_s: float
    read_s: float
    apply_s: float


@dataclass(frozen=True, slots=True)
class CodecFacts:
    """The costs of one codec.

    Attributes:
        update_bytes: The bytes of an update's payload. Its header adds some 400 bytes.
        encode_s: The seconds for encoding a gradient and packing it.
        read_s: The seconds for checking an incoming update: checksum, shapes, finite numbers.
        apply_s: The seconds for decoding an update and adding it to the sum of an optimizer step.
        large: The times with the job's vectors repeated, or None if these are large enough themselves. What an update
            takes whatever its size hides what its numbers take if they are few.
    """

    update_bytes: int
    encode_s: float
    read_s: float
    apply_s: float
    large: LargeUpdate | None = None

    def grown(self, times: float) -> CodecFacts:
        """Return the costs with vectors so many times as large. What they take lies on a line through what was measured,
        or through zero if that was one size."""
        large, far = self.large, self.large.times if self.large is not None else 1

        def at(own_s: float, large_s: float) -> float:
            if far == 1:
                return times * own_s
            return max(0.0, own_s + (times - 1) * max(0.0, large_s - own_s) / (far - 1))

        pairs = ((getattr(self, name), getattr(large, name, 0.0)) for name in ("encode_s", "read_s", "apply_s"))
        encode_s, read_s, apply_s = (at(*pair) for pair in pairs)
        return CodecFacts(round(times * self.update_bytes), encode_s, read_s, apply_s)


@dataclass(frozen=True, slots=True)
class RequestTime:
    """The times of one kind of request, with objects of 1 KB."""

    count: int
    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """The measurements of a store from here.

    Attributes:
        url: The URL of the place that was measured.
        request_times: The times of requests by kind, as a meter names kinds.
        read_bytes_per_s, write_bytes_per_s: The bandwidth of one connection without its latency, or None if the time of
            the bytes could not be told from the latency.
        reading: The meter's reading of the small requests alone; see `MeterReading.to_dict`.
    """

    url: str
    request_times: dict[str, RequestTime]
    read_bytes_per_s: float | None
    write_bytes_per_s: float | None
    reading: dict[str, Any]

    def channel(self, like: Channel | None = None) -> Channel:
        """Return the store for a simulation, with the limits of the channel that it is `like`.

        The bandwidth is that of reads, since an update is written once and read by every other function.
        """
        return Channel.measured(MeterReading.from_dict(self.reading), self.read_bytes_per_s or math.inf, like)


@dataclass(frozen=True, slots=True)
class NoisePoint:
    """The noise of gradients at one version of a training.

    Attributes:
        gradient_sq: The estimate of |G|^2, where G is the true gradient; noise may make it negative.
        trace_sigma: The estimate of tr(Sigma), where Sigma is the covariance of one sample's gradient.
    """

    version: int
    gradient_sq: float
    trace_sigma: float

    @property
    def noise_scale_samples(self) -> float | None:
        """The noise scale B_simple, or None if the gradient drowns in the noise."""
        return self.trace_sigma / self.gradient_sq if self.gradient_sq > 0 and self.trace_sigma > 0 else None


@dataclass(frozen=True, slots=True)
class NoiseScale:
    """The gradient noise scale; see `lambdaml.cost.profiling.noise`.

    Attributes:
        samples: The noise scale B_simple, which is the median over the points, or None if no point has one.
        small_batch, large_batch: The batch sizes from which it is estimated.
        batches: The small batches of each point.
        points: The points along the training.
    """

    samples: float | None
    small_batch: int
    large_batch: int
    batches: int
    points: tuple[NoisePoint, ...]


@dataclass(frozen=True, slots=True)
class CoherenceFacts:
    """Gradient coherence along a training with one worker; see `lambdaml.training.coherence`.

    Attributes:
        steps: The optimizer steps of that training.
        reference_samples: The samples of the fixed set on which gradients are compared.
        cosine: The mean cosine over the later half of the training, by lag in steps.
        mu: The least projection of a lag or a shorter one, by lag in steps; the theorem's mu is at most that.
        tolerance_steps: The largest staleness at which a stale step is worth at least half a fresh one.
        tolerance_at_least: Whether the tolerance may be larger, because no measured lag was too long.
    """

    steps: int
    reference_samples: int
    cosine: dict[int, float]
    mu: dict[int, float]
    tolerance_steps: float
    tolerance_at_least: bool

"""The measurements of a job, its machine and its store, kept as a file from which plans are made.

    profile = Profile.load("digits.profile.json")
    profile.costs(batch_size=64, codec="bf16")      # the input of a simulation; see `lambdaml.simulation`

`lambdaml.cost.profiling.measure` finds the numbers. Every number has its unit in its name. Times are those of one
thread on the machine that the profile names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lambdaml.algorithms import GRADIENT
from lambdaml.cost.planning.pilot import PilotRun
from lambdaml.cost.profiling.startup import Startup
from lambdaml.errors import NewerSchema, UserError, nearest
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from lambdaml.storage.meter import MeterReading
from lambdaml.training.footprint import footprint, outer_share, remembered_bytes
from lambdaml.worker.window import MAX_UNAPPLIED, most_bytes

SCHEMA_VERSION = 1

MEASURED = "measured"
"""The name of a profile's own store, where stores are chosen by name."""


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
class CodecFacts:
    """The costs of one codec.

    Attributes:
        update_bytes: The bytes of an update's payload. Its header adds some 400 bytes.
        encode_s: The seconds for encoding a gradient and packing it.
        read_s: The seconds for checking an incoming update: checksum, shapes, finite numbers.
        apply_s: The seconds for decoding an update and adding it to the sum of an optimizer step.
    """

    update_bytes: int
    encode_s: float
    read_s: float
    apply_s: float


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


@dataclass(frozen=True, slots=True)
class Profile:
    """The measurements of a job.

    Attributes:
        measured_on: The date and time in UTC, ISO 8601.
        spent: The cost of measuring itself.
        optimizer_s: The seconds of an optimizer step, without decoding and adding its updates.
        snapshot_s: The seconds for copying and serialising the state.
        update_norm: The median 2-norm of a gradient of the job's own batch size.
        codecs: The costs of every codec that needs no parameter, by name.
        store: The store that was measured, or None if none was named.
        startup: The start of a function, or None if only this process can import the job.
        target: The target of the pilots, or None without them.
        pilot: The pilots, which say how many optimizer steps the target takes.
    """

    measured_on: str
    job: JobFacts
    machine: MachineFacts
    spent: ProfilingCost
    step_time: StepTime
    memory: MemoryModel
    optimizer_s: float
    snapshot_s: float
    update_norm: float
    codecs: dict[str, CodecFacts]
    store: StoreFacts | None
    noise: NoiseScale | None
    coherence: CoherenceFacts | None
    startup: Startup | None = None
    target: str | None = None
    pilot: tuple[PilotRun, ...] = ()

    def placed(self, platform: Platform, functions: int = 1, slowdown: float = 1.0) -> Platform:
        """Return the platform, with the time that functions take to start with this job.

        A platform's own cold start is for a function that imports torch; the job's import and data are added to it.
        Functions of this machine start as they were measured, and share its cores.
        """
        if self.startup is None:
            return platform
        cold, slowest = platform.cold_start_s
        job_s = slowdown * self.startup.job_s / platform.speed()
        if platform.name == "local":
            cold = slowest = self.startup.import_s
            job_s = self.startup.job_s * max(1.0, functions / self.machine.cores)
        return replace(platform, cold_start_s=(cold + job_s, slowest + job_s))

    def function_mb(self, batch_size: float, workers: int, algorithm: str = "gradient", hosted: int = 1) -> float:
        """Return the most memory that a function needs: the measured memory, the updates that it may hold, and what
        local steps and memories take.

        Args:
            hosted: The number of the function's workers.
        """
        update_bytes = max(codec.update_bytes for codec in self.codecs.values())
        held_bytes = most_bytes(update_bytes, MAX_UNAPPLIED * workers)
        parts = Parts.of(RunOptions(algorithm=algorithm))
        if GRADIENT not in parts.algorithm.gives:
            held_bytes += footprint(
                parts,
                update_bytes,
                self._inner_bytes,
                update_bytes,
                outer_share=outer_share(parts.algorithm),
                workers=workers,
                hosted=hosted,
            ).algorithm_bytes
        return self.memory.peak_mb(batch_size) + held_bytes / 2**20

    @property
    def _inner_bytes(self) -> int:
        """The size of the state of the job's own optimizer."""
        return max(0, self.job.snapshot_bytes - self.job.model_bytes)

    def costs(
        self,
        batch_size: float | None = None,
        codec: str = "fp32",
        slowdown: float = 1.0,
        algorithm: str = "gradient",
    ) -> Costs:
        """Return the costs of the job for a simulation.

        Args:
            batch_size: The samples of a batch. Defaults to the job's own.
            algorithm: The algorithm. With local steps, each gradient is followed by an inner step.
            slowdown: How many times longer a function computes than one thread of the machine that was measured; see
                `lambdaml.cost.profiling.iprof`.

        Raises:
            UserError: If the profile knows no such codec.
        """
        facts = self.codecs.get(codec)
        if facts is None:
            raise UserError(f"the profile has no codec {codec!r}{nearest(codec, self.codecs)}")
        parts = Parts.of(RunOptions(algorithm=algorithm, codec=codec))
        inner_s, inner_bytes = 0.0, 0
        if GRADIENT not in parts.algorithm.gives:
            inner_s, inner_bytes = self.optimizer_s, self._inner_bytes
        vector_bytes = self.codecs["fp32"].update_bytes
        return Costs(
            step_s=slowdown * (self.step_time.step_s(batch_size or self.job.batch_size) + inner_s),
            encode_s=slowdown * facts.encode_s,
            apply_s=slowdown * self.optimizer_s,
            apply_update_s=slowdown * (facts.read_s + facts.apply_s),
            update_bytes=facts.update_bytes,
            snapshot_bytes=self.job.snapshot_bytes,
            memory_bytes=remembered_bytes(parts, vector_bytes, facts.update_bytes, inner_bytes),
        )

    def dump(self, path: str | Path) -> None:
        """Write the profile as JSON.

        Raises:
            UserError: If the file cannot be written.
        """
        text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=2, allow_nan=False)
        try:
            Path(path).write_text(text + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error

    @staticmethod
    def load(path: str | Path) -> Profile:
        """Read what `dump` wrote.

        Raises:
            UserError: If the file cannot be read, or is not a profile; the message names the field.
            NewerSchema: If a newer lambdaml wrote the file.
        """
        try:
            record = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from None
        return Profile.of(record, str(path))

    @staticmethod
    def of(record: Any, name: str = "the profile") -> Profile:
        """Return the profile from plain values. Raises what `load` raises."""
        from pydantic import ValidationError

        from lambdaml.settings import first_error

        if not isinstance(record, Mapping) or "schema_version" not in record:
            raise UserError(f"{name} is no profile: write one with 'lambdaml profile JOB --out FILE'")
        version = record["schema_version"]
        if not isinstance(version, int) or version < 1:
            raise UserError(f"{name} is no profile: its schema_version is {version!r}")
        if version > SCHEMA_VERSION:
            raise NewerSchema(f"{name} has schema_version {version}, this lambdaml reads up to {SCHEMA_VERSION}")
        fields = {key: value for key, value in record.items() if key != "schema_version"}
        if unknown := sorted(set(fields) - set(Profile.__dataclass_fields__)):
            raise UserError(f"{name}: a profile has no field {unknown[0]!r}")
        try:
            profile: Profile = _adapter().validate_python(fields)
        except ValidationError as error:
            raise UserError(f"{name}: {first_error(error)}") from None
        return profile


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Profile)

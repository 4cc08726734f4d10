"""Platforms of functions in the virtual world, with their starts, speeds, lifetimes and preemptions.

    platform = Platform.parse("lambda-arm:1769")            # memory in MB; or local, spot:3600, lambdaml-2021, ...
    platform.start_delay_s(150) + platform.start_s(random)  # when the 151st function begins to work

This does no I/O and needs no clock. The caller supplies chance, as a function that gives uniform numbers in [0, 1),
such as `random.Random(seed).random`. Seconds are rounded to 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from lambdaml.registry import Registry
from lambdaml.storage.latency import lognormal

Uniform = Callable[[], float]

LAMBDA_MB_PER_VCPU = 1769
LAMBDA_MB = (128, 10_240)
LAMBDA_LIFETIME_S = 900.0

MANAGED_INSTANCES = 3
"""The instances that Lambda Managed Instances start with, and keep."""

DETECT_S = 0.5
"""The assumed seconds until an engine replaces a function that died or left."""


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform that runs functions.

    Attributes:
        name: The name of the preset.
        spec: The text from which it was parsed. It plays no part in comparisons.
        cold_start_s, warm_start_s: The median and 99th percentile (lognormal) from asking for a function to its first
            line. A start is warm if the predecessor left an environment.
        ramp: Rising points (functions, seconds) that say how long it takes until as many may start; see
            `start_delay_s`.
        memory_mb: The memory of a function, or 0 if it is not limited.
        max_vcpus: The most vCPUs of a function. If `mb_per_vcpu` is given, memory determines them up to that.
        mb_per_vcpu: The memory in MB that comes with one vCPU, or 0 if memory does not determine the vCPUs.
        lifetime_s: The seconds after which a function is ended.
        preemption_mean_s: The mean life until a preemption, exponentially distributed, or infinity for no preemptions.
        notice_s: The seconds before a preemption at which the function hears of it.
        bandwidth_bytes_per_s: The bandwidth of a function's whole network.
    """

    name: str
    cold_start_s: tuple[float, float] = (0.0, 0.0)
    warm_start_s: tuple[float, float] = (0.0, 0.0)
    ramp: tuple[tuple[int, float], ...] = ()
    memory_mb: int = 0
    max_vcpus: float = math.inf
    mb_per_vcpu: float = 0.0
    lifetime_s: float = math.inf
    preemption_mean_s: float = math.inf
    notice_s: float = 0.0
    bandwidth_bytes_per_s: float = math.inf
    spec: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Raise ValueError for a function that could never do a step."""
        for name in ("lifetime_s", "preemption_mean_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name):g}")
        if not self.notice_s >= 0:
            raise ValueError(f"notice_s must not be negative, but is {self.notice_s:g}")

    @staticmethod
    def parse(text: str) -> Platform:
        """Parse a preset's name and parameters: `local`, `lambda-arm:3008`, `spot:preemption_mean_s=3600`.

        Raises:
            SettingsError: If there is no such preset (the nearest are shown), or it does not take the parameters.
        """
        return replace(PLATFORMS.make(text), spec=text)

    def start_s(self, uniform: Uniform, warm: bool = False) -> float:
        """Draw the seconds that one start takes."""
        return round(lognormal(*(self.warm_start_s if warm else self.cold_start_s), uniform()), 9)

    def start_delay_s(self, index: int) -> float:
        """Return the seconds until function `index` (0, 1, ...) of those asked for at once may start.

        It follows straight lines between the points of the ramp. Before the first point it is that point's, and after
        the last it has the slope of the last two.
        """
        if not self.ramp:
            return 0.0
        count, (_, delay) = index + 1, self.ramp[0]
        for last, ((n0, s0), (n1, s1)) in enumerate(pairwise(self.ramp), start=2):
            if n0 < count and (count <= n1 or last == len(self.ramp)):
                delay = s0 + (count - n0) * (s1 - s0) / (n1 - n0)
        return round(delay, 9)

    def speed(self, threads: int = 1) -> float:
        """Return the speed of compute relative to one thread on a whole vCPU.

        More threads are faster by their number, up to the vCPUs, which is true for large tensors at best. A function
        with less than a vCPU is slower by its share.
        """
        return min(float(threads), self.vcpus)

    @property
    def vcpus(self) -> float:
        """The vCPUs of a function."""
        return min(self.max_vcpus, self.memory_mb / self.mb_per_vcpu) if self.mb_per_vcpu else self.max_vcpus

    def preemption_s(self, uniform: Uniform) -> float:
        """Draw the seconds from a function's start to its preemption, which are infinite without preemptions."""
        unit = uniform()
        return math.inf if math.isinf(self.preemption_mean_s) else round(-self.preemption_mean_s * math.log1p(-unit), 9)


def local(lifetime_s: float = math.inf, preemption_mean_s: float = math.inf, notice_s: float = 0.0) -> Platform:
    """Return the platform of processes of one machine."""
    return Platform(
        "local",
        cold_start_s=(2.3, 2.3),
        warm_start_s=(0.01, 0.01),
        lifetime_s=lifetime_s,
        preemption_mean_s=preemption_mean_s,
        notice_s=notice_s,
    )


def lambda_x86(memory_mb: int = LAMBDA_MB_PER_VCPU, lifetime_s: float = LAMBDA_LIFETIME_S) -> Platform:
    """Return AWS Lambda on x86-64, with an image that holds torch. Raises ValueError for what AWS does not offer."""
    return _aws_lambda("lambda-x86", memory_mb, lifetime_s)


def lambda_arm(memory_mb: int = LAMBDA_MB_PER_VCPU, lifetime_s: float = LAMBDA_LIFETIME_S) -> Platform:
    """Return AWS Lambda on Graviton, with an image that holds torch. Raises ValueError for what AWS does not offer."""
    return _aws_lambda("lambda-arm", memory_mb, lifetime_s)


def spot(preemption_mean_s: float = 10 * 730 * 3600.0, notice_s: float = 120.0) -> Platform:
    """Return a platform with one function per EC2 spot instance, m7g.large."""
    return Platform(
        "spot",
        cold_start_s=(60.0, 120.0),
        warm_start_s=(2.3, 5.0),
        memory_mb=8192,
        max_vcpus=2.0,
        preemption_mean_s=preemption_mean_s,
        notice_s=notice_s,
        bandwidth_bytes_per_s=117e6,
    )


def durable(memory_mb: int = LAMBDA_MB_PER_VCPU, lifetime_s: float = LAMBDA_LIFETIME_S) -> Platform:
    """Return functions of AWS Lambda on Graviton that a durable execution invokes one after the other."""
    return _aws_lambda("durable", memory_mb, lifetime_s)


def microvm(memory_mb: int = 2048) -> Platform:
    """Return AWS Lambda MicroVMs at their baseline, on Graviton, from a snapshot that has imported torch."""
    return Platform(
        "microvm",
        cold_start_s=(1.0, 5.0),
        warm_start_s=(1.0, 5.0),
        memory_mb=_offered("Lambda MicroVMs", memory_mb, 512, 8192),
        max_vcpus=4.0,
        mb_per_vcpu=2048,
        lifetime_s=8 * 3600.0,
        bandwidth_bytes_per_s=78.6e6,
    )


def managed() -> Platform:
    """Return Lambda Managed Instances, one function per m7g.large, of which three stand and whose number doubles in five
    minutes."""
    return Platform(
        "managed",
        cold_start_s=(7.0, 15.0),
        warm_start_s=(0.05, 0.2),
        ramp=tuple((MANAGED_INSTANCES << doubled, 300.0 * doubled) for doubled in range(12)),
        memory_mb=8192,
        max_vcpus=2.0,
        lifetime_s=90 * 60.0,
        bandwidth_bytes_per_s=117e6,
    )


def fargate(memory_mb: int = 2048) -> Platform:
    """Return tasks of AWS Fargate on x86-64, with the least memory for their vCPUs."""
    return Platform(
        "fargate",
        cold_start_s=(60.0, 90.0),
        warm_start_s=(60.0, 90.0),
        memory_mb=_offered("Fargate", memory_mb, 512, 32_768),
        max_vcpus=16.0,
        mb_per_vcpu=2048,
        bandwidth_bytes_per_s=78.6e6,
    )


def batch_spot(preemption_mean_s: float = 10 * 730 * 3600.0, notice_s: float = 120.0) -> Platform:
    """Return jobs of AWS Batch on EC2 spot, each on one of the eight vCPUs of a c5.2xlarge."""
    return Platform(
        "batch-spot",
        cold_start_s=(600.0, 900.0),
        warm_start_s=(2.3, 5.0),
        memory_mb=2048,
        max_vcpus=1.0,
        preemption_mean_s=preemption_mean_s,
        notice_s=notice_s,
        bandwidth_bytes_per_s=78.6e6,
    )


def cloud_run(memory_mb: int = 2048) -> Platform:
    """Return tasks of a Google Cloud Run job, with 2 GiB for each vCPU."""
    return Platform(
        "cloud-run",
        cold_start_s=(10.0, 30.0),
        warm_start_s=(10.0, 30.0),
        memory_mb=_offered("Cloud Run", memory_mb, 512, 16_384),
        max_vcpus=8.0,
        mb_per_vcpu=2048,
        lifetime_s=168 * 3600.0,
        bandwidth_bytes_per_s=78.6e6,
    )


def lambdaml_2021(memory_mb: int = 3008) -> Platform:
    """Return AWS Lambda as LambdaML's analytic model has it."""
    return replace(
        _aws_lambda("lambdaml-2021", memory_mb, LAMBDA_LIFETIME_S),
        cold_start_s=(0.0, 0.0),
        warm_start_s=(0.0, 0.0),
        ramp=((10, 1.2), (50, 11.0), (100, 18.0), (200, 35.0)),
        bandwidth_bytes_per_s=84e6,
    )


def _aws_lambda(name: str, memory_mb: int, lifetime_s: float) -> Platform:
    if lifetime_s > LAMBDA_LIFETIME_S:
        raise ValueError(f"Lambda ends functions after {LAMBDA_LIFETIME_S:g} s, not {lifetime_s:g}")
    return Platform(
        name,
        cold_start_s=(7.0, 15.0),
        warm_start_s=(0.05, 0.2),
        ramp=((1000, 0.0), (2000, 10.0)),
        memory_mb=_offered("Lambda", memory_mb, *LAMBDA_MB),
        max_vcpus=6.0,
        mb_per_vcpu=LAMBDA_MB_PER_VCPU,
        lifetime_s=lifetime_s,
        bandwidth_bytes_per_s=78.6e6,
    )


def _offered(product: str, memory_mb: int, least: int, most: int) -> int:
    if not least <= memory_mb <= most:
        raise ValueError(f"{product} offers {least} to {most} MB, not {memory_mb}")
    return memory_mb


NAMES = (
    *("local", "lambda-x86", "lambda-arm", "spot"),
    *("durable", "microvm", "managed", "fargate", "batch-spot", "cloud-run"),
    "lambdaml-2021",
)
"""The names of the presets."""

PUBLISHED = ("lambdaml-2021",)
"""The presets that are published models of earlier years, and no offers."""

PLATFORMS: Registry[Platform] = Registry(
    "platform",
    {name: f"{__name__}:{name.replace('-', '_')}" for name in NAMES},
)
"""The presets, as of November 2026, for us-east-1. `lambdaml.cost.billing.prices` has their prices. This
project measured none of them on AWS.

| number                     | value                  | source                                                         |
|----------------------------|------------------------|----------------------------------------------------------------|
| local, cold start          | 2.3 s                  | measured: import of torch, 2 vCPU, November 2026               |
| local, warm start          | 10 ms                  | assumed: a fork of the server that has imported it             |
| Lambda, cold start         | median 7 s, p99 15 s   | quoted 5-10 s for images with torch (ewumesh); p99 assumed     |
| Lambda, warm start         | 50 ms, p99 200 ms      | assumed                                                        |
| Lambda, ramp               | 1,000, then 100 a s    | AWS Lambda guide, scaling-behavior.html, 2025                  |
| Lambda, speed              | 1,769 MB = 1, up to 6  | AWS Lambda guide, 2025; Graviton assumed as fast as x86        |
| Lambda, lifetime           | 900 s                  | AWS Lambda guide, 2025                                         |
| Lambda, bandwidth          | 78.6 MB/s              | 75 MiB/s sustained: Skyrise, arXiv 2501.07771, from memory     |
| spot, preemption           | a tenth a month        | 5-10 % a month on average, finopsforge.com; notice 120 s: AWS  |
| spot, starts               | 60 s, p99 120 s        | assumed; warm: import of torch                                 |
| spot, bandwidth            | 117 MB/s               | 0.937 Gbit/s, AWS's baseline of m7g.large, from memory         |
| durable                    | as lambda-arm          | AWS Lambda guide: each invocation still ends after 900 s       |
| microvm, starts            | 1 s, p99 5 s           | assumed, from a snapshot that has imported torch               |
| microvm, lifetime          | 8 h                    | infoq.com, June 2026                                           |
| microvm, speed             | 2 GB = 1, up to 4      | baselines, wabi-tech.com, June 2026; bursts to 4x left out     |
| managed, ramp              | 3, doubled each 5 min  | AWS Lambda guide, lambda-managed-instances, 2026; throttled    |
|                            |                        | beyond; assumed one function per instance                      |
| managed, lifetime          | 90 min                 | AWS Lambda guide, 2026, for asynchronous invocations           |
| managed, starts            | as Lambda              | assumed; of instances that stand                               |
| fargate, starts            | 60 s, p99 90 s         | 30 to 90 s: Vantage handbook, batch-pricing, November 2026     |
| batch-spot, starts         | 600 s, p99 900 s       | 5 to 15 min: the same; warm: import of torch                   |
| cloud-run, starts          | 10 s, p99 30 s         | assumed                                                        |
| cloud-run, lifetime        | 168 h                  | Google Cloud Run guide, task-timeout, 2026                     |
| these six, bandwidth       | 78.6 MB/s; managed 117 | assumed: that of Lambda, and of m7g.large                      |
| lambdaml-2021, ramp        | 1.2, 11, 18, 35 s      | t_F at 10, 50, 100, 200: LambdaML, arXiv 2105.07806, table 6,  |
|                            |                        | from memory; it includes the start itself                      |
| lambdaml-2021, bandwidth   | 84 MB/s                | lambdaDNN, us-east-1, 2020                                     |
| lambdaml-2021, memory      | 3,008 MB               | Lambda's largest then, from memory                             |

Lambda's bursts (some 300 MiB at 1.2 GiB/s) and the account's limit of 1,000 concurrent functions are not modelled.
Accelerators are preempted far more often than the average, so give `spot` a mean of your own for them.
"""

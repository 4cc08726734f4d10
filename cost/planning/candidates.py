"""What could be run: every schedule, number of workers, batch, memory, codec and store that was not ruled out.

Schedules come from their registry (`SCHEDULES.variants`) and codecs from the profile, so that a new one is planned
with as soon as it is registered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lambdaml.cost.profiling.profile import MEASURED, Profile
from lambdaml.engines import functions_for
from lambdaml.errors import SettingsError
from lambdaml.schedules import SCHEDULES
from lambdaml.simulation.platform import LAMBDA_MB_PER_VCPU, Platform
from lambdaml.storage.url import StoreURL

REMOTE = ("s3", "gs", "az")
"""Schemes of stores that functions on other machines can reach."""

HEADROOM = 1.15
"""Of memory over what a function needs by what was measured."""

MEMORY_SHARES = (0.5, 1.0)
"""Of the memory at which a function has a whole core; more buys a thread of compute nothing."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a job; `platform` and `channel` are specs, memory included."""

    schedule: str
    workers: int
    batch_size: int
    codec: str
    channel: str
    platform: str

    def __str__(self) -> str:
        return f"{self.schedule}, {self.workers} worker{'s' if self.workers > 1 else ''} x {self.batch_size}, " + (
            f"{self.codec}, {self.platform}, {self.channel}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """What may be chosen. Where a field is empty, everything that makes sense is tried.

    Attributes:
        workers: least and most; powers of two between, and both.
        channels, platforms: a platform that bills memory and names none gets some. By default Lambda; and the store that
            the profile measured, where functions of the platform can reach it, or else a disk for `local` and S3.
        functions: that there is room for at a time; by default what `train` starts here on `local`, and elsewhere one for
            each worker.
    """

    workers: tuple[int, int] = (1, 64)
    schedules: Sequence[str] = ()
    batch_sizes: Sequence[int] = ()
    codecs: Sequence[str] = ()
    channels: Sequence[str] = ()
    platforms: Sequence[str] = ("lambda-arm",)
    functions: int | None = None

    def functions_for(self, candidate: Candidate) -> int:
        """Functions that the candidate's workers share."""
        if Platform.parse(candidate.platform).name == "local":
            return functions_for(candidate.workers, self.functions)
        return min(candidate.workers, self.functions or candidate.workers)

    def candidates(self, profile: Profile) -> list[Candidate]:
        """All of them.

        Raises:
            SettingsError: there is none, or one of the names does not exist.
        """
        least, most = self.workers
        if not 1 <= least <= most:
            raise SettingsError(f"workers: write LEAST..MOST, such as 1..64, not {least}..{most}")
        batches = self.batch_sizes or (profile.job.batch_size, 2 * profile.job.batch_size)
        found = [
            Candidate(schedule, workers, batch, codec, channel, platform)
            for workers in _powers(least, min(most, profile.job.samples))
            for schedule in self._schedules(workers)
            for batch in batches
            if workers * batch <= max(profile.job.samples, batches[0])
            for platform in self._platforms(profile, batch, workers)
            for codec in self.codecs or profile.codecs
            for channel in self.channels or [_channel(profile, platform)]
        ]
        if not found:
            raise SettingsError("no schedule, platform and number of workers fit what was asked for")
        return found

    def _schedules(self, workers: int) -> list[str]:
        if not self.schedules:
            return SCHEDULES.variants(workers)
        return [spec for spec in self.schedules if SCHEDULES.make(spec).needs(workers) <= workers]

    def _platforms(self, profile: Profile, batch_size: int, workers: int) -> Iterator[str]:
        for spec in self.platforms:
            platform = Platform.parse(spec)
            if ":" in spec or not platform.mb_per_vcpu:
                yield spec
                continue
            needed = HEADROOM * profile.function_mb(batch_size, workers)
            sizes = {round(LAMBDA_MB_PER_VCPU * share) for share in MEMORY_SHARES}
            fitting = sorted(size for size in sizes if size >= needed)
            for size in fitting or [64 * -(-int(needed) // 64)]:
                yield f"{spec}:{size}"


def _channel(profile: Profile, platform: str) -> str:
    """The store that functions of the platform would most likely share."""
    near = platform.partition(":")[0] == "local"
    if profile.store is not None and (near or StoreURL.parse(profile.store.url).scheme in REMOTE):
        return MEASURED
    return "disk" if near else "s3-standard"


def _powers(least: int, most: int) -> list[int]:
    counts = {least, most}
    power = 1
    while power < most:
        if power > least:
            counts.add(power)
        power *= 2
    return sorted(count for count in counts if count <= most)

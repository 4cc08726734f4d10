"""The candidates of a plan: every schedule, number of workers, batch, memory, codec and store that was not ruled out.

Schedules come from their registry (`SCHEDULES.variants`) and codecs from the profile, so that a new one takes part in
plans as soon as it is registered. A codec that needs error feedback was piloted without staleness, so it is combined with
schedules in rounds. Platforms and stores are parsed here, and nowhere else in a plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from lambdaml.algorithms import ALGORITHMS, STATISTICS, Algorithm
from lambdaml.codecs import CODECS
from lambdaml.cost.planning.codec_choice import fitting_codecs, proposed_codecs
from lambdaml.cost.planning.exchange import Route
from lambdaml.cost.planning.pattern_choice import PLAINEST, quicker_patterns
from lambdaml.cost.profiling.profile import MEASURED, Profile
from lambdaml.engines import functions_for
from lambdaml.errors import SettingsError
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.patterns import PATTERNS
from lambdaml.schedules import SCHEDULES, delay_of, in_rounds, rounds_at_once
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.platform import Platform
from lambdaml.storage.url import StoreURL
from lambdaml.training.sampling import Sampler

GRADIENTS = "gradient"
"""The algorithm of a candidate, unless another one was asked for."""

REMOTE = ("s3", "gs", "az")
"""The schemes of stores that functions on other machines can reach."""

HEADROOM = 1.15
"""The memory of a function over the memory that it needs according to the measurement."""

MEMORY_SHARES = (0.5, 1.0)
"""The memory sizes to try, over the one at which a function has a whole core; one thread gains nothing beyond that."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a job.

    Attributes:
        schedule, codec: The schedule and the codec, as `train` takes them.
        batch_size: The samples of a batch.
        channel: The store that the functions share.
        platform: The platform that the functions run on, memory included.
        algorithm: The algorithm, as `train` takes it.
        pattern: The pattern, as `train` takes it.
    """

    schedule: str
    workers: int
    batch_size: int
    codec: str
    channel: Channel
    platform: Platform
    algorithm: str = GRADIENTS
    pattern: str = PLAINEST

    def __str__(self) -> str:
        schedule = self.schedule if self.algorithm == GRADIENTS else f"{self.schedule}, {self.algorithm}"
        schedule += "" if self.pattern == PLAINEST else f", {self.pattern}"
        return f"{schedule}, {self.workers} worker{'s' if self.workers > 1 else ''} x {self.batch_size}, " + (
            f"{self.codec}, {self.platform.spec}, {self.channel.name}"
        )

    @property
    def parts(self) -> Parts:
        """The parts of the candidate's run."""
        return _parts(self.schedule, self.algorithm, self.codec)

    def per_epoch(self, samples: int) -> int:
        """Return the batches of a worker in an epoch, if the data set has this many samples."""
        return Sampler(samples, self.workers, self.batch_size, 0).steps_per_epoch

    def batches(self, samples: int) -> int:
        """Return the most batches that an update covers, if the data set has this many samples."""
        return _algorithm(self.algorithm).batches(self.per_epoch(samples))

    def values(self) -> dict[str, Any]:
        """Return all plain values, with the channel and the platform as they were written."""
        names = ("schedule", "workers", "batch_size", "codec")
        plain = {name: getattr(self, name) for name in names}
        places = {"channel": self.channel.name, "platform": self.platform.spec}
        return {**plain, **places, "algorithm": self.algorithm, "pattern": self.pattern}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the algorithm `gradient` and the pattern `gather`."""
        usual = {"algorithm": GRADIENTS, "pattern": PLAINEST}
        return {name: value for name, value in self.values().items() if usual.get(name) != value}


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The options from which a plan may choose. If a field is empty, the plan tries everything that makes sense.

    Raises:
        SettingsError: If one of the schedules does not exist, or cannot be planned.

    Attributes:
        workers: The least and the most workers. The plan tries both, and the powers of two between them.
        schedules, codecs: The schedules and the codecs, as `train` takes them. Codecs default to those of the profile that
            may be proposed; see `lambdaml.cost.planning.codec_choice`.
        algorithms: The algorithms, as `train` takes them. Defaults to `gradient` alone.
        patterns: The patterns, as `train` takes them; each is combined with what it goes with. Defaults to `gather`, and
            for each candidate the one whose steps are markedly quicker by formula, if there is one.
        batch_sizes: The samples of a batch. Defaults to the job's own and twice as many.
        channels: The stores by name (see `lambdaml.simulation.channel`); `measured` is the profile's own.
            Defaults to that one if functions of the platform can reach it, or else to a disk for `local` and to S3 for
            other platforms.
        platforms: The platforms by name (see `lambdaml.simulation.platform`). If a platform bills memory and its name
            gives none, it gets some sizes that suffice.
        functions: The number of functions that may run at a time. Defaults to the number that `train` starts here on
            `local`, and elsewhere to one for each worker.
    """

    workers: tuple[int, int] = (1, 64)
    schedules: Sequence[str] = ()
    batch_sizes: Sequence[int] = ()
    codecs: Sequence[str] = ()
    channels: Sequence[str] = ()
    platforms: Sequence[str] = ("lambda-arm",)
    functions: int | None = None
    algorithms: Sequence[str] = ()
    patterns: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in self.schedules:
            if delay_of(SCHEDULES.make(name)):
                raise SettingsError(
                    f"schedule {name!r} cannot be planned, because its rounds overlap: plan 'bsp', and simulate it"
                )
            if rounds_at_once(SCHEDULES.make(name)):
                raise SettingsError(
                    f"schedule {name!r} cannot be planned, because workers have models of their own: plan 'bsp', and simulate it"
                )

    @property
    def algorithm_names(self) -> tuple[str, ...]:
        """The algorithms to try.

        Raises:
            SettingsError: If one of them does not exist, or cannot be planned.
        """
        for name in self.algorithms:
            if STATISTICS in ALGORITHMS.make(name).gives:
                raise SettingsError(
                    f"algorithm {name!r} cannot be planned, because its steps are the same with any workers, schedule and "
                    "codec: simulate it"
                )
            if ALGORITHMS.make(name).summands > 1:
                raise SettingsError(
                    f"algorithm {name!r} cannot be planned: plan 'gradient' for as many workers as it sums over"
                )
            if ALGORITHMS.make(name).clocked:
                raise SettingsError(
                    f"algorithm {name!r} cannot be planned, because clocks decide its number of steps: give a number"
                )
        return tuple(dict.fromkeys(self.algorithms or (GRADIENTS,)))

    def functions_for(self, candidate: Candidate) -> int:
        """Return the number of functions that the candidate's workers share."""
        if candidate.platform.name == "local":
            return functions_for(candidate.workers, self.functions)
        return min(candidate.workers, self.functions or candidate.workers)

    def candidates(self, profile: Profile, to_target: bool = True) -> list[Candidate]:
        """Return all candidates.

        Args:
            to_target: Whether a target ends the run, and not a number of epochs.

        Raises:
            SettingsError: If no candidate exists, one of the names does not exist, or the profile measured no store.
        """
        least, most = self.workers
        if profile.job.algorithm != GRADIENTS:
            raise SettingsError(
                f"the profile is of a job without gradients, and plans are for gradients: simulate {profile.job.algorithm!r}"
            )
        if not 1 <= least <= most:
            raise SettingsError(f"workers: write LEAST..MOST, such as 1..64, not {least}..{most}")
        batches = self.batch_sizes or (profile.job.batch_size, 2 * profile.job.batch_size)
        platform_of = cache(Platform.parse)
        channel_of = cache(lambda spec: _channel(profile, spec))
        codecs = {name: self._codecs(profile, name, to_target) for name in self.algorithm_names}
        plain = [
            Candidate(schedule, workers, batch, codec, channel_of(channel), platform, algorithm)
            for algorithm in self.algorithm_names
            for workers in _powers(least, min(most, profile.job.samples))
            for batch in batches
            if workers * batch <= max(profile.job.samples, batches[0])
            for codec in codecs[algorithm]
            for spec in self.platforms
            for platform in map(platform_of, self._sized(platform_of(spec), profile, batch, workers, algorithm, codec))
            for schedule in self._schedules(workers, codec, algorithm)
            for channel in self.channels or [_likely_channel(profile, platform)]
        ]
        found = [replace(one, pattern=pattern) for one in plain for pattern in self._patterns(one, profile)]
        if plain and not found:
            raise SettingsError(f"pattern {self.patterns[0]!r} {self._misfit(plain[-1], self.patterns[0])}")
        if not found:
            raise SettingsError("no schedule, platform and number of workers fit what was asked for")
        return found

    def _patterns(self, candidate: Candidate, profile: Profile) -> list[str]:
        """Return the patterns to try with a candidate."""
        if self.patterns:
            return [pattern for pattern in self.patterns if not self._misfit(candidate, pattern)]
        facts, functions = profile.facts(candidate.codec, candidate.algorithm), self.functions_for(candidate)
        dense_bytes = 4 * profile.job.parameters / _algorithm(candidate.algorithm).fragments
        step_s = candidate.batches(profile.job.samples) * profile.step_time.step_s(candidate.batch_size)
        how = candidate.schedule, candidate.workers, candidate.algorithm, candidate.codec
        moved = facts.update_bytes, dense_bytes, facts.read_s + facts.apply_s
        route = Route(candidate.channel, candidate.platform.bandwidth_bytes_per_s)
        return quicker_patterns(*how, functions, *moved, step_s / candidate.platform.speed(), route)

    def _misfit(self, candidate: Candidate, pattern: str) -> str:
        """Return why the candidate cannot use the pattern, as the end of a sentence, or ""."""
        return PATTERNS.make(pattern).misfit(candidate.parts, candidate.workers)

    def _codecs(self, profile: Profile, algorithm: str, to_target: bool) -> list[str]:
        if self.codecs:
            return fitting_codecs(self.codecs, algorithm, self.algorithm_names)
        return proposed_codecs(profile, algorithm, to_target)

    def _schedules(self, workers: int, codec: str, algorithm: str) -> list[str]:
        wanted = self.schedules or SCHEDULES.variants(workers)
        made = {spec: SCHEDULES.make(spec) for spec in wanted}
        fitting = [spec for spec in wanted if made[spec].needs(workers) <= workers]
        rounds = [spec for spec in fitting if in_rounds(made[spec], workers)]
        if _algorithm(algorithm).fragments > 1 or _algorithm(algorithm).duals:
            return rounds or fitting  # which are refused by name
        return fitting if self.codecs or not CODECS.make(codec).feedback else rounds

    def _sized(
        self, platform: Platform, profile: Profile, batch_size: int, workers: int, algorithm: str, codec: str
    ) -> Iterator[str]:
        """Yield the platform with each memory size to try, if it has a memory size and its name gives none."""
        if ":" in platform.spec or not platform.mb_per_vcpu:
            yield platform.spec
            return
        hosted = -(-workers // min(workers, self.functions or workers))
        needed_mb = HEADROOM * profile.function_mb(batch_size, workers, algorithm, hosted, codec)
        sizes = sorted({round(platform.mb_per_vcpu * share) for share in MEMORY_SHARES})
        fitting = [size for size in sizes if size >= needed_mb]
        for size in fitting or [64 * -(-int(needed_mb) // 64)]:
            yield f"{platform.spec}:{size}"


@cache
def _parts(schedule: str, algorithm: str, codec: str) -> Parts:
    return Parts.of(RunOptions(schedule=schedule, algorithm=algorithm, codec=codec))


@cache
def _algorithm(name: str) -> Algorithm:
    return ALGORITHMS.make(name)


def _channel(profile: Profile, spec: str) -> Channel:
    if spec != MEASURED:
        return Channel.parse(spec)
    if profile.store is None:
        raise SettingsError("the profile measured no store: give 'lambdaml profile' one with --store")
    return profile.store.channel()


def _likely_channel(profile: Profile, platform: Platform) -> str:
    """Return the store that functions of the platform would most likely share."""
    near = platform.name == "local"
    if profile.store is not None and (near or StoreURL.parse(profile.store.url).scheme in REMOTE):
        return MEASURED
    return "disk" if near else "s3-standard"


def _powers(least: int, most: int) -> list[int]:
    powers = {2**exponent for exponent in range(most.bit_length())}
    return sorted(count for count in {least, most, *powers} if min(least, most) <= count <= most)

"""The assumptions of a plan: each number with its unit, and whether it was measured, given or assumed.

Each row names the inputs that it represents, such as `StepTime.overhead_s` or `Price(s3-standard/get)`. A test watches
which inputs planning reads, and fails if one of them has no row, or if a row names none that was read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lambdaml.algorithms import ALGORITHMS
from lambdaml.codecs import CODECS
from lambdaml.cost.billing.prices import Price
from lambdaml.cost.planning.candidates import GRADIENTS, HEADROOM, Candidate
from lambdaml.cost.planning.convergence import Convergence
from lambdaml.cost.planning.estimate import StopCriterion
from lambdaml.cost.planning.objective import Objective
from lambdaml.cost.planning.pilot import PLAIN
from lambdaml.cost.profiling.iprof import Device, IProf
from lambdaml.cost.profiling.profile import MEASURED, Profile
from lambdaml.log.travel import travel_bytes
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.platform import DETECT_S, Platform
from lambdaml.simulation.regions import TCP_WINDOW_BYTES, dealt, round_trip_s
from lambdaml.training.history_room import default_interval
from lambdaml.tuners import knob_of
from lambdaml.tuners.skewscout import SkewScout

Mark = Literal["measured", "given", "assumed"]

_PLATFORMS = "lambdaml.simulation.platform.PLATFORMS"
_CHANNELS = "lambdaml.simulation.channel.CHANNELS"
_REGIONS = "lambdaml.simulation.regions.REGIONS"


@dataclass(frozen=True, slots=True)
class Assumption:
    """One number on which a plan rests.

    Attributes:
        what: The name of the number.
        mark: Whether the number was measured, given by the user, or assumed.
        source: The place from which the number comes.
        inputs: The fields that the row represents. It has none if the number is no input.
    """

    what: str
    value: float | str
    unit: str
    mark: Mark
    source: str
    inputs: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Basis:
    """Everything from which a plan was made.

    Attributes:
        criterion: The criterion that ends its runs.
        prices: The prices from which its bills were made.
        candidates: All candidates.
        slowdowns: The slowdown that I-Prof gave for each device that it was asked about.
        iprof: The lessons of earlier runs, or None if they were not asked for.
    """

    profile: Profile
    objective: Objective
    criterion: StopCriterion
    prices: Sequence[Price]
    candidates: Sequence[Candidate]
    slowdowns: Mapping[Device, float]
    iprof: IProf | None


def assumptions(basis: Basis) -> Iterator[Assumption]:
    """Yield all numbers on which a plan rests."""
    yield from _job(basis)
    yield from _learning(basis)
    yield from _course(basis)
    for channel in {one.channel.name: one.channel for one in basis.candidates}.values():
        yield from _channel(basis, channel)
    platforms = {one.platform.spec: one.platform for one in basis.candidates}
    for platform in {platform.name: platform for platform in platforms.values()}.values():
        yield from _platform(basis, platform)
    for spec, platform in platforms.items():
        inputs = ("Platform.memory_mb", "Platform.max_vcpus", "Platform.mb_per_vcpu")
        yield Assumption(f"speed of {spec}", f"{platform.speed():.3g}", "of a core here", "assumed", _PLATFORMS, inputs)
    yield from _links(basis)
    yield from _slowdowns(basis)
    yield from _prices(basis)


def _job(basis: Basis) -> Iterator[Assumption]:
    profile, here = basis.profile, _here(basis)
    step, job = profile.step_time, profile.job
    inputs: tuple[str, ...] = ("StepTime.overhead_s", "StepTime.slope_s_per_sample")
    for name in sorted({one.algorithm for one in basis.candidates} - {GRADIENTS}):
        counts = {one.batches(job.samples) for one in basis.candidates if one.algorithm == name}
        sizes = ("JobFacts.model_bytes", "JobFacts.snapshot_bytes")  # they differ by the inner optimizer's state
        yield Assumption(f"local steps of an update, {name}", _range(counts, ".0f"), "", "given", "", sizes)
        if (fragments := ALGORITHMS.make(name).fragments) > 1:
            yield Assumption(f"share of the model in an update, {name}", f"1/{fragments}", "", "given", "")
        yield Assumption(f"outer step, {name}", "like an optimizer step", "", "assumed", "")
    for (name, codec), one in _remembering(basis).items():
        size_bytes = profile.costs(one.batch_size, codec, algorithm=name).memory_bytes
        of = ", ".join(filter(None, [name if name != GRADIENTS else "", codec if one.parts.feedback else ""]))
        yield Assumption(f"memory of a worker, {of}", size_bytes, "bytes", "measured", here)
    for batch in sorted({one.batch_size for one in basis.candidates}):
        yield Assumption(f"gradient of {batch} samples", f"{step.step_s(batch):.4g}", "s", "measured", here, inputs)
    yield Assumption("optimizer step", f"{profile.optimizer_s:.3g}", "s", "measured", here, ("Profile.optimizer_s",))
    used = {PLAIN, *(one.codec for one in basis.candidates)}
    for spec, facts in ((spec, facts) for spec, facts in profile.codecs.items() if spec in used):
        yield _measured(f"update, {spec}", facts.update_bytes, "bytes", here, "CodecFacts.update_bytes")
        yield _measured(f"writing one, {spec}", f"{facts.encode_s:.3g}", "s", here, "CodecFacts.encode_s")
        inputs = ("CodecFacts.read_s", "CodecFacts.apply_s")
        took_s = f"{facts.read_s + facts.apply_s:.3g}"
        yield Assumption(f"reading and adding one, {spec}", took_s, "s", "measured", here, inputs)
    yield from _tuning(basis, used)
    yield _measured("snapshot", job.snapshot_bytes, "bytes", here, "JobFacts.snapshot_bytes")
    yield _measured("data set", job.samples, "samples", here, "JobFacts.samples")
    yield _measured("model", job.parameters, "parameters", here, "JobFacts.parameters")
    if not basis.objective.space.batch_sizes:
        yield Assumption("batch of the job", job.batch_size, "samples", "given", job.spec, ("JobFacts.batch_size",))
    if any(one.platform.spec not in basis.objective.space.platforms for one in basis.candidates):
        yield from _memory(basis)
    if profile.startup is not None:
        yield _measured("the job's own start", f"{profile.startup.job_s:.3g}", "s", here, "Startup.job_s")


def _tuning(basis: Basis, used: Iterable[str]) -> Iterator[Assumption]:
    """Yield what a tuner would add to runs with codecs that have a knob. Plans are of runs without one."""
    tuner, size_bytes = SkewScout(), travel_bytes(basis.profile.job.parameters)
    for spec in sorted(spec for spec in used if knob_of(CODECS.make(spec)) is not None):
        told = f"1 put and N gets of {size_bytes:,} bytes"
        yield Assumption(f"not in it: --tune skewscout, {spec}", told, f"in {tuner.every} rounds", "given", "")


def _remembering(basis: Basis) -> dict[tuple[str, str], Candidate]:
    """Return a candidate for each algorithm and codec with which workers remember something, one codec of those that
    need no error feedback."""
    found = {(one.algorithm, one.parts.feedback and one.codec): one for one in basis.candidates if one.parts.remembers}
    return {(one.algorithm, one.codec): one for one in found.values()}


def _memory(basis: Basis) -> Iterator[Assumption]:
    profile, batch_size, here = basis.profile, basis.profile.job.batch_size, _here(basis)
    inputs: tuple[str, ...] = ("MemoryModel.base_mb", "MemoryModel.slope_mb_per_sample")
    peak_mb, workers = profile.memory.peak_mb(batch_size), max(one.workers for one in basis.candidates)
    yield Assumption("peak memory of a function", round(peak_mb), "MB", "measured", here, inputs)
    held_mb = profile.function_mb(batch_size, workers) - peak_mb
    inputs = ("CodecFacts.update_bytes",)
    yield Assumption("updates that it may hold, at most", round(held_mb), "MB", "measured", here, inputs)
    ways = {(one.algorithm, one.codec) for one in basis.candidates if one.parts.feedback}
    if ways:
        more_mb = [
            profile.function_mb(batch_size, workers, algorithm, codec=codec)
            - profile.function_mb(batch_size, workers, algorithm)
            for algorithm, codec in ways
        ]
        inputs = ("JobFacts.model_bytes", "JobFacts.snapshot_bytes")  # a recovery has a replica with its optimizer
        yield Assumption(
            "error feedback and its recovery, at most", f"{max(more_mb):.3g}", "MB", "measured", here, inputs
        )
    yield Assumption("memory over that", f"{HEADROOM - 1:.0%}", "", "assumed", "")


def _codecs(basis: Basis, algorithm: str, convergence: Convergence, of: str) -> Iterator[Assumption]:
    """Yield how many more steps codecs need."""
    inputs = ("PilotRun.group", "PilotRun.delay", "PilotRun.steps", "PilotRun.seed")
    used = sorted({one.codec for one in basis.candidates if one.algorithm == algorithm} - {PLAIN})
    piloted = [codec for codec in used if convergence.factors(codec)]
    for codec in piloted:
        factors = [factor for factor in convergence.factors(codec).values() if factor is not None]
        told = _range(factors, ".2f") if factors else "the target was missed"
        yield Assumption(
            f"steps with {codec}{of}", told, f"of {PLAIN}'s" if factors else "", "measured", _here(basis), inputs
        )
    if piloted:
        yield Assumption(f"that share with another batch{of}", "the same", "", "assumed", "")
    for codec in used:
        if codec not in piloted and not CODECS.make(codec).exact:
            yield Assumption(f"convergence with {codec}{of}", f"that of {PLAIN}", "", "assumed", "")


def _learning(basis: Basis) -> Iterator[Assumption]:
    criterion, profile, here = basis.criterion, basis.profile, _here(basis)
    if criterion.convergence is None:
        yield Assumption("length", f"{criterion.epochs:g}", "epochs", "given", "")
        return
    inputs: tuple[str, ...] = ("PilotRun.group", "PilotRun.delay", "PilotRun.batch", "PilotRun.steps")
    for name, convergence in criterion.convergence.items():
        of = "" if name == GRADIENTS else f", {name}"
        count = f"{sum((run.algorithm, run.codec) == (name, PLAIN) for run in profile.pilot)} pilots"
        yield Assumption(f"steps to the target{of}", count, "", "measured", f"{here}, {profile.target}", inputs)
        told = f"{convergence.sigma:.3f}"
        yield Assumption(f"their spread, sigma of log steps{of}", told, "", "measured", here, inputs)
        if math.isfinite(convergence.tolerance):
            what, late = f"staleness at which the target was missed{of}", convergence.tolerance
            yield Assumption(what, late, "steps", "measured", here, inputs)
        if name != GRADIENTS:
            yield Assumption(f"a larger batch{of}", "like more workers", "", "assumed", "")
        yield from _codecs(basis, name, convergence, of)
    gradients = criterion.convergence.get(GRADIENTS)
    if gradients is not None and profile.noise is not None and profile.noise.samples is not None:
        noise = round(profile.noise.samples)
        yield _measured("gradient noise scale", noise, "samples", here, "NoiseScale.samples")
    if gradients is not None and profile.coherence is not None and gradients.by_coherence:
        least = "at least " if profile.coherence.tolerance_at_least else ""
        inputs = tuple(f"CoherenceFacts.{name}" for name in ("cosine", "tolerance_steps", "tolerance_at_least"))
        steps = f"{least}{profile.coherence.tolerance_steps:.3g}"
        yield Assumption("staleness that halves a step's worth", steps, "steps", "measured", here, inputs)
    yield Assumption("evaluation of a snapshot", 0.0, "s", "assumed", "")


def _course(basis: Basis) -> Iterator[Assumption]:
    objective, job = basis.objective, basis.profile.job
    if objective.snapshot_every is not None:
        yield Assumption("updates of a worker to a snapshot", objective.snapshot_every, "", "given", "")
    else:
        epochs = {
            default_interval(
                max(1, one.per_epoch(job.samples) // one.batches(job.samples)), one.workers, job.parameters
            )
            for one in basis.candidates
        }
        yield Assumption("updates of a worker to a snapshot", _range(epochs, ".0f"), "", "assumed", "an epoch")
    if objective.remaining < 1:
        share = f"{objective.remaining:.3g}"
        yield Assumption("share of the way that is left", share, "", "assumed", "steps gone of the plan's")
    for name, value, unit in (("deadline", objective.deadline_s, "s"), ("budget", objective.budget_usd, "USD")):
        if math.isfinite(value):
            yield Assumption(name, value, unit, "given", "")
    yield Assumption(
        "stragglers", objective.stragglers, "", "given" if objective.stragglers != "none" else "assumed", ""
    )


def _channel(basis: Basis, channel: Channel) -> Iterator[Assumption]:
    store, spec = basis.profile.store, channel.name
    mark: Mark = "assumed"
    source = _CHANNELS
    inputs: tuple[str, ...] = ("Channel.model", "LatencyModel.read_s", "LatencyModel.write_s")
    bytes_input = "LatencyModel.bandwidth_bytes_per_s"
    if spec == MEASURED and store is not None:
        mark, source = "measured", f"{_here(basis)}, {store.url}"
        inputs = ("Channel.model", "StoreFacts.reading", "Empirical.bins")
        bytes_input = "Empirical.bandwidth_bytes_per_s"
    for kind, what in (("get", "read"), ("create", "write")):
        half, slow = (f"{1000 * channel.latency_s(kind, unit):.3g}" for unit in (0.5, 0.99))
        yield Assumption(f"{what} on {spec}", f"{half}, p99 {slow}", "ms", mark, source, inputs)
    speed = channel.bandwidth_bytes_per_s
    read = ("StoreFacts.read_bytes_per_s",) if mark == "measured" else ()
    told = _limit(speed / 1e6, "MB/s")
    yield Assumption(f"bandwidth of {spec}", *told, mark, source, (bytes_input, *read))
    told = _limit(channel.reads_per_s or math.inf, "per s")
    yield Assumption(f"reads that {spec} takes", *told, "assumed", _CHANNELS, ("Channel.reads_per_s",))
    told = _limit(channel.writes_per_s or math.inf, "per s")
    yield Assumption(f"writes that {spec} takes", *told, "assumed", _CHANNELS, ("Channel.writes_per_s",))


def _platform(basis: Basis, platform: Platform) -> Iterator[Assumption]:
    name, startup = platform.name, basis.profile.startup
    cold = f"{platform.cold_start_s[0]:g}, p99 {platform.cold_start_s[1]:g}"
    if name == "local" and startup is not None:
        yield _measured("import of torch here", f"{startup.import_s:.3g}", "s", _here(basis), "Startup.import_s")
        yield _measured("cores here", basis.profile.machine.cores, "", _here(basis), "MachineFacts.cores")
    else:
        yield Assumption(f"cold start on {name}", cold, "s", "assumed", _PLATFORMS, ("Platform.cold_start_s",))
    warm = f"{platform.warm_start_s[0]:g}, p99 {platform.warm_start_s[1]:g}"
    yield Assumption(f"warm start on {name}", warm, "s", "assumed", _PLATFORMS, ("Platform.warm_start_s",))
    ramp = ", ".join(f"{count:,} after {seconds:g} s" for count, seconds in platform.ramp) or "all at once"
    yield Assumption(f"functions that may start on {name}", ramp, "", "assumed", _PLATFORMS, ("Platform.ramp",))
    yield Assumption(f"time until {name} replaces a function", DETECT_S, "s", "assumed", "")
    for what, value, unit, field in (
        ("lifetime of a function", platform.lifetime_s, "s", "lifetime_s"),
        ("mean time to a preemption", platform.preemption_mean_s, "s", "preemption_mean_s"),
        ("bandwidth of a function", platform.bandwidth_bytes_per_s / 1e6, "MB/s", "bandwidth_bytes_per_s"),
    ):
        told = _limit(value, unit)
        yield Assumption(f"{what} on {name}", *told, "assumed", _PLATFORMS, (f"Platform.{field}",))


def _links(basis: Basis) -> Iterator[Assumption]:
    """Yield the regions of functions, and what their links add."""
    objective = basis.objective
    if objective.slow_link is not None:
        yield Assumption("slow link, function and factor", objective.slow_link, "", "given", "")
    if objective.regions is None:
        return
    placement = objective.placement(len(dealt(objective.regions)))
    yield Assumption("functions in regions", objective.regions, "", "given", "")
    yield Assumption("region of the only bucket", placement.bucket, "", "given", "")
    for region in placement.crossed[1:]:
        rtt_s, pair = round_trip_s(region, placement.bucket), f"{region} and {placement.bucket}"
        yield Assumption(f"round trip between {pair}", f"{1000 * rtt_s:g}", "ms", "assumed", _REGIONS)
        per_s = f"{TCP_WINDOW_BYTES / rtt_s / 1e6:.3g}"
        yield Assumption(f"bandwidth of a connection between {pair}", per_s, "MB/s", "assumed", _REGIONS)


def _slowdowns(basis: Basis) -> Iterator[Assumption]:
    """Yield how long functions compute, relative to the measured core."""
    what = "a function's gradient over the measured one's"
    if basis.iprof is None:
        yield Assumption(what, 1.0, "", "assumed", basis.profile.machine.processor)
        return
    runs = basis.iprof.runs
    source = f"I-Prof, {runs} run{'s' * (runs != 1)} with profiles of {basis.profile.machine.processor}"
    for name in sorted({device.name for device in basis.slowdowns}):
        values = {times for device, times in basis.slowdowns.items() if device.name == name}
        known = any(basis.iprof.knows(device) for device in basis.slowdowns if device.name == name)
        inputs = (f"IProf.slowdown({name})",)
        told = _range(values, ".2f")
        yield Assumption(f"{what}, {name}", told, "", "measured" if known else "assumed", source, inputs)


def _prices(basis: Basis) -> Iterator[Assumption]:
    for price in basis.prices:
        inputs = (f"Price({price.id})",)
        yield Assumption(f"price, {price.id}", price.usd, f"USD per {price.unit}", "given", price.origin, inputs)


def _here(basis: Basis) -> str:
    return f"profile of {basis.profile.measured_on}"


def _measured(what: str, value: float | str, unit: str, source: str, field: str) -> Assumption:
    return Assumption(what, value, unit, "measured", source, (field,))


def _limit(value: float, unit: str) -> tuple[str, str]:
    """Return the value and its unit, which is empty if there is no limit."""
    return (f"{value:.4g}", unit) if math.isfinite(value) else ("unlimited", "")


def _range(values: Iterable[float], style: str) -> str:
    found = sorted(values)
    low, high = format(found[0], style), format(found[-1], style)
    return low if low == high else f"{low} to {high}"

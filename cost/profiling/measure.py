"""Measuring a profile: a minute or two, mostly of gradients, in one thread as functions compute them.

Half of the time goes to step times and codecs, and the rest to the store and to a training with one worker, along which
the noise scale and the coherence are measured. With a target, pilots take as long again, those of codecs half as long,
and that training ends where they reached it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from lambdaml.algorithms import ALGORITHMS
from lambdaml.codecs import CODECS
from lambdaml.cost.planning.codec_pilots import pilot_codecs
from lambdaml.cost.planning.pilot import PLAIN, PilotRun, default_plan, pilot
from lambdaml.cost.profiling.bench import Bench
from lambdaml.cost.profiling.codec_bench import time_codecs
from lambdaml.cost.profiling.codecs import CodecTrial, codec_trials
from lambdaml.cost.profiling.facts import CoherenceFacts, JobFacts, ProfilingCost, StoreFacts
from lambdaml.cost.profiling.machine import this_machine
from lambdaml.cost.profiling.noise import LEAST_BATCHES, MOST_BATCHES, Noise
from lambdaml.cost.profiling.profile import Profile
from lambdaml.cost.profiling.startup import startup
from lambdaml.cost.profiling.stores import measure_store
from lambdaml.engines.entry import pick_device
from lambdaml.errors import SettingsError
from lambdaml.job import Job
from lambdaml.options import RunOptions
from lambdaml.parts import unfit
from lambdaml.settings import Settings, reached
from lambdaml.statistics_job import StatisticsJob
from lambdaml.training.asked import resolve_job, settings_for
from lambdaml.training.evaluation import evaluate
from lambdaml.training.job_kind import demand_kind

if TYPE_CHECKING:
    from lambdaml.training.coherence import Coherence

SECONDS = 60.0
"""The approximate seconds of measuring, without pilots."""

POINTS = 4
"""The number of points along the training at which noise and coherence are measured."""

LAGS = (1, 2, 4, 8, 16, 32)
LEAST_STEPS, MOST_STEPS = 40, 2_000
LEAST_REFERENCE, MOST_REFERENCE = 32, 1_000
"""The least and the most samples of the set on which the coherence is measured."""

_SHARES = {
    "store": 0.1,
    "startup": 0.1,
    "steps": 0.35,
    "codecs": 0.15,
    "pilots": 1.0,
    "codec pilots": 0.5,
    "training": 0.4,
}
"""The shares of the time to spend, by phase. Pilots are added to it."""


@dataclass(slots=True)
class Clockwork:
    """A clock that divides the time among phases, and notes how long each took.

    Attributes:
        seconds: The seconds to spend.
        phases: The names of the phases.
        phases_s: The seconds that each phase took.
    """

    seconds: float
    phases: list[str]
    progress: Callable[[float, str], None]
    phases_s: dict[str, float] = field(default_factory=dict)

    def seconds_of(self, phase: str) -> float:
        """Return the seconds to spend on a phase."""
        return self.seconds * _SHARES[phase]

    @contextmanager
    def phase(self, name: str) -> Iterator[Callable[[float], None]]:
        """Time a phase. The yielded function takes the finished share of the phase."""
        total = sum(_SHARES[phase] for phase in self.phases)
        done = sum(_SHARES[phase] for phase in self.phases[: self.phases.index(name)]) / total
        begun = time.monotonic()

        def tell(part: float) -> None:
            self.progress(done + part * _SHARES[name] / total, name)

        tell(0.0)
        yield tell
        self.phases_s[name] = round(time.monotonic() - begun, 3)


def profile(
    job: str | type[Job] | Job,
    *,
    args: Mapping[str, Any] | None = None,
    store: str | None = None,
    target: str | None = None,
    workers: int = 16,
    algorithms: Sequence[str] = ("gradient",),
    codecs: Sequence[str] = (),
    seconds: float = SECONDS,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[float, str], None] = lambda share, phase: None,
) -> Profile:
    """Measure a job on this machine, and a store from here.

    Args:
        job: The job, as in `train`.
        args: The arguments of the job's constructor.
        store: The URL of a place that may be written to, under `probe/`. Everything written there is removed.
        target: A target to which pilots train (`lambdaml.cost.planning.pilot`), as up to `workers` workers would.
        algorithms: The algorithms of the pilots, as in `train`.
        codecs: The codecs to measure, as in `train`; with a target, pilots are made of them, too. Defaults to all that
            are worth trying and fit the job, as far as there is time, those of the smallest updates first.
        seconds: The approximate seconds to spend. Pilots may take one and a half times as many besides; less time means
            fewer repetitions and fewer codecs.
        device: The device of tensor work, as in `train`.
        progress: A function that is told the finished share and what is being measured, now and then.

    Raises:
        UserError: If what was asked for makes no sense.
        JobFailed: If the job's own code raised an error.
        StoreError: If the store cannot be used.
    """
    from lambdaml.training.one_thread import OneThread

    if not 0 < seconds < math.inf:
        raise SettingsError(f"seconds: must be more than 0 (it is {seconds!r})")
    begun = time.monotonic()
    job_settings, instance = resolve_job(job, dict(args or {}))
    for name in algorithms:
        demand_kind(instance, RunOptions(algorithm=name))
    own = algorithms[0] if isinstance(instance, StatisticsJob) else "gradient"
    settings = settings_for(instance, job_settings, RunOptions(workers=1, algorithm=own, target=target, seed=seed))
    there = {"store": store is not None, "pilots": target is not None, "codec pilots": target is not None}
    clockwork = Clockwork(seconds, [phase for phase in _SHARES if there.get(phase, True)], progress)
    with OneThread() as compute:
        bench = compute.submit(_bench, instance, settings, pick_device(device)).result()
        trials = codec_trials(bench.replica.flat.layout, algorithms, codecs)
        found = _store(store, settings, clockwork) if store is not None else None
        with clockwork.phase("startup"):
            started = startup(job_settings, own) if isinstance(job, str) else None
        made = compute.submit(_times, bench, trials, clockwork).result()
        if target is not None:
            with clockwork.phase("pilots") as tell:
                runs = _pilots(instance, target, args, workers, algorithms, clockwork.seconds_of("pilots"), tell)
            made = replace(made, target=target, pilot=runs)
            with clockwork.phase("codec pilots") as tell:
                made = _with_codec_pilots(made, instance, args, algorithms, clockwork.seconds_of("codec pilots"), tell)
        made = compute.submit(_training, made, instance, bench, clockwork).result()
    spent = replace(made.spent, seconds=round(time.monotonic() - begun, 3), phases_s=dict(clockwork.phases_s))
    if found is not None:
        facts, requests, sent, received = found
        spent = replace(spent, requests=requests, sent_bytes=sent, received_bytes=received)
        made = replace(made, store=facts)
    return replace(made, spent=spent, startup=started)


def _pilots(
    job: Job,
    target: str,
    args: Mapping[str, Any] | None,
    workers: int,
    algorithms: Sequence[str],
    seconds: float,
    tell: Callable[[float], None],
) -> tuple[PilotRun, ...]:
    """Make the pilots of each algorithm. They share the time equally."""
    runs: list[PilotRun] = []
    for number, name in enumerate(algorithms):
        runs += pilot(
            job,
            target,
            args=args,
            algorithm=name,
            plan=default_plan(workers, name),
            seconds=seconds / len(algorithms),
            progress=lambda share, number=number: tell((number + share) / len(algorithms)),  # type: ignore[misc]
        )
    return tuple(runs)


def _with_codec_pilots(
    profile: Profile,
    job: Job,
    args: Mapping[str, Any] | None,
    algorithms: Sequence[str],
    seconds: float,
    tell: Callable[[float], None],
) -> Profile:
    """Make the pilots of codecs with each algorithm, which share the time equally. Updates have the sizes of pilots
    where there were any, since the size may depend on the numbers, or change in the course of a training."""
    assert profile.target is not None
    runs: list[PilotRun] = []
    for number, name in enumerate(algorithms):
        made, plain = ALGORITHMS.make(name), [run for run in profile.pilot if run.algorithm == name]
        fitting = {spec: facts for spec, facts in profile.codecs.items() if not unfit(CODECS.make(spec), made)}
        runs += pilot_codecs(
            job,
            profile.target,
            plain,
            {spec: facts.update_bytes for spec, facts in fitting.items()},
            args=args,
            seconds=seconds / len(algorithms),
            progress=lambda share, number=number: tell((number + share) / len(algorithms)),  # type: ignore[misc]
        )
    sizes = {
        codec: round(
            mean(run.update_bytes * ALGORITHMS.make(run.algorithm).fragments for run in runs if run.codec == codec)
        )
        for codec in {run.codec for run in runs}
    }
    codecs = {
        spec: replace(facts, update_bytes=sizes.get(spec, facts.update_bytes)) for spec, facts in profile.codecs.items()
    }
    return replace(profile, codecs=codecs, pilot=(*profile.pilot, *runs))


def _bench(job: Job, settings: Settings, device: str) -> Bench:
    bench = Bench(job, settings, device, time.perf_counter)
    if settings.target is not None:  # check it before minutes are spent
        reached(settings.target, evaluate(job, bench.replica.state(), device))
    return bench


def _store(url: str, settings: Settings, clockwork: Clockwork) -> tuple[StoreFacts, dict[str, int], int, int]:
    with clockwork.phase("store") as tell:
        return measure_store(url, 4 * settings.parameters, clockwork.seconds_of("store"), tell)


def _times(bench: Bench, trials: Sequence[CodecTrial], clockwork: Clockwork) -> Profile:
    """Return a profile with the times, the sizes and the memory."""
    settings = bench.replica.settings
    with clockwork.phase("steps") as tell:
        step_time, memory = bench.steps(clockwork.seconds_of("steps"), tell)
    with clockwork.phase("codecs") as tell:
        codecs, optimizer_s = time_codecs(bench, trials, clockwork.seconds_of("codecs"), tell)
        model_bytes, snapshot_bytes, snapshot_s = bench.snapshot()
    return Profile(
        measured_on=datetime.now(UTC).isoformat(timespec="seconds"),
        job=JobFacts(
            **settings.job.model_dump(),
            samples=settings.samples,
            batch_size=settings.batch_size,
            steps_per_epoch=settings.steps_per_epoch,
            parameters=settings.parameters,
            model_bytes=model_bytes,
            snapshot_bytes=snapshot_bytes,
            algorithm=settings.algorithm,
        ),
        machine=this_machine(bench.replica.device.type),
        spent=ProfilingCost(0.0, {}, bench.gradients, {}, 0, 0),
        step_time=step_time,
        memory=memory,
        optimizer_s=optimizer_s,
        snapshot_s=snapshot_s,
        update_norm=0.0,
        codecs=codecs,
        store=None,
        noise=None,
        coherence=None,
    )


def _training(profile: Profile, job: Job, bench: Bench, clockwork: Clockwork) -> Profile:
    """Measure noise scale, coherence and the norm of gradients along a training with one worker, if there are gradients."""
    from lambdaml.training.coherence import Coherence, Probe

    replica, settings = bench.replica, bench.replica.settings
    if isinstance(job, StatisticsJob):
        return replace(profile, spent=replace(profile.spent, gradients=bench.gradients))
    course = _Course.within(clockwork.seconds_of("training"), profile)
    noise = Noise(replica, course.batches) if settings.samples > 1 else None
    probe = Probe(job, course.reference, course.lags, seed=settings.seed, device=str(replica.device))
    looks = {point - lag for point in course.points for lag in (0, *course.lags)}
    seen, norms = [], []
    with clockwork.phase("training") as tell:
        for version in range(course.steps + 1):
            if version in looks:
                seen.append(probe.add(version, replica.model))
            if version in course.points and noise is not None:
                noise.add()
            if version < course.steps:
                bench.step()
                norms.append(float(replica.flat.vector.norm()))
            tell(version / course.steps)
    gradients = bench.gradients + (noise.gradients if noise is not None else 0)
    return replace(
        profile,
        update_norm=median(norms),
        noise=noise.result() if noise is not None else None,
        coherence=_facts(Coherence(tuple(seen)), course),
        spent=replace(profile.spent, gradients=gradients),
    )


@dataclass(frozen=True, slots=True)
class _Course:
    """A training with one worker, measured at `POINTS` moments, the last of which is its end.

    Attributes:
        steps: The optimizer steps of the training.
        batches: The batches for the noise scale, at each moment.
        reference: The samples for the coherence.
    """

    steps: int
    batches: int
    reference: int

    @staticmethod
    def within(seconds: float, profile: Profile) -> _Course:
        """Divide the time in thirds. The training lasts as long as the target took, or else ten epochs."""
        third, batch_size = seconds / 3, profile.job.batch_size
        slope_s, step_s = profile.step_time.slope_s_per_sample, profile.step_time.step_s(batch_size)
        plain = [run for run in profile.pilot if (run.algorithm, run.codec) == ("gradient", PLAIN)]
        alone = [run for run in plain if (run.group, run.delay) == (1, 0)]
        took = [run.steps for run in alone if run.steps is not None]
        whole = round(median(took)) if took else 10 * profile.job.steps_per_epoch
        steps = max(LEAST_STEPS, min(round(third / (step_s + profile.optimizer_s)), MOST_STEPS, whole))
        batches = max(LEAST_BATCHES, min(round(third / POINTS / step_s), MOST_BATCHES))
        affordable = round(third / (POINTS * (len(LAGS) + 1)) / max(slope_s, step_s / batch_size / 4))
        reference = min(max(LEAST_REFERENCE, min(affordable, MOST_REFERENCE)), profile.job.samples)
        return _Course(steps, batches, reference)

    @property
    def points(self) -> list[int]:
        """The moments, as evenly spaced versions."""
        return [self.steps * (number + 1) // POINTS for number in range(POINTS)]

    @property
    def lags(self) -> list[int]:
        """The lags that fit between two points."""
        return [lag for lag in LAGS if lag <= self.points[0]]


def _facts(coherence: Coherence, course: _Course) -> CoherenceFacts:
    tolerance = coherence.tolerance()
    mu = {lag: coherence.mu(lag + 1) for lag in course.lags}
    steps, at_least = tolerance.steps, tolerance.at_least
    return CoherenceFacts(course.steps, course.reference, coherence.cosine(), mu, steps, at_least)

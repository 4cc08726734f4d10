"""Simulations: they tell how a run would go and what it would use, by running its protocol in the virtual world.

Up to `EXACT_FUNCTIONS` functions, each request and each turn of the real protocol is simulated. Beyond that, the same
schedules are simulated with requests in closed form (`lambdaml.simulation.flow`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lambdaml.errors import SettingsError, nearest
from lambdaml.events import Event
from lambdaml.job import Job
from lambdaml.options import RunOptions
from lambdaml.partitions import IID
from lambdaml.parts import Parts
from lambdaml.settings import JobSettings, Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.costs import assumed, measure_costs
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.regions import Placement
from lambdaml.simulation.stragglers import STRAGGLERS
from lambdaml.simulation.stub_replica import Costs
from lambdaml.traces.attribution import Split, trace_rows
from lambdaml.training.asked import demand_workers, in_slots, resolve_job, resolved_settings, settings_for
from lambdaml.training.driver import TrainResult, result
from lambdaml.training.sampling import PretendedSamples, deal

if TYPE_CHECKING:
    from lambdaml.simulation.engine import VirtualRun
    from lambdaml.simulation.scenario import FlowResult
    from lambdaml.traces import Trace

EXACT_FUNCTIONS = 32
"""A simulation of up to this many functions is exact, unless the caller asks otherwise."""

DEFAULT_UPDATES = 2_000
"""The number of updates that are simulated by default, or 50 of each worker if that is a greater number."""

BATCH_SIZE = 32
"""The number of samples in the batch of a simulated run without a job."""

_LIMITS = ("announce_s", "lease_s", "max_rejected", "max_update_norm", "patience_s", "recover_s")
"""The options of a run that mean the same in a simulation."""


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """The result of a simulated run.

    Attributes:
        run: The result as a real run has it. `seconds` is modelled time; `metrics` and `model_sha256` need `real`.
        lifetimes_s: The seconds that each function lasted, its start included. `lambdaml.cost.billing.tariff` tells
            what they cost. If requests are not simulated one by one, all functions are assumed to last equally long.
        stored_byte_s: The bytes stored times the seconds that they were kept, on the assumption that they were written
            at an even pace.
        utilisation: The share of the functions' seconds in which a gradient or an optimizer step was computed.
        split: The mean staleness by phase; None if it was not traced.
        commits: The number of log entries.
        exact: Whether every request was simulated.
        costs: The costs that were given, assumed or measured.
        wall_s: The seconds that the simulation itself took.
        moved: The bytes that went from one region to another, by pair of regions.
    """

    run: TrainResult
    lifetimes_s: tuple[float, ...]
    stored_byte_s: float
    utilisation: float
    split: Split | None
    commits: int
    exact: bool
    costs: Costs
    wall_s: float
    moved: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def function_seconds(self) -> float:
        """The seconds that all functions lasted, added up."""
        return round(math.fsum(self.lifetimes_s), 3)

    @property
    def invocations(self) -> int:
        """The number of functions started."""
        return len(self.lifetimes_s)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the fields of `TrainResult`, and under `modelled` the others, lifetimes added up and bytes
        between regions left out."""
        added = {"function_seconds": self.function_seconds, "invocations": self.invocations}
        others = [name for name in self.__dataclass_fields__ if name not in ("run", "lifetimes_s", "moved")]
        fields = {name: getattr(self, name) for name in others}
        fields = {**added, **fields}
        modelled = {name: asdict(v) if name in ("split", "costs") and v else v for name, v in fields.items()}
        return {**self.run.to_dict(), "modelled": modelled}


def simulate(
    job: str | type[Job] | Job | None = None,
    *,
    workers: int = 8,
    schedule: str = "bsp",
    updates: int | None = None,
    steps: int | None = None,
    functions: int | None = None,
    channel: str | Channel = "s3-standard",
    platform: str | Platform = "lambda-arm",
    stragglers: str = "none",
    regions: str | None = None,
    bucket_region: str | None = None,
    slow_link: str | None = None,
    algorithm: str = "gradient",
    codec: str = "fp32",
    error_feedback: float | None = None,
    staleness: str = "constant",
    pattern: str = "gather",
    bracket: str | None = None,
    partition: str | None = None,
    costs: Costs | None = None,
    real: bool = False,
    exact: bool | None = None,
    seed: int = 0,
    snapshot_every: int | None = None,
    args: dict[str, Any] | None = None,
    trace: Callable[[Trace], None] | None = None,
    progress: Callable[[float], None] = lambda share: None,
    **limits: Any,
) -> SimulationResult:
    """Simulate a run.

    Args:
        job: The job, as `train` takes it. Its step time and sizes are measured here for some seconds. Without a job,
            `lambdaml.simulation.costs.assumed` gives them.
        workers: The number of workers.
        schedule: The schedule, with its arguments, such as `ssp:3`.
        updates: The number of updates of all workers together; give either this or `steps`. See `DEFAULT_UPDATES`.
        steps: The number of updates of each worker, or of commits if the schedule counts those.
        functions: The number of functions; by default one for each worker.
        channel: A preset of `lambdaml.simulation.channel`, or a time such as `40ms`.
        platform: A preset of `lambdaml.simulation.platform`.
        stragglers: `none`, `lognormal:S`, `pareto:A`, `slow:FUNCTION,FACTOR` or `spread:S`.
        regions, bucket_region, slow_link: The regions of functions and of the bucket, and a slow link; see
            `lambdaml.simulation.regions.Placement.parse`. They are simulated exactly.
        algorithm: The algorithm, with its arguments, such as `local:20`. An update covers as many batches as it says.
        codec: The codec, with its arguments.
        error_feedback: The decay of residuals, from 0 (none) to 1; by default it is that of the codec.
        staleness: The staleness rule, with its arguments.
        pattern: The pattern, with its arguments.
        bracket: The bracket of a step's sum; by default the one that the pattern adds up in.
        partition: The way in which samples are dealt; by default the job's own, or `iid`. Without a job, samples have owners
            as if they had ten classes.
        costs: The costs to use in place of measured or assumed ones.
        real: Whether to compute the job's real gradients, at modelled times.
        exact: Whether to simulate every request; by default that is done for up to `EXACT_FUNCTIONS` functions.
        seed: The seed of the run and of everything that is drawn.
        snapshot_every: The number of updates of each worker after which a snapshot is taken.
        args: The arguments of the job.
        trace: Is called with the run's trace at the end. Only exact simulations have one.
        progress: Is called with the share that is done, now and then.
        limits: `announce_s`, `lease_s`, `max_rejected`, `max_update_norm`, `patience_s`, `recover_s`; see `RunOptions`.

    Raises:
        UserError: If what was asked for makes no sense.
        RunFailed: If the simulated run stopped before it finished. The message says why.
    """
    from lambdaml.training.one_thread import OneThread

    began = time.monotonic()
    _demand_sense(job, real, functions, workers, limits)
    how: dict[str, Any] = {"schedule": schedule, "algorithm": algorithm, "codec": codec, "staleness": staleness}
    how |= {"pattern": pattern, "bracket": bracket, "partition": partition}
    how |= {"seed": seed, "snapshot_every": snapshot_every}
    asked = RunOptions(workers=workers, steps=steps, **how, **limits)
    asked = replace(asked, steps=_steps(asked, updates), error_feedback=error_feedback)
    with OneThread() as compute:

        def work() -> SimulationResult:
            settings, instance = _settings(job, args or {}, asked)
            chosen, count = costs or _costs(instance, settings), min(functions or workers, settings.workers)
            store = Channel.parse(channel) if isinstance(channel, str) else channel
            where = Platform.parse(platform) if isinstance(platform, str) else platform
            placement = Placement.parse(count, regions, bucket_region, slow_link)
            place = (settings, count, chosen, store, where, STRAGGLERS.make(stragglers), seed)
            if exact or (exact is None and count <= EXACT_FUNCTIONS) or real:
                virtual = _virtual(place, placement, instance if real else None, progress)
                virtual.run()
                return replace(_exact_result(virtual, instance if real else None, began, trace), costs=chosen)
            _demand_plain(trace, placement)
            from lambdaml.simulation.flow import Flow

            return _flow_result(place, Flow(*place).run(), began)

        return compute.submit(work).result()


def _costs(job: Job | None, settings: Settings) -> Costs:
    return assumed(settings.codec, parts=Parts.of(settings)) if job is None else measure_costs(job, settings)


def _demand_sense(job: object, real: bool, functions: int | None, workers: int, limits: dict[str, Any]) -> None:
    if functions is not None and not 1 <= functions <= workers:
        raise SettingsError(f"functions: must lie between 1 and the number of workers (it is {functions})")
    if real and job is None:
        raise SettingsError("real gradients need a job")
    for name in limits.keys() - set(_LIMITS):
        raise SettingsError(f"there is no option {name!r}{nearest(name, _LIMITS)}")


def _demand_plain(trace: object, placement: Placement) -> None:
    """Raise SettingsError for what only exact simulations have."""
    if trace is not None:
        raise SettingsError(f"only exact simulations have a trace: {EXACT_FUNCTIONS} functions, or exact")
    if placement:
        raise SettingsError("links that differ cannot be simulated in closed form: simulate every request")


def _steps(asked: RunOptions, updates: int | None) -> int:
    """Return the `steps` of run.json: the updates of each worker, or the commits if the schedule counts those."""
    if asked.steps is not None and updates is not None:
        raise SettingsError("give either steps or updates, not both")
    demand_workers(asked)
    asked, _ = in_slots(asked)
    parts, workers = Parts.of(asked), asked.workers
    if (updates if updates is not None else asked.steps if asked.steps is not None else 1) < 1:
        raise SettingsError("a run has at least one update")
    counted = parts.schedule.needs(workers) if asked.schedule.startswith("quorum") else workers
    return asked.steps or max(1, math.ceil((updates or max(DEFAULT_UPDATES, 50 * workers)) / counted))


def _settings(
    job: str | type[Job] | Job | None, args: dict[str, Any], asked: RunOptions
) -> tuple[Settings, Job | None]:
    if job is not None:
        job_settings, instance = resolve_job(job, args)
        return replace_token(settings_for(instance, job_settings, asked)), instance
    asked, clients = in_slots(asked)
    assert asked.steps is not None
    partition, shares = asked.partition or IID, clients or asked.workers
    batches, algorithm = min(asked.steps, 100), Parts.of(asked).algorithm
    samples = PretendedSamples(BATCH_SIZE * shares * algorithm.summands * batches)
    sampler, sha256 = deal(partition, samples, shares, BATCH_SIZE, asked.seed, algorithm.summands, asked.workers)
    per_epoch = sampler.steps_per_epoch
    return resolved_settings(
        asked,
        job=JobSettings(spec="none"),
        clients=clients,
        partition=partition,
        owners_sha256=sha256,
        batch_size=BATCH_SIZE,
        samples=len(samples),
        steps_per_epoch=per_epoch,
        parameters=0,
        snapshot_every=asked.snapshot_every or max(1, per_epoch // algorithm.batches(per_epoch)),
        token="simulated",
    ), None


def replace_token(settings: Settings) -> Settings:
    """Return the settings without the random token, so that equal simulations have equal settings."""
    return settings.model_copy(update={"token": "simulated"})


def _virtual(
    place: tuple[Any, ...], placement: Placement, job: Job | None, progress: Callable[[float], None]
) -> VirtualRun:
    from lambdaml.simulation.engine import VirtualRun

    settings, functions, costs, channel, platform, stragglers, seed = place

    def watch(now: float, event: Event) -> None:
        if event.event == "commit":
            progress(event.fraction)

    virtual = VirtualRun(settings, functions, costs, channel, platform, stragglers, seed, placement, trace=watch)
    if job is not None:
        from lambdaml.simulation.real import Timed, first_snapshot

        virtual = replace(
            virtual,
            costs=replace(costs, update_bytes=0, snapshot_bytes=0, memory_bytes=0),
            machine=lambda virtual, world: Timed(job, virtual.settings, costs, world.charge, world.now),
            start=first_snapshot(job, settings),
        )
    return virtual


def _exact_result(
    virtual: VirtualRun, job: Job | None, began: float, trace: Callable[[Trace], None] | None
) -> SimulationResult:
    from lambdaml.traces import Trace

    run = virtual.run_of()
    if job is not None:
        from lambdaml.training.evaluation import Evaluator

        Evaluator(run.store, virtual.settings, job).catch_up()
    rows = trace_rows(run)
    if trace is not None:
        trace(Trace.of(run, "simulated"))
    seconds = max(life.ended_s or 0.0 for life in virtual.lives)
    lasted = [(life.ended_s or seconds) - life.started_s for life in virtual.lives]
    commits = {row["commit"] for row in rows}
    train = result(run, seconds, run.requests)
    train = replace(train, model_sha256=None if job is None else train.model_sha256)
    stored = sum(virtual.bucket.size_bytes(key, data) for key, (data, _) in virtual.bucket.objects.items())
    return SimulationResult(
        run=train,
        lifetimes_s=tuple(lasted),
        stored_byte_s=stored / 2 * train.seconds,
        utilisation=round(sum(life.world.busy_s for life in virtual.lives) / max(sum(lasted), 1e-9), 4),
        split=Split.of(rows),
        commits=len(commits),
        exact=True,
        costs=virtual.costs,
        wall_s=round(time.monotonic() - began, 3),
        moved=virtual.moved(),
    )


def _flow_result(place: tuple[Any, ...], flow: FlowResult, began: float) -> SimulationResult:
    settings, functions, costs, *_ = place
    train = TrainResult(
        run="virtual",
        stop=flow.stop,
        version=flow.version,
        metrics={},
        seconds=round(flow.seconds, 3),
        samples=flow.batches * settings.batch_size,
        updates=flow.updates,
        requests=dict(sorted(flow.requests.items())),
        bytes={"sent": flow.bytes_sent, "received": flow.bytes_received},
        staleness=flow.staleness,
        fates=flow.fates,
        rejections="",
        model_sha256=None,
    )
    return SimulationResult(
        run=train,
        lifetimes_s=(flow.function_seconds / functions,) * functions,
        stored_byte_s=flow.bytes_sent / 2 * train.seconds,
        utilisation=round(flow.busy_s / max(flow.function_seconds, 1e-9), 4),
        split=_share(flow.staleness.mean, flow.cycle_s),
        commits=flow.commits,
        exact=False,
        costs=costs,
        wall_s=round(time.monotonic() - began, 3),
    )


def _share(staleness: float, cycle_s: dict[str, float]) -> Split | None:
    """Return the mean staleness by phase, if only the lengths of the phases are known.

    Steps are committed at an even pace, so each phase has a share of the staleness equal to its share of the time.
    """
    phases = {
        "storage": cycle_s.get("read", 0.0) + cycle_s.get("upload", 0.0),
        "compute": cycle_s.get("queue", 0.0) + cycle_s.get("compute", 0.0) + cycle_s.get("encode", 0.0),
        "wait": cycle_s.get("commit", 0.0),
    }
    whole = sum(phases.values())
    return Split(**{name: staleness * seconds / whole for name, seconds in phases.items()}) if whole else None

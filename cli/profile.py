"""The verb `lambdaml profile`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lambdaml.cli import _format, _options
from lambdaml.cli._measured import measured
from lambdaml.cli._simulated import seconds as shown_s
from lambdaml.cli.train import Args, JobSpec, Seed, parse_args
from lambdaml.errors import UserError

if TYPE_CHECKING:
    from lambdaml.cost.profiling.facts import CoherenceFacts, NoiseScale, StepTime, StoreFacts
    from lambdaml.cost.profiling.profile import Profile

_Store = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Also measure this store from here, with about a hundred small objects under `probe/`, which are removed "
        "again.",
    ),
]
_Target = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC>=X",
        help="Train to this target here, also with more and with staler updates, to learn how many steps that takes.",
    ),
]
WorkersHint = Annotated[
    int, typer.Option(min=1, metavar="N", help="The most workers that a plan may choose; the trainings cover as many.")
]
_Algorithms = Annotated[
    list[str] | None,
    typer.Option(
        "--algorithm",
        metavar="NAME",
        help="An algorithm of the trainings to the target, such as `local:20,outer=nesterov`; by default `gradient` "
        "alone. Repeatable.",
    ),
]
_Codecs = Annotated[
    list[str] | None,
    typer.Option(
        "--codec",
        metavar="NAME",
        help="A codec to measure, such as `topk:0.01`; with a target, trainings tell how many more steps it needs. By "
        "default all that fit the job, as far as there is time. Repeatable.",
    ),
]
Seconds = Annotated[
    float,
    typer.Option(
        min=1.0,
        metavar="S",
        help="The approximate seconds to spend; trainings to a target take one and a half times as long besides.",
    ),
]
_Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The file to write the profile to; by default ./<job>.profile.json.")
]


def profile(
    job: JobSpec,
    store: _Store = None,
    args: Args = None,
    target: _Target = None,
    workers_hint: WorkersHint = 16,
    algorithm: _Algorithms = None,
    codec: _Codecs = None,
    seconds: Seconds = 60.0,
    out: _Out = None,
    device: _options.Device = "auto",
    seed: Seed = 0,
    as_json: _options.Json = False,
) -> int:
    """Measure what a plan must know about a job, and write it to a file. This takes a minute, or two
    and a half with a target.

    The profile holds the times of gradients by batch size, the memory, the sizes and times of updates by codec, the
    gradient noise scale, the coherence and the times of a store's requests. It also says what measuring itself took.
    """
    place = out or Path(f"{job.rpartition(':')[2].rpartition('/')[2].removesuffix('.py').lower()}.profile.json")
    if not place.parent.is_dir():
        raise UserError(f"cannot write {place}: there is no folder {place.parent}")
    arguments = parse_args(args or ())

    found = measured(
        job,
        args=arguments,
        store=store,
        target=target,
        workers=workers_hint,
        algorithms=tuple(dict.fromkeys(algorithm or ("gradient",))),
        codecs=tuple(codec or ()),
        seconds=seconds,
        device=device,
        seed=seed,
    )
    found.dump(place)
    if as_json:
        _format.print_json(json.loads(place.read_text()))
    else:
        _print(found, place)
    return 0


def _print(found: Profile, place: Path) -> None:
    _format.print_pairs(_facts(found))
    print()
    headings = ["batch", "gradient", "p95", "p99", "fitted", "memory"]
    rows = [
        [
            f"{point.batch_size:,}",
            *(shown_s(value) for value in (point.median_s, point.p95_s, point.p99_s)),
            shown_s(found.step_time.step_s(point.batch_size)),
            f"{point.peak_memory_mb:,.0f} MB",
        ]
        for point in found.step_time.points
    ]
    _format.print_table(headings, rows)
    print()
    headings = ["codec", "update", "encode", "read", "apply"]
    _format.print_table(
        headings,
        [
            [name, _format.size(codec.update_bytes), *map(shown_s, (codec.encode_s, codec.read_s, codec.apply_s))]
            for name, codec in found.codecs.items()
        ],
        left=["codec"],
    )
    if found.store is not None:
        print()
        _print_store(found.store)
    if found.pilot:
        print()
        _print_pilots(found)
    print()
    print(f"kept in {_format.shown(str(place))}")


MANY_WORKERS = 10**6
"""A number of workers whose updates would fill any memory."""


def _facts(found: Profile) -> Iterator[tuple[str, str]]:
    job, machine, spent = found.job, found.machine, found.spent
    yield "job", f"{job.samples:,} samples, batch {job.batch_size:,}, {job.parameters:,} parameters"
    yield (
        "machine",
        f"{machine.processor}, one of {machine.cores} cores, {machine.gflops:.0f} Gflop/s, {machine.device}",
    )
    yield job.algorithm, _line(found.step_time)
    yield "step", f"{shown_s(found.optimizer_s)} for the optimizer; see codecs for its updates"
    yield "sizes", f"model {_format.size(job.model_bytes)}, snapshot {_format.size(job.snapshot_bytes)}"
    yield "memory", _memory(found)
    if job.algorithm == "gradient":
        yield "noise scale", _noise(found.noise)
    if found.coherence is not None:
        yield "coherence", _coherence(found.coherence)
    requests = sum(spent.requests.values())
    traffic = (
        f"{requests:,} requests, {_format.size(spent.sent_bytes)} sent, {_format.size(spent.received_bytes)} received"
    )
    took = _format.duration(spent.seconds)
    yield "this took", f"{took}, {spent.gradients:,} gradients, {traffic if requests else 'no requests'}"


def _line(found: StepTime) -> str:
    return (
        f"{shown_s(found.overhead_s)} + {shown_s(found.slope_s_per_sample)} a sample, fits within "
        f"{100 * found.worst_fit_error:.0f} %; p95 {found.p95_over_p50:.2f} and p99 {found.p99_over_p50:.2f} medians"
    )


def _memory(found: Profile) -> str:
    batch = found.job.batch_size
    peak_mb, most_mb = found.memory.peak_mb(batch), found.function_mb(batch, MANY_WORKERS)
    return (
        f"{peak_mb:,.0f} MB with a batch of {batch:,}; in functions up to {most_mb - peak_mb:,.0f} MB of updates beside"
    )


def _noise(found: NoiseScale | None) -> str:
    if found is None or found.samples is None:
        return "not measurable: gradients drown in the noise"
    course = ", ".join(
        "none" if point.noise_scale_samples is None else f"{point.noise_scale_samples:,.3g}" for point in found.points
    )
    return f"{found.samples:,.3g} samples (in the course of the training {course})"


def _coherence(found: CoherenceFacts) -> str:
    cosines = ", ".join(f"{value:.2f} after {lag}" for lag, value in found.cosine.items())
    bound = "at least " if found.tolerance_at_least else ""
    return f"cosine {cosines} steps; staleness that is worth its step: {bound}{found.tolerance_steps:.3g}"


def _print_store(store: StoreFacts) -> None:
    print(f"store {_format.shown(store.url)}, {_bandwidth(store)}")
    rows = [
        [kind, f"{times.count:,}", *map(shown_s, (times.p50_s, times.p95_s, times.p99_s))]
        for kind, times in store.request_times.items()
    ]
    _format.print_table(["request", "count", "p50", "p95", "p99"], rows, left=["request"])


def _bandwidth(store: StoreFacts) -> str:
    ways = (("reads", store.read_bytes_per_s), ("writes", store.write_bytes_per_s))
    return ", ".join(f"{way} {_format.size(rate)}/s" if rate else f"{way} in no time" for way, rate in ways)


def _print_pilots(found: Profile) -> None:
    from lambdaml.cost.planning.pilot import PLAIN

    print(f"steps to {found.target}")
    names = [
        name
        for name, usual in (("algorithm", "gradient"), ("codec", PLAIN))
        if any(getattr(run, name) != usual for run in found.pilot)
    ]
    rows = [
        [
            *[getattr(run, name) for name in names],
            f"{run.group}",
            f"{run.delay}",
            f"{run.seed}",
            f"{run.steps:,}" if run.steps is not None else "not reached",
            _format.duration(run.seconds),
        ]
        for run in found.pilot
    ]
    _format.print_table([*names, "updates a step", "staleness", "seed", "steps", "took"], rows, left=names)

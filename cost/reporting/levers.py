"""The levers of a run: what could have been otherwise, and the run's own model with that one thing changed.

`causes` takes away, one at a time, all that a thing costs: that is the most that anybody can win there. `remedies` are
steps that one can take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lambdaml.cost.reporting.recorded import Pace, RecordedRun
from lambdaml.errors import SettingsError
from lambdaml.partitions import IID
from lambdaml.parts import Parts
from lambdaml.schedules import in_rounds
from lambdaml.simulation.channel import Channel
from lambdaml.storage.latency import PRESETS, LatencyModel

STORE, BYTES, WORKER, UNEVEN = "store latency", "bandwidth", "a slow worker", "uneven steps"
COMPUTE, OPTIMIZER, STARTS = "compute", "codec and optimizer", "cold starts"

SLOW = 1.3
"""A function whose steps take so many times as long as usual is called slow."""

_AT_ONCE_S = 1e-4
"""The seconds of a request to a store that answers at once: those of a disk."""

_LOOK = "look at that function's machine and its data; or --schedule quorum:K, which does not wait for the last"

_WARM_S = 0.05
"""The seconds in which a function starts whose environment is there: those of a warm start of Lambda."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is otherwise.

    Attributes:
        what: The thing.
        sentence: The change, as a phrase that follows "with".
        hint: The option that makes the change, or what to look for.
        run: Returns the run's model with the change, and may raise SettingsError.
        since: The run's model that it is compared with; None for the run as it was.
        store: The store whose prices it has, if it has others.
    """

    what: str
    sentence: str
    hint: str
    run: Callable[[], RecordedRun]
    since: RecordedRun | None = None
    store: str = ""


def causes(run: RecordedRun) -> Iterator[Change]:
    """Yield what the run's time may have gone into, each without its costs."""
    read_s, write_s = (run.channel.latency_s(kind, 0.5) for kind in ("get", "create"))
    bandwidth, size = _bandwidth(run), run.costs.update_bytes
    start_s = max(run.starts_s, default=0.0)
    alike = replace(run, pace=run.pace.alike())
    even = replace(alike, pace=alike.pace.even())
    rest = replace(run.costs, encode_s=0.0, apply_s=0.0, apply_update_s=0.0)
    yield Change(
        STORE,
        f"a store that answers at once (it took {_ms(read_s)} for a read and {_ms(write_s)} for a write)",
        "a faster store, or fewer requests in a row: see --pattern, and local:K of --algorithm",
        lambda: replace(run, channel=_answering(run.channel, _AT_ONCE_S)),
    )
    if math.isfinite(bandwidth):
        yield Change(
            BYTES,
            f"bytes that take no time (an update of {_kb(size)} took {_ms(size / bandwidth)} each way)",
            "fewer bytes (--codec), or functions and a store with more bandwidth",
            lambda: _with_bandwidth(run, math.inf),
        )
    if run.functions > 1:
        slow = f"{_slow(run)} as fast as the others" if run.slowest[1] > SLOW else "functions that are all as fast"
        yield Change(WORKER, slow, _LOOK, lambda: alike)
    yield Change(
        UNEVEN,
        "steps that all take as long as the mean one",
        "batches of the same size, and nothing else on the machine; or --schedule ssp:3",
        lambda: even,
        since=alike,
    )
    step_s = run.costs.step_s * run.pace.alike().even().factors[0][0]
    yield Change(
        COMPUTE,
        f"gradients that take no time (each batch took {_ms(step_s)})",
        "more memory or cores for each function, or more workers",
        lambda: replace(even, costs=replace(run.costs, step_s=1e-6)),
        since=even,
    )
    yield Change(
        OPTIMIZER,
        "a codec and an optimizer that take no time",
        "a cheaper codec, or --pattern scatter, with which each function adds up a part",
        lambda: replace(run, costs=rest),
    )
    yield Change(
        STARTS,
        f"functions that start at once (the slowest took {start_s:.1f} s until its work went on as usual)",
        "functions that are kept warm, a smaller image, fewer imports in the job's file",
        lambda: replace(run, starts_s=()),
    )


def remedies(run: RecordedRun) -> Iterator[Change]:
    """Yield the steps that one could take."""
    yield from _of_the_store(run)
    yield from _of_the_functions(run)
    yield from _of_the_settings(run)


def _of_the_store(run: RecordedRun) -> Iterator[Change]:
    express = PRESETS["s3-express"]
    if run.channel.latency_s("get", 0.5) > express.read_s[0]:
        faster = replace(express, bandwidth_bytes_per_s=run.channel.bandwidth_bytes_per_s)
        yield Change(
            "faster store",
            "a store as fast as S3 Express (5 ms for a read, 8 ms for a write)",
            "--store s3://BUCKET--ZONE--x-s3/...",
            lambda: replace(run, channel=replace(run.channel, model=faster)),
            store="s3-express",
        )
    bandwidth = _bandwidth(run)
    if math.isfinite(bandwidth):
        yield Change(
            "more bandwidth",
            "twice the bandwidth",
            "functions with more memory, or in the store's region",
            lambda: _with_bandwidth(run, 2.0),
        )
    for share, text, codec in ((2, "half", "bf16"), (4, "a quarter of", "int8")):
        if run.costs.update_bytes and math.isfinite(bandwidth):
            hint = f"--codec {codec}" if run.settings.codec == "fp32" else "a codec that keeps less; see --codec"
            costs = replace(run.costs, update_bytes=run.costs.update_bytes // share)
            yield Change("fewer bytes", f"{text} the bytes", hint, lambda costs=costs: replace(run, costs=costs))  # type: ignore[misc]


def _of_the_functions(run: RecordedRun) -> Iterator[Change]:
    if run.functions > 1 and run.slowest[1] > SLOW:
        yield Change(
            "no straggler",
            f"{_slow(run)} as fast as the others",
            _LOOK,
            lambda: replace(run, pace=run.pace.alike()),
        )
    yield Change(
        "faster compute",
        "gradients in half the time",
        "twice the memory or cores for each function",
        lambda: replace(run, costs=replace(run.costs, step_s=run.costs.step_s / 2)),
    )
    if max(run.starts_s, default=0.0) > _WARM_S:
        yield Change(
            "warm functions",
            "functions that are warm when the run begins",
            "functions that are kept warm, or one run after the other",
            lambda: replace(run, starts_s=(_WARM_S,) * run.functions),
        )
    if run.functions < run.settings.workers:
        yield Change(
            "more functions",
            "a function, and a core, for each worker",
            f"--functions {run.settings.workers}",
            lambda: _spread(run, run.settings.workers),
        )


def _of_the_settings(run: RecordedRun) -> Iterator[Change]:
    settings = run.settings
    other = "asp" if in_rounds(Parts.of(settings).schedule, settings.workers) else "bsp"
    if settings.schedule != other:
        note = "nobody waits for others" if other == "asp" else "nobody needs the log"
        yield Change(
            "other schedule",
            f"schedule {other}, in which {note}, if it needs no more updates",
            f"--schedule {other}",
            lambda: run.with_settings(schedule=other),
        )
    for pattern in ("gather", "fold", "scatter", "tree:4"):
        if pattern != settings.pattern:
            yield Change(
                "other pattern",
                f"pattern {pattern}",
                f"--pattern {pattern}",
                lambda pattern=pattern: run.with_settings(pattern=pattern),  # type: ignore[misc]
            )
    if settings.partition == IID and settings.clients is None:
        for what, workers in (("fewer workers", settings.workers // 2), ("more workers", 2 * settings.workers)):
            if workers:
                yield Change(
                    what,
                    f"{workers} workers and as many updates in all",
                    f"--workers {workers}",
                    lambda workers=workers: _with_workers(run, workers),  # type: ignore[misc]
                )


def _with_bandwidth(run: RecordedRun, times: float) -> RecordedRun:
    """Return the run with so many times the bandwidth."""
    model = run.channel.model
    faster = replace(model, bandwidth_bytes_per_s=times * model.bandwidth_bytes_per_s)
    network = times * run.network_bytes_per_s
    return replace(run, channel=replace(run.channel, model=faster), network_bytes_per_s=network)


def _bandwidth(run: RecordedRun) -> float:
    return min(run.channel.bandwidth_bytes_per_s, run.network_bytes_per_s)


def _answering(channel: Channel, most_s: float) -> Channel:
    """Return the channel with no request that takes longer than this, but for its bytes."""
    read_s, write_s = (min(most_s, channel.latency_s(kind, 0.5)) for kind in ("get", "create"))
    model = LatencyModel((read_s, read_s), (write_s, write_s), channel.bandwidth_bytes_per_s)
    return replace(channel, model=model)


def _spread(run: RecordedRun, functions: int) -> RecordedRun:
    """Return the run on another number of functions. The slowest of them stays."""
    paces = sorted(run.pace.factors, key=lambda each: -sum(each) / len(each))
    starts = sorted(run.starts_s, reverse=True)
    chosen = tuple(starts[index % len(starts)] for index in range(functions)) if starts else ()
    return replace(run, functions=functions, pace=Pace(tuple(paces[:functions])), starts_s=chosen)


def _with_workers(run: RecordedRun, workers: int) -> RecordedRun:
    if Parts.of(run.settings).schedule.needs(workers) > workers:
        raise SettingsError(f"schedule {run.settings.schedule!r} waits for more than {workers} workers")
    functions = max(1, run.functions * workers // run.settings.workers)
    steps = max(1, run.settings.steps * run.settings.workers // workers)
    return _spread(run.with_settings(workers=workers, steps=steps), functions)


def _slow(run: RecordedRun) -> str:
    workers, times = run.slowest
    names = f"worker{'s' if workers[1:] else ''} {' and '.join(map(str, workers))}"
    return f"{names} (steps {times:.1f} times as long as usual)"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _kb(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.3g} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.3g} kB"

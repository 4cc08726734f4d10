"""Pilots: how many optimizer steps a job takes to a target, by batch size and staleness, tried on this machine.

A pilot is a run without its clock: it computes real gradients in the order in which equally fast workers make them.
With `group` updates per step and a `delay` of d steps, it represents bsp on `group` workers (d = 0), asp on d + 1
workers (one update per step), and what lies between. The virtual world knows how long such runs take.

A pilot with local steps is synchronous: its `group` workers take their local steps one after the other, each with what
it remembers, and a step of the pilot is the outer optimizer's. A pilot of a codec encodes and decodes every update as a
run does, with the error feedback of each worker; see `lambdaml.cost.planning.codec_pilots`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lambdaml.algorithms import ALGORITHMS
from lambdaml.errors import SettingsError
from lambdaml.job import Job
from lambdaml.log.commits import averaged
from lambdaml.log.records import Update
from lambdaml.options import RunOptions
from lambdaml.settings import Settings, parse_target, reached
from lambdaml.training.asked import resolve_job, settings_for
from lambdaml.training.evaluation import evaluate

PLAIN = "fp32"
"""The codec of a pilot unless another one is asked for. Its updates have the size of the gradient."""

GROWTH = 1.03
"""The factor by which the distance between evaluations grows. At most every second step is evaluated, or each round of
local steps."""

HOPELESS = 6.0
"""The multiple of the first pilot's steps after which one with a delay gives up. Others give up after twice as many."""

PATIENCE = 3.0
"""The multiple of the steps of the pilot beside it after which a pilot gives up."""

MAX_STEPS = 20_000
"""The steps of a worker after which the first pilot gives up."""

STEEP = 1.5
"""The factor between the steps of neighbouring delays from which one more pilot is made between the two."""


@dataclass(frozen=True, slots=True)
class PilotRun:
    """One pilot.

    Attributes:
        group: The updates that each optimizer step averages.
        delay: The steps between the version from which an update is computed and the step that applies it.
        batch: The most samples of an update.
        curve: Pairs of a version and the value of the target's metric, until the pilot reached the target or gave up.
        steps: The optimizer steps to the target, or None if it was not reached.
        seconds: The seconds that the pilot took here.
        algorithm: The algorithm. With local steps, a step of the pilot is a round of them.
        codec: The codec of the updates.
        update_bytes: The mean bytes of an update's payload, or 0 in profiles of earlier versions.
    """

    group: int
    delay: int
    batch: int
    seed: int
    curve: tuple[tuple[int, float], ...]
    steps: int | None
    seconds: float
    algorithm: str = "gradient"
    codec: str = PLAIN
    update_bytes: int = 0


def default_plan(workers: int, algorithm: str = "gradient") -> list[tuple[int, int]]:
    """Return the (group, delay) of pilots that tell enough about up to this many workers, the most telling first. Pilots
    with local steps have no delay."""
    most = max(1, workers)
    sizes = [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
    groups = sorted({1, most, *sizes[2::2]})
    if algorithm != "gradient":
        return [(group, 0) for group in groups]
    stale = [(1, size - 1) for size in sizes[1:]]
    return [
        (1, 0),
        *[(group, 0) for group in groups[1:]],
        *stale,
        *[(size, delay) for size in (4,) for delay in (1, 3) if most > 4],
    ]


def pilot(
    job: str | type[Job] | Job,
    target: str,
    *,
    args: Mapping[str, Any] | None = None,
    algorithm: str = "gradient",
    codec: str = PLAIN,
    plan: Iterable[tuple[int, int]] | None = None,
    beside: PilotRun | None = None,
    batch: int | None = None,
    seeds: Iterable[int] = (101, 102, 103, 104),
    seconds: float = 60.0,
    progress: Callable[[float], None] = lambda share: None,
) -> list[PilotRun]:
    """Train the job to the target once for each seed and entry of the plan.

    Args:
        target: The target, as in `train`.
        algorithm, codec: The algorithm and the codec, as in `train`. Each worker remembers what it would remember in a
            run.
        plan: The (group, delay) of each pilot in the order of their importance. Defaults to pilots for up to 16
            workers. If the steps rise steeply from one delay to the next, delays between them are added.
        beside: A pilot that reached the target in another way. Those that learn `PATIENCE` times as slowly give up, and
            one that the time cuts short before is left out.
        batch: The samples of an update, in place of the job's own.
        seeds: The seeds of each entry. A seed begins when the one before has gone through the plan.
        seconds: The seconds after which no further pilot begins. The first is always made.

    Raises:
        SettingsError: If the job does not report the target's metric.
        JobFailed, JobError: If the job's own code failed.
    """
    from lambdaml.training.one_thread import OneThread

    job_settings, instance = resolve_job(job, dict(args or {}))
    if batch is not None:
        vars(instance)["batch_size"] = batch
    asked, rounds = list(plan or default_plan(16, algorithm)), list(seeds)
    began, first, method = time.monotonic(), MAX_STEPS, ALGORITHMS.make(algorithm)
    runs: list[PilotRun] = []
    with OneThread() as compute:
        for seed, (group, delay) in ((seed, entry) for seed in rounds for entry in asked):
            if runs and time.monotonic() - began > seconds:
                break
            workers, schedule = max(group, delay + 1), "asp" if delay else "bsp"
            options = RunOptions(
                workers=workers,
                schedule=schedule,
                algorithm=algorithm,
                codec=codec,
                steps=method.fragments,
                target=target,
                seed=seed,
                snapshot_every=1,
            )
            settings = settings_for(instance, job_settings, options)
            if not runs:
                first = max(1, MAX_STEPS // method.batches(settings.steps_per_epoch))
            most, end = round(first * (HOPELESS if delay else 2.0)) if runs else first, began + 1.5 * seconds
            run = compute.submit(_train, instance, settings, group, delay, most, end, beside).result()
            if beside is not None and run.steps is None and time.monotonic() >= end:
                break
            if not runs and run.steps is not None:
                first = run.steps
            runs.append(run)
            if len(runs) == len(asked):
                asked += _between(runs)
            progress(len(runs) / (len(asked) * len(rounds)))
    return runs


def _between(runs: Sequence[PilotRun]) -> list[tuple[int, int]]:
    """Return the middle of the steepest rise between two neighbouring delays, if any is steep, in runs of one seed."""
    rises = []
    for group in {run.group for run in runs}:
        tried = sorted((run.delay, run.steps or math.inf) for run in runs if run.group == group)
        for (low, few), (high, many) in pairwise(tried):
            if high - low > 1 and few < math.inf and many > STEEP * few:
                rises.append((many / few, (group, (low + high) // 2)))
    return [max(rises)[1]] if rises else []


def _behind(curve: Sequence[tuple[int, float]], target: str, beside: PilotRun) -> bool:
    """Return whether a pilot with this curve learns `PATIENCE` times as slowly as the one beside it. That is not asked
    before it has taken as many steps as that one in all."""
    version = curve[-1][0]
    if beside.steps is None or version < beside.steps:
        return False
    if version >= PATIENCE * beside.steps:
        return True
    best = max if parse_target(target)[1].startswith(">") else min
    own, goal = best(value for _, value in curve), [value for at, value in beside.curve if at <= version / PATIENCE]
    return bool(goal) and best(own, *goal) != own


def _train(
    job: Job, settings: Settings, group: int, delay: int, most: int, end: float, beside: PilotRun | None
) -> PilotRun:
    """Make one pilot, which stops at the target, after `most` steps, when the time is over, or when it is too slow."""
    from lambdaml.training.replica import Replica

    assert settings.target is not None
    name = parse_target(settings.target)[0]
    began = time.monotonic()
    replica = Replica(job, settings)
    flight: deque[list[Update]] = deque()
    curve: list[tuple[int, float]] = []
    stride = 1 if replica.algorithm.batches(settings.steps_per_epoch) > 1 else 2
    due, made, sent_bytes = stride, 0, 0
    while replica.version < most and time.monotonic() < end:
        numbers = (divmod(number, settings.workers) for number in range(made, made + group))
        flight.append([replica.update(worker, seq) for seq, worker in numbers])
        made += group
        sent_bytes += sum(array.nbytes for update in flight[-1] for array in update.body.values())
        if len(flight) <= delay:
            continue
        step = flight.popleft()
        if any(replica.check(update) for update in step):
            break
        replica.apply(averaged(replica.version, replica.version, step), {update.id: update for update in step})
        if replica.version >= due:
            metrics = evaluate(job, replica.state())
            if name not in metrics:
                raise SettingsError(f"target {settings.target!r}: the job reports {', '.join(sorted(metrics))}")
            curve.append((replica.version, metrics[name]))
            if reached(settings.target, metrics) or (beside and _behind(curve, settings.target, beside)):
                break
            due = max(replica.version + stride, math.ceil(replica.version * GROWTH))
    done = bool(curve) and reached(settings.target, {name: curve[-1][1]})
    return PilotRun(
        group,
        delay,
        settings.batch_size,
        settings.seed,
        tuple(curve),
        curve[-1][0] if done else None,
        round(time.monotonic() - began, 3),
        settings.algorithm,
        settings.codec,
        round(sent_bytes / max(1, made)),
    )

"""This module resolves what was asked for: the job and its sources, a free place, and settings to the last number."""

from __future__ import annotations

import inspect
import itertools
import math
import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lambdaml.algorithms import ALGORITHMS
from lambdaml.errors import JobError, JobFailed, SettingsError, UserError
from lambdaml.job import Job
from lambdaml.log.extra import EXTRAS
from lambdaml.log.numerics import Numerics
from lambdaml.log.state import RECENT
from lambdaml.options import RunOptions
from lambdaml.partitions import DRAWN, IID, OWN, PARTITIONS
from lambdaml.parts import Parts
from lambdaml.schedules import SCHEDULES, cohort_of
from lambdaml.settings import JobSettings, RunVersion, Settings, make_settings
from lambdaml.training.arguments import fit_arguments
from lambdaml.training.history_room import BYTES_PER_PARAMETER, default_interval, history_bound, rounds_of
from lambdaml.training.job_kind import demand_kind
from lambdaml.training.loading import construct, make_job
from lambdaml.training.members import check_members
from lambdaml.training.owners import DatasetSamples, parts_itself
from lambdaml.training.source import fingerprint, split_spec
from lambdaml.tuners import STEPS

if TYPE_CHECKING:
    from torch import nn

DEFAULT_EPOCHS = 10
MAX_EPOCHS = 1000
"""A run that has a target and no other end gives up after this many epochs."""


def places(spec: str, folder: str = "runs") -> Iterator[str]:
    """Yield the paths `runs/<job>-<n>` that are free now, in order."""
    path, name = split_spec(spec)
    name = re.sub(r"[^\w.-]+", "-", name or os.path.basename(path).removesuffix(".py")).lower()
    for number in itertools.count(1):
        place = os.path.join(folder, f"{name}-{number}")
        if not os.path.exists(place):
            yield place


@contextmanager
def free_place(spec: str) -> Iterator[str]:
    """Reserve the next free `runs/<job>-<n>` and give its `file://` URL. It becomes free again only if nothing was put
    there by the end of the block.

    Raises:
        UserError: If no folder can be made there.
    """
    beside = os.path.isdir("runs")
    for place in places(spec):
        try:
            os.makedirs(place)
            break
        except FileExistsError:
            continue  # another process was faster
        except OSError as error:
            raise UserError(f"cannot make {place}: {error.strerror or error}") from error
    whole = os.path.abspath(place)
    try:
        yield f"file://{quote(whole)}"
    finally:
        with suppress(OSError):
            os.rmdir(whole)
            if not beside:
                os.rmdir(os.path.dirname(whole))


def resolve_job(job: str | type[Job] | Job, args: dict[str, Any], as_object: bool = False) -> tuple[JobSettings, Job]:
    """Return what run.json says about the job, and the job.

    Args:
        job: The job, as `train` takes it.
        args: The arguments of its constructor.
        as_object: Whether the job may be a class that is in no file, such as a class of a notebook.

    Raises:
        JobError: If the job cannot be imported or built, or other processes cannot import it and must.
    """
    if not isinstance(job, str | Job) and not stands_in_a_file(job):
        if not as_object:
            raise JobError(f"{job.__name__} stands in no file, so that no other process can import it")
        fitted = fit_arguments(job, args, job.__name__)
        instance = construct(job, fitted, job.__name__)
        check_members(instance)
        return JobSettings(spec=job.__name__, args=fitted), instance
    if isinstance(job, Job):
        check_members(job)
        return JobSettings(spec=type(job).__name__, args=args), job
    if not isinstance(job, str):
        job = f"{inspect.getfile(job)}:{job.__qualname__}"
    before = fingerprint(job)
    instance, fitted = make_job(job, args)
    if fingerprint(job) != before:
        raise JobError(f"{job} was edited while it was loaded: try again")
    if not split_spec(job)[1]:
        job = f"{job}:{type(instance).__name__}"
    return JobSettings(spec=_absolute(job), args=fitted, fingerprint=before), instance


def stands_in_a_file(job: str | type[Job] | Job) -> bool:
    """Return whether another process can import the job; it cannot import a class of a notebook's cell."""
    if isinstance(job, str | Job):
        return isinstance(job, str)
    try:
        return bool(fingerprint(f"{inspect.getfile(job)}:{job.__qualname__}"))
    except (OSError, TypeError, JobError):
        return False


def _absolute(spec: str) -> str:
    path, name = split_spec(spec)
    return f"{os.path.abspath(path)}:{name}" if path.endswith(".py") else spec


def settings_for(
    job: Job,
    job_settings: JobSettings,
    asked: RunOptions,
    *,
    init_from: RunVersion | None = None,
    numerics: Numerics | None = None,
    free_bytes: int | None = None,
) -> Settings:
    """Resolve what was asked for to the last number.

    Args:
        job: The job.
        job_settings: The part of run.json that names the job.
        asked: The options that were given.
        init_from: The version that `asked.init_from` names.
        numerics: The class that functions compute in; None if they compute nothing.
        free_bytes: The space that is left in the store, if that is known.

    Raises:
        SettingsError: If an option makes no sense, or does not fit the others.
        JobError: If the job's dataset or batch size cannot be used.
    """
    from lambdaml.training.jobparts import build_model
    from lambdaml.training.sampling import deal
    from lambdaml.training.travels import demand_accuracy

    samples = _samples(job)
    if not isinstance(job.batch_size, int) or job.batch_size < 1:
        raise JobError(f"{type(job).__name__}.batch_size must be 1 or more, not {job.batch_size!r}")
    batch_size = asked.batch_size or job.batch_size
    if not isinstance(batch_size, int) or batch_size < 1:
        raise SettingsError(f"batch_size: must be 1 or more (it is {batch_size!r})")
    demand_workers(asked)
    demand_kind(job, asked)
    partition = _partition(asked, job)
    asked, clients = in_slots(asked)
    model = build_model(job)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    parts = Parts.of(asked)
    shares, summands = clients or asked.workers, parts.algorithm.summands
    sampler, sha256 = deal(partition, samples, shares, batch_size, asked.seed, summands, asked.workers)
    per_epoch = sampler.steps_per_epoch
    _demand_carried(asked, parts, model, job)
    if parts.tuner is not None:
        demand_accuracy(job, model, samples.dataset)
    steps, batches = _length(asked, parts, per_epoch)
    each, snapshot_every = parts.algorithm.batches(per_epoch), asked.snapshot_every
    if snapshot_every is None:
        kept = rounds_of(asked.keep)
        snapshot_every = default_interval(max(1, per_epoch // each), asked.workers, parameters, kept)
    return resolved_settings(
        asked,
        job=job_settings,
        clients=clients,
        steps=steps,
        batches=batches if each > 1 and not sha256 else None,
        partition=partition,
        owners_sha256=sha256,
        batch_size=batch_size,
        samples=len(samples),
        steps_per_epoch=per_epoch,
        parameters=parameters,
        snapshot_every=snapshot_every,
        **history_bound(asked.keep, free_bytes, snapshot_every, BYTES_PER_PARAMETER * parameters * asked.workers),
        init_from=init_from,
        numerics=numerics,
        token=secrets.token_hex(8),
        versions=versions(),
    )


def _length(asked: RunOptions, parts: Parts, per_epoch: int) -> tuple[int, int | None]:
    """Return the number of updates that each worker makes, and of batches that they cover, if `epochs` says so.

    Raises:
        SettingsError: If the options contradict each other, or the run would be too short for its algorithm.
    """
    if asked.steps is not None and asked.epochs is not None:
        raise SettingsError("give either steps or epochs, not both")
    if asked.epochs is not None and not 0 < asked.epochs < math.inf:
        raise SettingsError(f"epochs: must be more than 0 (it is {asked.epochs!r})")
    steps, batches = asked.steps, None
    if steps is None and parts.knob is not None and parts.knob.name == STEPS:
        raise SettingsError(
            f"tuner {asked.tune!r} decides how many batches an update covers, and so how many updates an epoch has: give the "
            "number of updates, steps"
        )
    if steps is None:
        each = parts.algorithm.batches(per_epoch)
        epochs = asked.epochs or (DEFAULT_EPOCHS if asked.target is None else MAX_EPOCHS)
        batches = max(1, round(epochs * per_epoch))
        if each > batches:
            raise SettingsError(
                f"algorithm {asked.algorithm!r} takes {each} batches for an update, but a worker has only {batches} "
                f"batches in {epochs:g} epochs: take fewer for an update, or more epochs"
            )
        steps = -(-batches // each)
    _demand_turns(asked, parts, steps)
    return steps, batches


def _partition(asked: RunOptions, job: Job) -> str:
    """Return the name of the partition that deals the job's samples.

    Raises:
        SettingsError: If the algorithm needs samples that have owners, and the partition that was asked for gives them none.
    """
    duals = ALGORITHMS.make(asked.algorithm).duals
    name = asked.partition or (OWN if parts_itself(job) else DRAWN if duals else IID)
    if duals and not PARTITIONS.make(name).lasting:
        raise SettingsError(
            f"algorithm {asked.algorithm!r} needs workers that keep their samples, and partition {name!r} deals them anew each "
            f"epoch: use {DRAWN}"
        )
    return name


def in_slots(asked: RunOptions) -> tuple[RunOptions, int | None]:
    """Return the options of a run of cohorts with the slots of a round as its workers, and the number of those who take
    turns in them; the options as they are, and None, if every worker takes part in each round.

    Raises:
        SettingsError: If a cohort has more members than there are workers.
    """
    size = cohort_of(SCHEDULES.make(asked.schedule))
    if size is None:
        return asked, None
    if size > asked.workers:
        raise SettingsError(f"schedule {asked.schedule!r} takes {size} workers a round, and there are {asked.workers}")
    return replace(asked, workers=size), asked.workers


def _demand_carried(asked: RunOptions, parts: Parts, model: nn.Module, job: Job) -> None:
    """Make sure that the codec, the pattern, the aggregate and what is measured go with the updates of this model.

    Raises:
        SettingsError: If they cannot.
    """
    from lambdaml.algorithms.fragments import fragment_layouts
    from lambdaml.training.flat import layout_of
    from lambdaml.training.per_sample import inseparable
    from lambdaml.training.slices import unsliceable

    layout, count = layout_of(model), parts.algorithm.fragments
    if count > 1 and not min(each.size for each in fragment_layouts(layout, count)):
        raise SettingsError(
            f"algorithm {asked.algorithm!r} divides the parameters into {count} fragments, and this model has only "
            f"{sum(span.stop > span.start for span in layout.spans)} of them that are not empty: take fewer fragments"
        )
    if fault := parts.codec.misfit(layout):
        raise SettingsError(f"codec {asked.codec!r} {fault}")
    if fault := unsliceable(parts, model):
        raise SettingsError(f"pattern {asked.pattern!r} {fault}")
    if parts.aggregate is not None and (fault := _unguarded(model)):
        raise SettingsError(f"aggregate {asked.aggregate!r} {fault}")
    if asked.extra is not None and (fault := inseparable(EXTRAS.make(asked.extra), model, layout, job)):
        raise SettingsError(f"extra {asked.extra!r} {fault}")


def _unguarded(model: nn.Module) -> str:
    """Return why no aggregate guards this model from what a single worker sends, as the end of a sentence, or ""."""
    modules = list(model.modules())
    if any(getattr(module, "track_running_stats", False) is True for module in modules):
        return "guards parameters, and running statistics such as BatchNorm's are averaged: use GroupNorm, or none"
    if any(getattr(module, "sparse", False) is True for module in modules):
        return "compares whole updates, and sparse gradients of embeddings hold some rows alone: use dense gradients"
    return ""


def _demand_turns(asked: RunOptions, parts: Parts, steps: int) -> None:
    """Make sure that each fragment of the model has a turn in a run of so many updates of a worker.

    Raises:
        SettingsError: If one has none.
    """
    if steps < parts.algorithm.fragments:
        raise SettingsError(
            f"algorithm {asked.algorithm!r} needs an update for each of its {parts.algorithm.fragments} fragments, but a "
            f"worker makes only {steps}: take fewer fragments, or more steps or epochs"
        )


def resolved_settings(asked: RunOptions, **resolved: Any) -> Settings:
    """Make settings from what was asked for, in which the resolved values take precedence.

    Raises:
        SettingsError: If a value is out of range or of the wrong type.
    """
    given = {name: value for name, value in asked.keywords().items() if name in Settings.model_fields}
    if asked.max_rejected is None:
        given["max_rejected"] = max(10, min(asked.workers, RECENT // 2))
    parts = Parts.of(asked)
    if asked.error_feedback is None:
        given["error_feedback"] = float(parts.codec.feedback)
    given["bracket"] = str(parts.bracket)
    given["partition"] = asked.partition or IID
    return make_settings(**given | {"init_from": None, "numerics": None} | resolved)


def demand_workers(asked: RunOptions) -> None:
    """Make sure that the run has workers, and enough of them for the schedule.

    Raises:
        SettingsError: If it has not.
    """
    if not isinstance(asked.workers, int) or asked.workers < 1:
        raise SettingsError(f"workers: must be 1 or more (it is {asked.workers!r})")
    if Parts.of(asked).schedule.needs(asked.workers) > asked.workers:
        raise SettingsError(f"schedule {asked.schedule!r} waits for more updates than {asked.workers} workers make")


def _samples(job: Job) -> DatasetSamples:
    """Return the samples of the job's dataset.

    Raises:
        JobError: If it has no length, or no items.
    """
    from lambdaml.training.calls import call

    dataset = call(job.dataset)
    try:
        len(dataset)
        getitem = dataset.__getitem__
    except (TypeError, AttributeError, NotImplementedError):
        raise JobError(f"{type(job).__name__}.dataset() must be a map-style dataset, with a length and items") from None
    try:
        call(getitem, 0)
    except JobFailed as error:
        if isinstance(error.__cause__, NotImplementedError):
            raise JobError(f"{type(job).__name__}.dataset() must be a map-style dataset, with items") from None
        raise
    return DatasetSamples(job, dataset)


def versions() -> dict[str, str]:
    """Return the versions of Python, lambdaml and torch, for run.json and for profiles."""
    from importlib.metadata import version

    return {"python": platform.python_version(), "lambdaml": version("lambdaml-runtime"), "torch": version("torch")}

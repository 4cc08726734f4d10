"""What was asked for, resolved: the job and its sources, a free place, and settings to the last number."""

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
from typing import Any
from urllib.parse import quote

from lambdaml.errors import JobError, JobFailed, SettingsError, UserError
from lambdaml.job import Job
from lambdaml.log.numerics import Numerics
from lambdaml.log.state import RECENT
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.settings import JobSettings, RunVersion, Settings, make_settings
from lambdaml.training.arguments import fit_arguments
from lambdaml.training.loading import construct, make_job
from lambdaml.training.members import check_members
from lambdaml.training.source import fingerprint, split_spec

DEFAULT_EPOCHS = 10
MAX_EPOCHS = 1000
"""Epochs after which a run with nothing but a target gives up."""

MAX_SNAPSHOT_EVERY = 500
INTERVAL_BYTES, LEAST_SNAPSHOT_EVERY = 2**29, 4
"""By default a snapshot comes sooner than after an epoch where an epoch's updates are more than the one, but not before so
many updates of each worker."""

KEEP_BYTES, KEEP_SHARE = 2**31, 0.1
"""History that is kept by default: so much, or this share of the free disk where that is less; four intervals between
snapshots where these are more, but never more than half of the disk."""

BYTES_PER_PARAMETER = 4
"""Of an update, assumed before there is one."""

MUCH_BYTES, USD_PER_GB_MONTH = 100e9, 0.023
"""History in a bucket that is worth a warning, and the price of S3 Standard in us-east-1, November 2026."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def places(spec: str, folder: str = "runs") -> Iterator[str]:
    """The paths `runs/<job>-<n>` that are free now, in order."""
    path, name = split_spec(spec)
    name = re.sub(r"[^\w.-]+", "-", name or os.path.basename(path).removesuffix(".py")).lower()
    for number in itertools.count(1):
        place = os.path.join(folder, f"{name}-{number}")
        if not os.path.exists(place):
            yield place


@contextmanager
def free_place(spec: str) -> Iterator[str]:
    """The next free `runs/<job>-<n>`, as a `file://` URL. Nobody else is given it, unless nothing was put there by the
    end of the block.

    Raises:
        UserError: no folder can be made there.
    """
    beside = os.path.isdir("runs")
    for place in places(spec):
        try:
            os.makedirs(place)
            break
        except FileExistsError:
            continue  # somebody else was faster
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
    """What run.json says of the job, and the job.

    Args:
        as_object: whether it will do that the job exists as an object, as a class of a notebook, that no file holds.
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
    """Whether another process can import it; a class of a notebook's cell cannot be."""
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
        init_from: the version that `asked.init_from` names.
        numerics: the class that functions compute in; None where nothing is computed in them.
        free_bytes: what the run's store can take, if that is known.

    Raises:
        SettingsError: an option makes no sense, or does not fit the others.
        JobError: the job's dataset or batch size is of no use.
    """
    from lambdaml.training.jobparts import build_model
    from lambdaml.training.sampling import Sampler

    samples = _samples(job)
    if not isinstance(job.batch_size, int) or job.batch_size < 1:
        raise JobError(f"{type(job).__name__}.batch_size must be 1 or more, not {job.batch_size!r}")
    batch_size = asked.batch_size or job.batch_size
    if not isinstance(batch_size, int) or batch_size < 1:
        raise SettingsError(f"batch_size: must be 1 or more (it is {batch_size!r})")
    if asked.steps is not None and asked.epochs is not None:
        raise SettingsError("give either steps or epochs, not both")
    if asked.epochs is not None and not 0 < asked.epochs < math.inf:
        raise SettingsError(f"epochs: must be more than 0 (it is {asked.epochs!r})")
    workers, steps, snapshot_every = asked.workers, asked.steps, asked.snapshot_every
    demand_workers(asked)
    parameters = sum(parameter.numel() for parameter in build_model(job).parameters())
    per_epoch = Sampler(samples, workers, batch_size, 0).steps_per_epoch
    if steps is None:
        epochs = asked.epochs or (DEFAULT_EPOCHS if asked.target is None else MAX_EPOCHS)
        steps = max(1, round(epochs * per_epoch))
    if snapshot_every is None:
        snapshot_every = default_interval(per_epoch, workers, parameters)
    round_bytes = BYTES_PER_PARAMETER * parameters * workers
    return resolved_settings(
        asked,
        job=job_settings,
        steps=steps,
        batch_size=batch_size,
        samples=samples,
        steps_per_epoch=per_epoch,
        parameters=parameters,
        snapshot_every=snapshot_every,
        keep_bytes=bounded(asked.keep, free_bytes, round_bytes * snapshot_every),
        init_from=init_from,
        numerics=numerics,
        token=secrets.token_hex(8),
        versions=versions(),
    )


def resolved_settings(asked: RunOptions, **resolved: Any) -> Settings:
    """Settings with what was asked for, but for what is resolved.

    Raises:
        SettingsError: a value is out of range or of the wrong type.
    """
    given = {name: value for name, value in asked.keywords().items() if name in Settings.model_fields}
    if asked.max_rejected is None:
        given["max_rejected"] = max(10, min(asked.workers, RECENT // 2))
    return make_settings(**given | {"init_from": None, "numerics": None} | resolved)


def demand_workers(asked: RunOptions) -> None:
    """Demand that there are workers, and enough of them for the schedule.

    Raises:
        SettingsError: there are not.
    """
    if not isinstance(asked.workers, int) or asked.workers < 1:
        raise SettingsError(f"workers: must be 1 or more (it is {asked.workers!r})")
    if Parts.of(asked).schedule.needs(asked.workers) > asked.workers:
        raise SettingsError(f"schedule {asked.schedule!r} waits for more updates than {asked.workers} workers make")


def _samples(job: Job) -> int:
    """The length of the job's dataset.

    Raises:
        JobError: it has none, or no items.
    """
    from lambdaml.training.calls import call

    dataset = call(job.dataset)
    try:
        samples = len(dataset)
        getitem = dataset.__getitem__
    except (TypeError, AttributeError, NotImplementedError):
        raise JobError(f"{type(job).__name__}.dataset() must be a map-style dataset, with a length and items") from None
    try:
        call(getitem, 0)
    except JobFailed as error:
        if isinstance(error.__cause__, NotImplementedError):
            raise JobError(f"{type(job).__name__}.dataset() must be a map-style dataset, with items") from None
        raise
    return samples


def default_interval(per_epoch: int, workers: int, parameters: int) -> int:
    """Updates of each worker between snapshots: an epoch, or less where that is much."""
    of_bytes = INTERVAL_BYTES // max(1, BYTES_PER_PARAMETER * parameters * workers)
    return min(per_epoch, MAX_SNAPSHOT_EVERY, max(LEAST_SNAPSHOT_EVERY, of_bytes))


def bounded(keep: str | int | None, free_bytes: int | None, interval_bytes: int) -> int | None:
    """Bytes of history that a run keeps; None for all of it.

    Args:
        keep: what was asked for: `all`, a size such as `500M`, or nothing.
        free_bytes: what the store can take, if that is known.
        interval_bytes: of the updates between two snapshots.

    Raises:
        SettingsError: that is no size, or too small for this run.
    """
    if keep == "all":
        return None
    if keep is None:
        free = math.inf if free_bytes is None else free_bytes
        return round(max(min(KEEP_BYTES, KEEP_SHARE * free), min(4 * interval_bytes, free / 2), 1))
    size = bytes_of(str(keep))
    if size < 1:
        raise SettingsError(f"keep: 'all' or a size such as 500M or 2G (it is {keep!r})")
    if size < 2 * interval_bytes:
        raise SettingsError(
            f"keep: {keep} is less than the updates of two snapshots ({2 * interval_bytes:,} bytes): take snapshots more "
            "often with snapshot_every, or keep more"
        )
    return int(size)


def bytes_of(text: str) -> float:
    """`500M` or `2 GB` in bytes, by powers of 1024; 0 for what is no size."""
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    try:
        return float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    except ValueError:
        return 0.0


def warnings_of_room(settings: Settings, free_bytes: int | None) -> Iterator[str]:
    """What to say of a run whose history will not fit, or is dear to keep."""
    whole = BYTES_PER_PARAMETER * settings.parameters * settings.workers * settings.steps
    history = min(whole, settings.keep_bytes or whole)
    if free_bytes is not None and history > free_bytes:
        yield (
            f"the run's history may take {history / 1e9:,.1f} GB, and {free_bytes / 1e9:,.1f} GB are free: keep less, or "
            "take fewer steps. A run that fills the disk stops, and can be resumed"
        )
    if free_bytes is None and history > MUCH_BYTES:
        usd = history / 1e9 * USD_PER_GB_MONTH
        yield f"the run's history may take {history / 1e9:,.0f} GB: at S3's price {usd:,.0f} USD a month, or keep less"


def versions() -> dict[str, str]:
    """Of what computes, for run.json and for profiles."""
    from importlib.metadata import version

    return {"python": platform.python_version(), "lambdaml": version("lambdaml-runtime"), "torch": version("torch")}

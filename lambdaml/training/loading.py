"""This module loads a job from its name, `path/file.py:Name` or `package.module:Name`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lambdaml.errors import JobError, nearest
from lambdaml.job import Job
from lambdaml.settings import JobSettings, Settings
from lambdaml.training.arguments import fit_arguments
from lambdaml.training.members import check_members
from lambdaml.training.source import fingerprint, load_module, split_spec


def load_job(spec: str, args: Mapping[str, Any] | None = None) -> Job:
    """Import and construct the job that `spec` names, from its sources as they are now.

    Args:
        spec: `path/file.py:Name` or `package.module:Name`. The name may be a `Job` subclass, an instance, or a
            function that returns one. Without `:Name` the file's only job is taken.
        args: Keyword arguments of its constructor.

    Raises:
        JobError: If the file or name does not exist, importing it fails, it is not a job, or it does not take these
            arguments.
    """
    return make_job(spec, args)[0]


def load_run_job(settings: Settings) -> Job:
    """Import the run's job and make sure that it is the code the run was started with; see `load_recorded_job`."""
    return load_recorded_job(settings.job)


def load_recorded_job(job: JobSettings) -> Job:
    """Import a job and make sure that it is the code that was recorded.

    A file that is no longer in its place is looked for below the working folder, where engines unpack a job's code.

    Raises:
        JobError: If the job cannot be imported, or its source has changed.
    """
    spec, wanted = job.spec, job.fingerprint
    if not wanted:
        raise JobError(f"the run's job, {spec}, was given as an object, which stands in no file: give it again")
    path, name = split_spec(spec)
    if path.endswith(".py") and not Path(path).is_file():
        tails = (Path(*Path(path).parts[first:]) for first in range(1, len(Path(path).parts)))
        found = next((tail for tail in tails if tail.is_file() and fingerprint(str(tail)) == wanted), path)
        spec = f"{found}:{name}"
    if fingerprint(spec) != wanted:
        raise JobError(
            f"{spec}, or what it imports from beside it, has changed since the run was started: a run keeps its code. "
            "Restore it, or start a new run"
        )
    return load_job(spec, job.args)


def make_job(spec: str, args: Mapping[str, Any] | None = None) -> tuple[Job, dict[str, Any]]:
    """Do the same as `load_job`, and also return the arguments for run.json, parsed and checked against its
    parameters."""
    module_spec, name = split_spec(spec)
    module = load_module(spec)
    found = getattr(module, name, None) if name else _only_job(module, spec)
    if found is None:
        names = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, Job)]
        raise JobError(f"there is no {name!r} in {module_spec}{nearest(name, [n for n in names if n != 'Job'])}")
    if isinstance(found, Job):
        if args:
            raise JobError(f"{spec} is an instance and takes no arguments, but {sorted(args)} were given")
        return found, {}
    if not callable(found):
        raise JobError(f"{spec} is {type(found).__name__}, not a lambdaml.Job")
    fitted = fit_arguments(found, args or {}, spec)
    job = construct(found, fitted, spec)
    check_members(job)
    return job, fitted


def construct(make: Any, args: Mapping[str, Any], what: str) -> Job:
    """Make a job from its class, or from a function that returns one.

    Raises:
        JobError: If the class or function raised, or returned something else.
    """
    try:
        job = make(**args)
    except TypeError as error:
        raise JobError(f"{what} does not take these arguments: {error}") from error
    except (Exception, SystemExit) as error:
        raise JobError(f"{what} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(job, Job):
        raise JobError(f"{what} is {type(job).__name__}, not a lambdaml.Job")
    return job


def _only_job(module: Any, spec: str) -> Any:
    jobs = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Job) and value.__module__ == module.__name__
    ]
    if len(jobs) != 1:
        names = ", ".join(job.__name__ for job in jobs) or "none"
        raise JobError(f"{spec} must name one job as {spec}:Name (there is: {names})")
    return jobs[0]

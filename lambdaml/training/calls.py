"""These functions call the user's code: they turn errors into one line and samples into a batch, and seed random
streams."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lambdaml.errors import JobError, JobFailed, LambdaMLError
from lambdaml.job import Job
from lambdaml.seeds import derive_seed
from lambdaml.training.frames import own_frames


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call the user's code. An error that it raises becomes one line that names the place in that code.

    Raises:
        JobFailed: If it raised.
    """
    try:
        return function(*args)
    except JobError:
        raise
    except (Exception, SystemExit) as error:
        trace = error.__traceback__
        while (
            trace is not None and trace.tb_next is not None and "torch" not in trace.tb_next.tb_frame.f_code.co_filename
        ):
            trace = trace.tb_next
        place = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace is not None else ""
        message = " ".join(str(error).split())
        name = getattr(function, "__qualname__", repr(function))
        failed = JobFailed(f"{name} raised {type(error).__name__}: {message}{place}")
        for line in own_frames(error):
            failed.add_note(line)
        raise failed from error


@contextmanager
def examined(what: str) -> Iterator[None]:
    """Mark a block or a function that examines something that the user's code made: errors in it are that code's fault.

    Raises:
        JobError: In place of all errors but our own; the message names `what`.
    """
    try:
        yield
    except LambdaMLError:
        raise
    except (Exception, SystemExit) as error:
        message = " ".join(str(error).split())
        raise JobError(f"{what} cannot be used: {type(error).__name__}: {message}") from error


def fetch(job: Job, dataset: Any, indices: list[int]) -> Any:
    """Return the samples with these numbers, as the batch that the job's loss takes."""
    from torch.utils.data import TensorDataset

    if isinstance(dataset, TensorDataset) and type(job).collate is Job.collate:
        return list(dataset[indices])
    samples = dataset.__getitems__(indices) if hasattr(dataset, "__getitems__") else [dataset[i] for i in indices]
    return job.collate(samples)


def seed_streams(*parts: int | str) -> None:
    """Seed the global random streams of torch, NumPy and Python with a seed derived from these parts."""
    seed = derive_seed(*parts)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)

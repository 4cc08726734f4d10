"""This module checks the members of a job's class. It refuses senseless values, and warns of members nobody will
read."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterator
from typing import Any

from lambdaml.errors import JobError, nearest
from lambdaml.job import Job
from lambdaml.statistics_job import StatisticsJob

_CHOICES: dict[str, tuple[Any, ...]] = {
    "autocast": (None, "bfloat16", "float16"),
    "scheduler_interval": ("step", "epoch"),
}

_ELSEWHERE = {
    "sampler": "samples are dealt to the workers at random, each once an epoch: weight or repeat them in dataset()",
    "batch_sampler": "batches are dealt from the data set at random: set batch_size",
    "shuffle": "samples are always shuffled again each epoch",
    "drop_last": "an epoch's share is cut into equal batches, so that none need be dropped",
    "num_workers": "samples are fetched in the function's compute thread: cache what is expensive in dataset()",
    "collate_fn": "write collate(samples)",
    "train_dataloader": "write dataset() and set batch_size",
    "val_dataloader": "load validation data in evaluate(model)",
    "val_dataset": "load validation data in evaluate(model)",
    "training_step": "write loss(model, batch)",
    "compute_loss": "write loss(model, batch)",
    "validation_step": "write evaluate(model)",
    "compute_metrics": "write evaluate(model)",
    "configure_optimizers": "write optimizer(model), and scheduler(optimizer)",
    "configure_model": "write model()",
    "gradient_clip_val": "set clip_norm",
    "max_grad_norm": "set clip_norm",
    "precision": "set autocast = 'bfloat16' or 'float16'",
    "max_epochs": "give --epochs, or train(epochs=...)",
    "on_train_epoch_end": "a job has no hooks: take events with train(on_event=...)",
    "accumulate_grad_batches": "give --algorithm presum:G, use more workers, or a larger batch_size",
    "callbacks": "a job has no hooks: take events with train(on_event=...)",
}
"""People expect these members from Lightning, a Trainer or a DataLoader; each text says what to do instead."""


def check_members(job: Job) -> None:
    """Refuse values of the job's attributes that make no sense.

    Raises:
        JobError: If an attribute has such a value; the message names it.
    """
    name = type(job).__name__
    norm = job.clip_norm
    number = isinstance(norm, int | float) and not isinstance(norm, bool)
    if norm is not None and not (number and 0 < norm < math.inf):
        raise JobError(f"{name}.clip_norm must be a number above 0 or None, not {norm!r}")
    if isinstance(job, StatisticsJob):
        _check_statistics_job(job, name)
    for attribute, choices in _CHOICES.items():
        value = getattr(job, attribute)
        if value not in choices:
            hint = nearest(str(value), [choice for choice in choices if choice])
            raise JobError(f"{name}.{attribute} cannot be {value!r}{hint}")


def _check_statistics_job(job: StatisticsJob, name: str) -> None:
    number = isinstance(job.rate, int | float) and not isinstance(job.rate, bool)
    if not (number and 0 < job.rate <= 1):
        raise JobError(f"{name}.rate must be more than 0 and at most 1, not {job.rate!r}")
    for attribute in ("clip_norm", "autocast"):
        if getattr(job, attribute) is not None:
            raise JobError(f"{name}.{attribute} acts on gradients, and a job of statistics has none: leave it out")


def warnings_of(job: Job) -> Iterator[str]:
    """Yield a line for each member of the job that nobody will read although its name suggests that somebody should."""
    kinds = (Job, StatisticsJob) if isinstance(job, StatisticsJob) else (Job,)
    members = [member for kind in kinds for member in vars(kind) if not member.startswith("_")]
    own = {*vars(job)} | {member for kind in type(job).__mro__ if issubclass(kind, Job) for member in vars(kind)}
    asked = inspect.signature(type(job)).parameters  # a job may use its own arguments as it likes
    for member in sorted(own - {*members, *asked}):
        name = f"{type(job).__name__}.{member}"
        if member in _ELSEWHERE:
            yield f"{name} is not used: {_ELSEWHERE[member]}"
        elif not member.startswith("_") and (close := difflib.get_close_matches(member, members, n=1, cutoff=0.85)):
            yield f"{name} is not used: do you mean {close[0]}?"

"""The reference: an ordinary PyTorch loop, and the comparison of where it ends with where a run ends.

All that the loop takes from lambdaml is what docs/concepts/jobs.md documents of a run: which samples make a batch, and
the seeds of the random streams.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

import lambdaml
from lambdaml import Job
from lambdaml.errors import JobError
from lambdaml.events import Event
from lambdaml.seeds import derive_seed
from lambdaml.storage import Store
from lambdaml.training.replay import replica_at
from lambdaml.training.sampling import Sampler

STEPS = 8
STOP_AT = 4
"""The log entry after which a run is interrupted: the newest snapshot is one commit behind it, and 3 steps are left."""

SNAPSHOT_EVERY = 3


class Trained(NamedTuple):
    """What a training leaves behind."""

    model: nn.Module
    optimizer: Any
    scheduler: Any


def plain_loop(job: Job, steps: int = STEPS, seed: int = 0) -> Trained:
    """Train as anybody would, in one process, on the batches of a run with one worker."""
    dataset = job.dataset()
    sampler = Sampler(len(dataset), 1, job.batch_size, seed)
    _seed("model", seed=seed)
    model = job.model()
    model.train()
    optimizer = job.optimizer(model)
    scheduler = job.scheduler(optimizer)
    for step in range(steps):
        _seed("samples", seed, 0, step)
        batch = default_collate([dataset[index] for index in sampler.indices(0, step).tolist()])
        _backward(job, model, optimizer, batch, seeds=("update", seed, 0, step))
        if job.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), job.clip_norm)
        optimizer.step()
        if scheduler is not None and (job.scheduler_interval == "step" or (step + 1) % sampler.steps_per_epoch == 0):
            scheduler.step()
    return Trained(model, optimizer, scheduler)


def _backward(job: Job, model: nn.Module, optimizer: Any, batch: Any, seeds: tuple[int | str, ...]) -> None:
    """The gradient; with float16 of a loss that is scaled by as much as leaves it finite."""
    scale = 2.0**16 if job.autocast == "float16" else 1.0
    while True:
        _seed(*seeds)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=getattr(torch, job.autocast or "float32"), enabled=job.autocast is not None):
            loss = job.loss(model, batch)
        (loss * scale).backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        for gradient in gradients if scale != 1.0 else ():
            gradient.div_(scale)
        if scale == 1.0 or all(gradient.isfinite().all() for gradient in gradients):
            return
        scale /= 2.0


def _seed(*parts: int | str, seed: int | None = None) -> None:
    number = derive_seed(*((seed, *parts) if seed is not None else parts))
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


def train(job: Job, store: Store, steps: int = STEPS, **options: Any) -> lambdaml.Run:
    """One worker, in this process, from beginning to end."""
    settings = {"workers": 1, "engine": "inline", "steps": steps, "snapshot_every": SNAPSHOT_EVERY} | options
    lambdaml.train(job, store.url, **settings)
    return lambdaml.Run(store, job)


def stopped_and_resumed(job: Job, store: Store, steps: int = STEPS, **options: Any) -> lambdaml.Run:
    """The same with an interrupt in the middle, after which another function goes on."""

    def stop(event: Event) -> None:
        if event.event == "commit" and event.commit == STOP_AT:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job, store, steps, on_event=stop, **options)
    run = lambdaml.Run(store, job)
    assert STOP_AT < run.tail()[0] < steps, "the run was not interrupted in its middle"
    lambdaml.resume(store.url, job=job, engine="inline")
    return run


def assert_refused(job: Job, store: Store, *words: str) -> None:
    """The job is a user's mistake, which one line names, and nothing was written."""
    with pytest.raises(JobError) as caught:
        train(job, store)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert all(word in message for word in words) and "\n" not in message, message
    assert [info.key for info in store.list("")] == []


def assert_goes_on(job: Job, store: Store) -> None:
    """The job ends as in a plain loop although it was stopped, and its run keeps its promises."""
    expected = plain_loop(job)
    run = stopped_and_resumed(job, store)
    assert differences(trained(run), expected) == []
    assert run.verify().faults == []


def trained(run: lambdaml.Run) -> Trained:
    """What the run's last snapshot holds, as a function that resumes from it would see it."""
    summary = run.summary()
    assert (summary.stop, summary.version) == ("steps", run.newest_snapshot())
    replica = replica_at(run, summary.version, run.job())
    return Trained(replica.model, replica.optimizer, replica.scheduler)


def differences(left: Trained, right: Trained) -> list[str]:
    """Names of all parts of the two states that are not of the same type and the same bits."""
    return unlike(describe(left), describe(right))


def describe(found: Trained) -> dict[str, Any]:
    """The whole state, as plain containers of tensors and values."""
    groups = [
        {name: value for name, value in group.items() if name != "params"} for group in found.optimizer.param_groups
    ]
    return {
        "model": {**found.model.state_dict(), **dict(found.model.named_buffers())},
        "groups": groups,
        "optimizer": found.optimizer.state_dict()["state"],
        "scheduler": found.scheduler.state_dict() if found.scheduler is not None else None,
    }


def unlike(left: Any, right: Any, path: str = "") -> list[str]:
    """Paths at which two values differ, in type or in bits. A dict's order does not count, NaN equals NaN."""
    if type(left) is not type(right) and not (_plain_dict(left) and _plain_dict(right)):
        return [f"{path}: {type(left).__name__} is not {type(right).__name__}"]
    if isinstance(left, Tensor):
        return [] if _same_tensor(left, right) else [f"{path}: {_show(left)} is not {_show(right)}"]
    if isinstance(left, np.ndarray):
        return [] if _same_array(left, right) else [f"{path}: {left} is not {right}"]
    if isinstance(left, Mapping):
        if {(type(key), key) for key in left} != {(type(key), key) for key in right}:
            return [f"{path}: keys {sorted(map(repr, left))} are not {sorted(map(repr, right))}"]
        return [fault for key in left for fault in unlike(left[key], right[key], f"{path}/{key}")]
    if isinstance(left, list | tuple):
        if len(left) != len(right):
            return [f"{path}: {len(left)} values are not {len(right)}"]
        pairs = zip(left, right, strict=True)
        return [fault for index, pair in enumerate(pairs) for fault in unlike(*pair, f"{path}/{index}")]
    if isinstance(left, set | frozenset):
        return [] if {(type(v), v) for v in left} == {(type(v), v) for v in right} else [f"{path}: {left} != {right}"]
    # A float's text tells 0.0 from -0.0, and is the same for every NaN.
    same = repr(left) == repr(right) if isinstance(left, float | complex) else left == right
    return [] if same else [f"{path}: {left!r} is not {right!r}"]


def _plain_dict(value: Any) -> bool:
    """torch itself makes its state a dict here and a subclass there, with the same content."""
    return (
        isinstance(value, dict)
        and type(value).__module__ in ("builtins", "collections")
        and not hasattr(value, "elements")
    )


def _same_array(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def _same_tensor(left: Tensor, right: Tensor) -> bool:
    left, right = left.to_dense(), right.to_dense()  # a sparse tensor and a dense one of the same numbers are the same
    if (left.dtype, left.shape, left.device) != (right.dtype, right.shape, right.device):
        return False
    if left.is_complex():
        return _same_tensor(torch.view_as_real(left), torch.view_as_real(right))
    if left.is_floating_point():
        differ = (left != right) | (torch.signbit(left) != torch.signbit(right))
        return not bool((differ & ~(left.isnan() & right.isnan())).any())
    return torch.equal(left, right)


def _show(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)} {tensor.detach().to_dense().flatten()[:3].tolist()}"

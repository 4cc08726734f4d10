"""A rehearsal before a run is written finds out whether optimizer and scheduler can be stopped and resumed.

A run's functions come and go, so whatever training changes must come back from a snapshot, bit for bit. Here the job's
optimizer and scheduler take a few steps along made-up gradients, their state is written and read, and a second pair
that loads it must continue like the first. An optimizer or scheduler that keeps state elsewhere, needs a closure or
looks at a metric is refused by name, before anything is written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lambdaml.errors import JobError, JobFailed
from lambdaml.job import Job
from lambdaml.log.encoding import Tensors, shown
from lambdaml.log.snapshot import State
from lambdaml.training.calls import call, examined, seed_streams
from lambdaml.training.jobparts import build_model, build_optimizer, build_scheduler, encode_training, load_training

SMALL = 100_000
"""A model with more parameters than this is first cut down to 4 in each dimension."""

_OF_TORCH = ("_opt_called", "_step_count", "_is_initial")
"""Torch's own classes set these attributes, and only a warning depends on them."""

BEFORE, AFTER = 3, 2
"""The rehearsal takes this many steps before the state is written, and this many after it was read."""


@examined("the job's optimizer or scheduler")
def rehearse(job: Job, seed: int) -> float:
    """Refuse an optimizer or scheduler whose state a snapshot cannot carry. It seeds the global random streams.

    Returns:
        The size of the optimizer's state, in bytes for each byte of a trained parameter.

    Raises:
        JobError: If one of them is refused; the message says which and why.
        JobFailed: If the job's own code raised.
    """
    first = _Rehearsal(job, seed)
    first.take(range(BEFORE))
    data = first.state().dump()
    second = _Rehearsal(job, seed)
    second.load(State.load(data, "the rehearsal's snapshot"))
    _demand_nothing_else(job, first.optimizer, second.optimizer)
    _demand_nothing_else(job, first.scheduler, second.scheduler)
    same = second.state().digest() == first.state().digest()
    for pair in (first, second):
        pair.take(range(BEFORE, BEFORE + AFTER))
    if not same or second.state().digest() != first.state().digest():
        what = "" if first.scheduler is None else f" and {type(first.scheduler).__name__}"
        raise JobError(
            f"{type(first.optimizer).__name__}{what} of {type(job).__name__} cannot be stopped and resumed: "
            "state_dict() and load_state_dict() do not carry all that changes"
        )
    return first.share()


def _demand_nothing_else(job: Job, one: Any, other: Any) -> None:
    """Refuse an optimizer or scheduler with an attribute that differs in the one that loaded its state.

    Containers and tensors may be mere caches, so they are ignored; numbers and text are taken for state.

    Raises:
        JobError: If an attribute differs; the message names it.
    """
    for name, value in vars(one).items() if one is not None else ():
        now = getattr(other, name, None)
        if isinstance(value, Optimizer) and isinstance(now, Optimizer) and name != "optimizer":
            _demand_nothing_else(job, value, now)
        elif isinstance(value, bool | int | float | str) and value != now and name not in _OF_TORCH:
            raise JobError(
                f"{type(one).__name__} of {type(job).__name__} cannot be stopped and resumed: it keeps {name!r} where "
                "state_dict() and load_state_dict() do not carry it"
            )


class _Rehearsal:
    """Holds a job's optimizer and scheduler, with a model that may be cut down."""

    def __init__(self, job: Job, seed: int) -> None:
        seed_streams(seed, "model")
        self._job, self._seed = job, seed
        self._model = build_model(job)
        if sum(parameter.numel() for parameter in self._model.parameters()) > SMALL:
            _cut(self._model)
        self.optimizer = build_optimizer(job, self._model)
        self.scheduler = build_scheduler(job, self.optimizer)

    def take(self, steps: range) -> None:
        """Take these steps, along gradients that depend on the step alone."""
        for step in steps:
            draw = torch.Generator().manual_seed(step)
            for parameter in self._model.parameters():
                if parameter.requires_grad:
                    parameter.grad = _random(parameter, draw)
            seed_streams(self._seed, "examine", step)
            self._call(self.optimizer, "optimizer")
            if self.scheduler is not None:
                self._call(self.scheduler, "scheduler")

    def _call(self, part: Any, method: str) -> None:
        try:
            call(part.step)
        except JobFailed as error:
            where = f"{type(self._job).__name__}.{method}()"
            raise JobError(f"{where}: {type(part).__name__} cannot be used here: {error}") from error

    def state(self) -> State:
        tensors: Tensors = {f"model/{name}": shown(p) for name, p in self._model.named_parameters()}
        optimizer, scheduler = encode_training(self.optimizer, self.scheduler, tensors)
        return State(tensors, {"optimizer": optimizer, "scheduler": scheduler})

    def share(self) -> float:
        """Return the size of the optimizer's state, in bytes for each byte of a trained parameter."""
        kept = sum(tensor.nbytes for name, tensor in self.state().tensors.items() if not name.startswith("model/"))
        return kept / max(1, sum(p.nbytes for p in self._model.parameters() if p.requires_grad))

    def load(self, state: State) -> None:
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(state.tensors[f"model/{name}"])
        try:
            load_training(self.optimizer, self.scheduler, state.meta, state.tensors)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise JobError(
                f"{type(self._job).__name__}: load_state_dict() of its optimizer or scheduler fails on what state_dict() "
                f"gave: {type(error).__name__}: {reason}"
            ) from error


def _cut(model: nn.Module) -> None:
    for parameter in model.parameters():
        shape = tuple(min(size, 4) for size in parameter.shape)
        parameter.data = torch.zeros(shape, dtype=parameter.dtype)


def _random(parameter: nn.Parameter, draw: torch.Generator) -> Tensor:
    real = torch.randn(parameter.shape, generator=draw)
    return torch.complex(real, real).to(parameter.dtype) if parameter.is_complex() else real.to(parameter.dtype)

"""The inner learning rate: what the job's schedule says at any step, whichever steps were taken here.

Local steps are taken from versions in any order (a function starts anywhere, a recovery goes back), and schedulers only
go forward. So the schedule is followed by itself, and what it says is noted for each of its steps.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lambdaml.settings import Settings
from lambdaml.training.calls import call

_MOST_NOTED = 10_000
"""The latest steps of the schedule that stay noted."""

_Options = list[dict[str, Any]]
"""The options of each of an optimizer's parameter groups."""


def inner_step(samples: int, settings: Settings) -> int:
    """Return the number of steps of a single worker that this many applied samples stand for."""
    return round(samples * settings.steps_per_epoch / settings.samples)


class InnerRates:
    """Sets the options of an optimizer to those that a schedule gives at a step.

    Args:
        scheduler: The job's scheduler of this optimizer, or None.
        interval: Whether the schedule takes a step after each optimizer step (`step`) or once an epoch (`epoch`).
        per_epoch: The number of steps of an epoch.
        steps: The number of steps of a worker in the run. Schedules may have an end, and asynchronous workers may get
            ahead of the mean; then the last step's options stay.

    Attributes:
        first_step: The number of steps that stood behind the run's first version.
    """

    def __init__(self, optimizer: Optimizer, scheduler: Any, interval: str, per_epoch: int, steps: int) -> None:
        self._optimizer, self._scheduler, self._last = optimizer, scheduler, steps - 1
        self.first_step = 0
        self._per_step = per_epoch if interval == "epoch" else 1
        self._begin = None if scheduler is None else copy.deepcopy(scheduler.state_dict())
        self._first = _options(optimizer)
        self._names = {"lr"}  # those that the schedule changes
        self._restart()

    def _restart(self) -> None:
        self._at = 0
        self._noted: dict[int, _Options] = {0: self._first}

    def set(self, step: int, changed: Mapping[str, Any]) -> None:
        """Set the options to those of an inner step of this run. `changed` has the values that control entries set instead."""
        self._assign(self._at_step(step), changed)

    def share(self, step: int, changed: Mapping[str, Any]) -> float:
        """Return the learning rate of an inner step of this run, as a share of that before the first step. Where there are
        parameter groups, it is that of the first."""
        first = self._first[0]["lr"]
        return float(changed.get("lr", self._at_step(step)[0]["lr"]) / first) if first else 1.0

    def _at_step(self, step: int) -> _Options:
        """Return the options that the schedule gives at an inner step of this run."""
        count = (self.first_step + min(step, self._last)) // self._per_step
        return self._first if self._scheduler is None else self._of(count)

    def reset(self) -> None:
        """Set the options that the schedule changes back to those before its first step, so that a state that is kept
        does not depend on where the schedule stood."""
        self._assign(self._first, {})

    def _assign(self, found: _Options, changed: Mapping[str, Any]) -> None:
        for group, options in zip(self._optimizer.param_groups, found, strict=True):
            for name in self._names & options.keys():
                set_option(group, name, changed.get(name, options[name]))

    def _of(self, count: int) -> _Options:
        """Return the options after the schedule has taken this many steps."""
        if count not in self._noted and count < self._at:
            self._scheduler.load_state_dict(copy.deepcopy(self._begin))
            self._restart()
        if self._at < count:
            self._optimizer._opt_called = True  # type: ignore[attr-defined]  # torch warns of schedules without steps
            kept = _options(self._optimizer)
            self._put(self._noted[self._at])
            while self._at < count:
                call(self._scheduler.step)
                self._at += 1
                self._noted.pop(self._at - _MOST_NOTED, None)
                self._noted[self._at] = _options(self._optimizer)
                for before, after in zip(self._first, self._noted[self._at], strict=True):
                    self._names |= {name for name in after if bool(after[name] != before.get(name))}
            self._put(kept)
        return self._noted[count]

    def _put(self, options: _Options) -> None:
        for group, values in zip(self._optimizer.param_groups, options, strict=True):
            for name, value in values.items():
                set_option(group, name, value)


def _options(optimizer: Optimizer) -> _Options:
    return [
        {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def set_option(group: dict[str, Any], name: str, value: Any) -> None:
    """Set an option of a parameter group; a tensor that holds it stays in its place."""
    if isinstance(now := group.get(name), Tensor):
        now.fill_(value)
    else:
        group[name] = copy.deepcopy(value)

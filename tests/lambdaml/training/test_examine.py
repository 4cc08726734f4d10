"""What cannot be carried is refused by name before anything is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

import lambdaml
from lambdaml.errors import JobError, JobFailed
from lambdaml.training.examine import SMALL, rehearse
from tests.lambdaml.lab import memory
from tests.lambdaml.training.test_replica import Made, mlp


class Forgetful(SGD):
    """Keeps its step count where no state_dict looks."""

    count = 0

    def step(self, closure: Any = None) -> Any:
        self.count += 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self.count
        return super().step(closure)


class Holding(SGD):
    def step(self, closure: Any = None) -> Any:
        self.state["file"] = object()  # type: ignore[index]
        return super().step(closure)


class Losing(SGD):
    def load_state_dict(self, state_dict: Any) -> None:
        raise RuntimeError("not implemented")


class Extra(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"who": object()}

    def set_extra_state(self, state: Any) -> None: ...


def outside(parameters: Any) -> SGD:
    return SGD([*parameters, nn.Parameter(torch.zeros(2))], lr=0.1)


def momentum(parameters: Any) -> SGD:
    return SGD(parameters, lr=0.1, momentum=0.9)


def plateau(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


REFUSED: dict[str, tuple[Any, str]] = {
    "state outside": (
        Made(mlp, lambda ps: Forgetful(ps, lr=0.1)),
        "Forgetful of Made cannot be stopped and resumed",
    ),
    "an object in the state": (Made(mlp, lambda ps: Holding(ps, lr=0.1)), "optimizer/file is a builtins.object"),
    "no loading": (Made(mlp, lambda ps: Losing(ps, lr=0.1)), "load_state_dict.* fails .*not implemented"),
    "closure": (Made(mlp, lambda ps: torch.optim.LBFGS(ps)), "LBFGS cannot be used here"),
    "sparse": (Made(mlp, lambda ps: torch.optim.SparseAdam(list(ps))), "SparseAdam cannot be used here"),
    "two optimizers": (Made(mlp, lambda ps: [SGD(ps, lr=0.1)]), "not list: a run has one optimizer"),
    "no optimizer": (Made(mlp, lambda ps: None), "not NoneType"),
    "another's parameter": (Made(mlp, outside), r"group 0 holds a parameter of shape \(2,\) that is not the model's"),
    "lazy": (Made(lambda: nn.LazyLinear(2), momentum), "lazy layers .*run a batch"),
    "no model": (Made(lambda: nn.Linear, momentum), "must return a torch.nn.Module, not the class Linear"),
    "extra state": (
        Made(lambda: nn.Sequential(Extra(6, 3)), momentum),
        "extra/0._extra_state/who is a builtins.object",
    ),
    "meta": (Made(lambda: nn.Linear(6, 3, device="meta"), momentum), "without data"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_carried_is_refused_by_name_and_nothing_is_written(name: str) -> None:
    job, message = REFUSED[name]
    store = memory()
    with pytest.raises(JobError, match=message):
        lambdaml.train(job, store.url, workers=1, steps=2)
    assert list(store.list("")) == []


def test_a_scheduler_that_looks_at_a_metric_is_refused() -> None:
    job = Made(mlp, momentum)
    job.scheduler = plateau  # type: ignore[method-assign]
    with pytest.raises(JobError, match="ReduceLROnPlateau looks at a metric"):
        rehearse(job, 0)


def test_a_large_model_is_cut_down_for_the_rehearsal() -> None:
    rehearse(Made(lambda: nn.Linear(SMALL, 3), lambda ps: torch.optim.Adam(ps, lr=0.1)), 0)
    with pytest.raises(JobError, match="Forgetful"):
        rehearse(Made(lambda: nn.Linear(SMALL, 3), lambda ps: Forgetful(ps, lr=0.1)), 0)


class NoInit(nn.Module):
    def __init__(self) -> None:
        pass


class Nameless(nn.Linear):
    def named_parameters(self, *args: Any, **options: Any) -> Any:
        raise RuntimeError("no names")


class NoGroups(SGD):
    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.param_groups = None  # type: ignore[assignment]


class Exiting(SGD):
    def load_state_dict(self, state_dict: Any) -> None:
        raise SystemExit(2)


class Slots:
    """A scheduler of one's own without a `__dict__`."""

    __slots__ = ()

    def step(self) -> None: ...
    def state_dict(self) -> Any:
        return {}

    def load_state_dict(self, state: Any) -> None: ...


def saying(state: Any) -> Any:
    """An optimizer whose state_dict() is this."""
    return lambda parameters: type("Saying", (SGD,), {"state_dict": lambda self: state})(parameters, lr=0.1)


def leave(*_: Any) -> Any:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": NoInit}, "the job's model cannot be used: AttributeError"),
        ({"model": lambda: Nameless(6, 3)}, "the job's model cannot be used: RuntimeError: no names"),
        ({"model": leave}, r"model raised SystemExit: 3"),
        ({"optimizer": NoGroups}, "the job's optimizer cannot be used: TypeError"),
        ({"optimizer": leave}, r"optimizer raised SystemExit: 3"),
        ({"optimizer": saying(None)}, r"state_dict\(\) of the job's optimizer or scheduler cannot be used: TypeError"),
        (
            {"optimizer": saying([1, 2])},
            r"state_dict\(\) of the job's optimizer or scheduler cannot be used: TypeError",
        ),
        ({"optimizer": lambda ps: Exiting(ps, lr=0.1)}, "optimizer or scheduler cannot be used: SystemExit: 2"),
        ({"scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR}, "not the class StepLR"),
        ({"scheduler": lambda optimizer: Slots()}, "optimizer or scheduler cannot be used: TypeError"),
        ({"dataset": leave}, r"dataset raised SystemExit: 3"),
    ],
)
def test_whatever_a_job_makes_or_raises_is_the_jobs_error_and_nothing_is_written(
    parts: dict[str, Any], message: str
) -> None:
    store = memory()
    with pytest.raises((JobError, JobFailed), match=message):
        lambdaml.train(Made(**parts), store.url, workers=1, steps=2)
    assert list(store.list()) == []

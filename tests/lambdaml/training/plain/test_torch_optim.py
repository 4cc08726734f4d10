"""Every optimizer and scheduler that torch has goes on exactly after a stop, or is refused before anything is written."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.optim import Optimizer, lr_scheduler, swa_utils

from lambdaml.storage import MemoryStore
from tests.lambdaml.training.plain.case import Case, sgd, trainable
from tests.lambdaml.training.plain.loop import assert_goes_on, assert_refused
from tests.lambdaml.training.plain.models import dropout_mlp
from tests.lambdaml.training.plain.recipes import (
    OPTIMIZERS,
    REFUSED_OPTIMIZERS,
    REFUSED_SCHEDULERS,
    SCHEDULERS,
    MakeOptimizer,
)


def classes(base: type, *modules: ModuleType) -> Iterator[str]:
    """Names of the public classes of these modules that are made for use."""
    for module in modules:
        for name, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, base) and found is not base and not name.startswith("_"):
                yield name


ALL_OPTIMIZERS = sorted(set(classes(Optimizer, optim)))
# LRScheduler had an older name, which torch keeps.
ALL_SCHEDULERS = sorted(set(classes(lr_scheduler.LRScheduler, lr_scheduler, swa_utils)) - {"LRScheduler"})


def recipe(name: str, *tables: dict[str, Any]) -> Any:
    """What the tables say of a class. A class that none of them knows is one that a new torch brought."""
    found = next((table[name] for table in tables if name in table), None)
    assert found is not None, f"torch has a new class, {name}: add it to tests/lambdaml/training/plain/recipes.py"
    return found


def test_the_walk_finds_the_classes_of_torch() -> None:
    assert {"SGD", "Adam", "LBFGS"} <= set(ALL_OPTIMIZERS) == OPTIMIZERS.keys() | REFUSED_OPTIMIZERS.keys()
    assert {"StepLR", "SWALR"} <= set(ALL_SCHEDULERS) == SCHEDULERS.keys() | REFUSED_SCHEDULERS.keys()


@pytest.mark.parametrize("name", ALL_OPTIMIZERS)
def test_every_optimizer_of_torch_goes_on_exactly_or_is_refused_by_name(name: str, store: MemoryStore) -> None:
    found = recipe(name, OPTIMIZERS, REFUSED_OPTIMIZERS)
    if name in REFUSED_OPTIMIZERS:
        assert_refused(Case(dropout_mlp, found), store, name)
        return
    for make in found.values():
        assert type(make(dropout_mlp())).__name__ == name
        assert_goes_on(Case(dropout_mlp, make, lambda o: lr_scheduler.LinearLR(o, 0.5, total_iters=6)), store)
        store.delete([info.key for info in list(store.list(""))])


@pytest.mark.parametrize("name", ALL_SCHEDULERS)
def test_every_scheduler_of_torch_goes_on_exactly_or_is_refused_by_name(name: str, store: MemoryStore) -> None:
    found = recipe(name, SCHEDULERS, REFUSED_SCHEDULERS)
    if name in REFUSED_SCHEDULERS:
        assert_refused(Case(dropout_mlp, sgd, found), store, name)
        return
    for make in found.values():
        assert type(make(sgd(dropout_mlp()))).__name__ == name
        assert_goes_on(Case(dropout_mlp, sgd, make), store)
        store.delete([info.key for info in list(store.list(""))])


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_a_scheduler_that_cycles_momentum_goes_on_exactly(name: str, store: MemoryStore) -> None:
    cycles: dict[str, Callable[[Optimizer], Any]] = {
        "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.05, step_size_up=3, mode="triangular2"),
        "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, [0.1, 0.2], total_steps=12, three_phase=True),
    }
    make: dict[str, MakeOptimizer] = {
        "CyclicLR": lambda m: optim.SGD(trainable(m), lr=0.1, momentum=0.9),
        "OneCycleLR": lambda m: optim.AdamW([{"params": trainable(m)[:2]}, {"params": trainable(m)[2:]}], lr=0.01),
    }
    assert_goes_on(Case(dropout_mlp, make[name], cycles[name]), store)


class Decay:
    """A schedule as a callable object, whose attributes torch writes down."""

    def __init__(self) -> None:
        self.calls: dict[int, int] = {}

    def __call__(self, step: int) -> float:
        self.calls[step] = self.calls.get(step, 0) + 1
        return 0.9 ** len(self.calls)


def test_a_schedule_by_an_object_goes_on_with_what_the_object_remembers(store: MemoryStore) -> None:
    assert_goes_on(Case(dropout_mlp, sgd, lambda o: lr_scheduler.LambdaLR(o, Decay())), store)


def test_a_learning_rate_that_groups_share_as_one_tensor_goes_on_exactly(store: MemoryStore) -> None:
    def shared(model: nn.Module) -> Optimizer:
        lr, parameters = torch.tensor(0.1), trainable(model)
        return optim.SGD([{"params": parameters[:2], "lr": lr}, {"params": parameters[2:], "lr": lr}], momentum=0.9)

    assert_goes_on(Case(dropout_mlp, shared, lambda o: lr_scheduler.ExponentialLR(o, 0.8)), store)


def test_step_hooks_and_a_scheduler_by_epochs_go_on_exactly(store: MemoryStore) -> None:
    def hooked(model: nn.Module) -> Optimizer:
        optimizer = sgd(model)

        def halve(optimizer: Optimizer, *rest: Any) -> None:
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad.mul_(0.5)

        optimizer.register_step_pre_hook(halve)
        return optimizer

    job = Case(dropout_mlp, hooked, lambda o: lr_scheduler.StepLR(o, 1), scheduler_interval="epoch")
    assert_goes_on(job, store)

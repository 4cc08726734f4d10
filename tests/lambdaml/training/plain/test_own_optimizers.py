"""Optimizers and schedulers of people's own: they go on exactly after a stop, or are refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lambdaml.storage import MemoryStore
from tests.lambdaml.training.plain.case import Case, sgd, trainable
from tests.lambdaml.training.plain.loop import (
    assert_goes_on,
    assert_refused,
    differences,
    stopped_and_resumed,
    train,
    trained,
)
from tests.lambdaml.training.plain.models import mlp


class Langevin(SGD):
    """A step with noise."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        super().step()
        for parameter in self.param_groups[0]["params"]:
            parameter.add_(0.01 * torch.randn_like(parameter))


def test_an_optimizer_that_draws_noise_draws_the_same_after_a_stop(store: MemoryStore) -> None:
    job = Case(mlp, lambda model: Langevin(trainable(model), lr=0.1))
    run = stopped_and_resumed(job, store)
    resumed = trained(run)
    assert run.verify().faults == []
    store.delete([info.key for info in list(store.list(""))])
    assert differences(resumed, trained(train(job, store))) == []


class Lion(Optimizer):
    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            one, two = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                parameter.sub_((average * one + parameter.grad * (1 - one)).sign(), alpha=group["lr"])
                average.lerp_(parameter.grad, 1 - two)


class Lookahead(Optimizer):
    """Slow weights that follow those of an optimizer inside. Where `counts` is false, it forgets its own count of steps."""

    def __init__(self, inner: Optimizer, every: int, *, counts: bool) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        self.inner, self.every, self.counts = inner, every, counts
        self.param_groups, self.defaults, self.state = inner.param_groups, inner.defaults, inner.state
        self.taken = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.inner.step()
        self.taken += 1
        for parameter in self.param_groups[0]["params"]:
            slow = self.inner.state[parameter].setdefault("slow", parameter.detach().clone())
            if self.taken % self.every == 0:
                parameter.copy_(slow.lerp_(parameter, 0.5))

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict() | ({"taken": self.taken} if self.counts else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self.taken = state.pop("taken", 0)
        self.inner.load_state_dict(state)
        self.param_groups, self.state = self.inner.param_groups, self.inner.state


class Selfish(SGD):
    """It throws the gradients away that it has used, and clears the rest."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.sign()
        super().step()
        self.zero_grad()


class Reassigning(SGD):
    """It gives parameters other data instead of writing into them."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter.data = parameter.data - 0.1 * parameter.grad


OWN_OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "lion": lambda model: Lion(trainable(model), lr=0.01),
    "lookahead": lambda model: Lookahead(Adam(trainable(model), lr=0.01), 3, counts=True),
    "clears its gradients": lambda model: Selfish(trainable(model), lr=0.01),
    "assigns data anew": lambda model: Reassigning(trainable(model), lr=0.1),
}


@pytest.mark.parametrize("name", OWN_OPTIMIZERS)
def test_an_optimizer_of_ones_own_goes_on_exactly(name: str, store: MemoryStore) -> None:
    assert_goes_on(Case(mlp, OWN_OPTIMIZERS[name]), store)


@pytest.mark.parametrize("every", [2, 7, 1000])
def test_an_optimizer_whose_state_dict_leaves_something_out_is_refused_by_its_name(
    every: int, store: MemoryStore
) -> None:
    job = Case(mlp, lambda model: Lookahead(Adam(trainable(model), lr=0.01), every, counts=False))
    assert_refused(job, store, "Lookahead", "taken")


class Forgetful(LRScheduler):
    """A scheduler that leaves its patience out of its state, and uses it in a thousand steps."""

    patience = 0

    def get_lr(self) -> list[float | Tensor]:
        self.patience += 1
        return [0.01 if self.patience > 1000 else 0.1 for _ in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch}


def test_a_scheduler_whose_state_dict_leaves_something_out_is_refused_by_its_name(store: MemoryStore) -> None:
    assert_refused(Case(mlp, sgd, Forgetful), store, "Forgetful", "patience")


def test_an_optimizer_that_needs_a_closure_is_refused_by_its_name(store: MemoryStore) -> None:
    class Sharpness(SGD):
        def step(self, closure: Any = None) -> None:
            closure()
            super().step()

    assert_refused(Case(mlp, lambda model: Sharpness(trainable(model), lr=0.1)), store, "Sharpness")

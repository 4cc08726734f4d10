"""Jobs that once went wrong in silence: each trains as it would in a plain loop, or is refused in words that help.

Most run with two workers on two functions, so that state must agree between replicas and come back from snapshots.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau
from torch.utils.data import TensorDataset

import lambdaml
from lambdaml import Job
from lambdaml.errors import RunFailed
from lambdaml.storage import MemoryStore
from lambdaml.training.replay import replica_at
from tests.lambdaml.training.plain.case import Case
from tests.lambdaml.training.plain.loop import assert_refused


class Regression(Case):
    """A linear model on 64 points, unless a case says otherwise."""

    batch_size = 8

    def __init__(self, model: Any = lambda: nn.Linear(4, 1), **parts: Any) -> None:
        super().__init__(model, **({"optimizer": descent, "loss": squares, "dataset": normal} | parts))


def descent(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.05)


def squares(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).pow(2).mean()


def normal() -> TensorDataset:
    """Points whose target is the sum of their features."""
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, x.sum(1, keepdim=True))


def uniform() -> TensorDataset:
    return TensorDataset(torch.rand(64, 4, generator=torch.Generator().manual_seed(0)), torch.ones(64, 1))


def train(job: Job, store: MemoryStore, **options: Any) -> lambdaml.Run:
    settings = {"workers": 2, "functions": 2, "engine": "inline", "snapshot_every": 2} | options
    lambdaml.train(job, store.url, **settings)
    return lambdaml.Run(store, job)


def sound(run: lambdaml.Run) -> bool:
    """Whether every update was applied, and a replay gives the same bits."""
    fates = run.summary().fates
    return run.verify().faults == [] and fates["applied"] > 0 and not fates["rejected"] and not fates["discarded"]


def states(run: lambdaml.Run) -> list[dict[str, Tensor]]:
    """The model at every version."""
    return [run.replay(version).model() for version in range(run.summary().version + 1)]


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rot", torch.polar(torch.ones(4), torch.arange(4.0) / 3))
        self.out = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.view_as_real(x * self.rot).flatten(1))


@pytest.mark.parametrize("functions", [1, 2])
def test_a_complex_buffer_keeps_its_imaginary_part_at_every_version(functions: int, store: MemoryStore) -> None:
    run = train(Regression(Rotary), store, steps=3, functions=functions)
    expected = Rotary().rot
    assert all(torch.equal(state["rot"], expected) and state["rot"].is_complex() for state in states(run))
    assert sound(run)


class Floor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("lo", torch.tensor(float("inf")))
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.lo.copy_(torch.minimum(self.lo, x.detach().min()))
        return self.out(x)


@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:1", "quorum:2"])
def test_a_running_minimum_from_infinity_becomes_that_of_the_data(schedule: str, store: MemoryStore) -> None:
    run = train(Regression(Floor, dataset=uniform), store, epochs=3, schedule=schedule)
    model = run.model()
    assert model.lo == uniform().tensors[0].min()
    assert run.verify().faults == [] and run.summary().fates["rejected"] == 0
    assert not torch.equal(states(run)[0]["out.weight"], model.out.weight), "nothing was trained"


class Centre(nn.Module):
    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("avg", torch.zeros(4))
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            moved = 0.9 * self.avg + 0.1 * x.detach().mean(0)
            if self.in_place:
                self.avg.copy_(moved)
            else:
                self.avg = moved
        return self.out(x - self.avg)


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
@pytest.mark.parametrize("functions", [1, 2])
def test_a_buffer_that_is_assigned_anew_trains_as_one_that_is_changed_in_place(
    functions: int, schedule: str, store: MemoryStore
) -> None:
    options = {"steps": 20, "snapshot_every": 5, "functions": functions, "schedule": schedule}
    found = train(Regression(lambda: Centre(in_place=False)), store, **options)
    assert sound(found)
    if schedule == "bsp":  # the order of asynchronous updates is another each time
        result = store.get("model.safetensors")
        store.delete([info.key for info in list(store.list(""))])
        train(Regression(lambda: Centre(in_place=True)), store, **options)
        assert store.get("model.safetensors") == result is not None


class Masked(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 1)
        self.register_buffer("mask", torch.tensor([[1.0, 0.0, 2.0, 1.0]]).expand(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.mask[0])


def test_an_expanded_buffer_comes_back_whole(store: MemoryStore) -> None:
    run = train(Regression(Masked), store, steps=4)
    assert sound(run)
    assert torch.equal(run.model().mask, Masked().mask)


class Counted(nn.Linear):
    seen = 3

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": self.seen}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


def test_extra_state_comes_back(store: MemoryStore) -> None:
    run = train(Regression(lambda: Counted(4, 1)), store, steps=4)
    assert sound(run)
    assert run.model().seen == 3


def test_lazy_layers_are_refused_with_what_to_do(store: MemoryStore) -> None:
    job = Regression(lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1)))
    assert_refused(job, store, "lazy layers", "0.weight", "run a batch through the model in model()")


@pytest.mark.parametrize("milestones", [[5, 10], [5, 8], [5, 5, 19]])
def test_milestones_lower_the_learning_rate_as_in_a_plain_loop(milestones: list[int], store: MemoryStore) -> None:
    def milestone(optimizer: Optimizer) -> MultiStepLR:
        return MultiStepLR(optimizer, milestones, gamma=0.1)

    job = Regression(scheduler=milestone)
    run = train(job, store, steps=20, snapshot_every=4, lifetime_s=0.0)
    plain = descent(nn.Linear(4, 1))
    schedule = milestone(plain)
    for version in range(21):
        if version % 4 == 0:
            (group,) = replica_at(run, version, job).optimizer.param_groups
            assert group["lr"] == plain.param_groups[0]["lr"]
        plain.step()
        schedule.step()
    assert sound(run)


class Uncertain(Job):
    """A loss with a parameter of the job's own."""

    batch_size = 8

    def __init__(self, momentum: float = 0.0) -> None:
        self.momentum, self.log_sigma = momentum, nn.Parameter(torch.zeros(1))

    def model(self) -> nn.Module:
        return nn.Linear(4, 1)

    def dataset(self) -> TensorDataset:
        return normal()

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return ((model(batch[0]) - batch[1]).pow(2) * (-self.log_sigma).exp() + self.log_sigma).mean()

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD([*model.parameters(), self.log_sigma], lr=0.01, momentum=self.momentum)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_optimizer_over_a_parameter_that_is_not_the_models_is_refused(momentum: float, store: MemoryStore) -> None:
    assert_refused(Uncertain(momentum), store, "optimizer()", "that is not the model's")


def test_a_scheduler_that_looks_at_a_metric_is_refused(store: MemoryStore) -> None:
    assert_refused(Regression(scheduler=ReduceLROnPlateau), store, "ReduceLROnPlateau", "metric")


def test_a_learning_rate_that_is_a_tensor_works(store: MemoryStore) -> None:
    job = Regression(optimizer=lambda model: Adam(model.parameters(), lr=torch.tensor(0.05)))
    run = train(job, store, steps=4)
    assert sound(run)
    (group,) = replica_at(run, 4, job).optimizer.param_groups
    assert isinstance(group["lr"], Tensor) and group["lr"] == torch.tensor(0.05)


def zeroing(model: nn.Module, batch: Any) -> Tensor:
    model.zero_grad()
    return squares(model, batch)


@pytest.mark.parametrize("functions", [1, 2])
def test_a_loss_that_clears_gradients_first_learns_as_without(functions: int, store: MemoryStore) -> None:
    run = train(Regression(loss=zeroing), store, steps=40, functions=functions, snapshot_every=20)
    assert sound(run)
    assert (run.model().weight - 1).abs().max() < 0.05
    result = store.get("model.safetensors")
    store.delete([info.key for info in list(store.list(""))])
    train(Regression(), store, steps=40, functions=functions, snapshot_every=20)
    assert store.get("model.safetensors") == result is not None


BAD = 40


def one_bad_sample() -> TensorDataset:
    x = torch.ones(64, 4)
    x[BAD] = float("nan")
    return TensorDataset(x, torch.ones(64, 1))


def test_one_bad_sample_among_many_does_not_end_a_run_and_is_told_of(store: MemoryStore) -> None:
    job, events = Regression(dataset=one_bad_sample), list[dict[str, Any]]()
    run = train(job, store, epochs=12, on_event=events.append)
    summary = run.summary()
    assert summary.stop == "steps" and summary.fates["rejected"] == 12
    assert run.verify().faults == []
    assert torch.isfinite(run.model().weight).all()
    told = [line for event in events if event.event == "commit" for line in event.rejected]
    assert len(told) == 12
    named = re.compile(r"update \d+ of worker [01] \(samples ([\d, ]+)\): loss is not finite")
    assert all(str(BAD) in match[1].split(", ") for match in map(named.fullmatch, told) if match is not None)
    assert all(map(named.fullmatch, told))


def test_a_run_of_bad_samples_alone_fails_and_names_them(store: MemoryStore) -> None:
    job = Regression(dataset=lambda: TensorDataset(torch.full((64, 4), float("nan")), torch.ones(64, 1)))
    with pytest.raises(RunFailed) as caught:
        train(job, store, steps=4)
    message = str(caught.value)
    assert all(word in message for word in ("worker", "update", "sample")), message
    assert "smaller learning rate" not in message

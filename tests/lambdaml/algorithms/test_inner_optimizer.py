"""The inner optimizer and its schedule: every type of tensor, every place of the schedule, and runs that go on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import lambdaml
from lambdaml.errors import JobError
from lambdaml.log import keys
from lambdaml.log.memory import Memory
from lambdaml.log.snapshot import State
from lambdaml.training.inner_rates import InnerRates
from tests.lambdaml.lab import Made, equal, replica_of, train


class Mixed(nn.Module):
    """A linear model with parameters of one type more than float32, and a frozen one."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.linear = nn.Linear(6, 3)
        self.odd = nn.Parameter(torch.randn(6, 3, dtype=torch.float32).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        odd = torch.view_as_real(self.odd).sum(-1) if self.odd.is_complex() else self.odd
        return self.linear(x) + x @ odd.float() + self.frozen


class Remembers(torch.optim.SGD):
    """Plain SGD that keeps a state of every type that tensors have."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                grad = torch.view_as_real(parameter.grad) if parameter.is_complex() else parameter.grad
                self.state[parameter] |= {str(dtype).removeprefix("torch."): grad.to(dtype) for dtype in STATES}


STATES = (
    *(torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.complex128),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)
TRAINED = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)


@pytest.mark.parametrize("dtype", TRAINED)
def test_parameters_of_every_type_come_back_and_their_displacement_is_exact(dtype: torch.dtype) -> None:
    made = Made(lambda: Mixed(dtype), lambda ps: torch.optim.SGD([p for p in ps if p.requires_grad], lr=0.5))
    replica = replica_of(made, algorithm="local:3")
    before = {name: tensor.clone() for name, tensor in replica.model.state_dict().items()}
    update = replica.update(0, 0)
    assert equal(dict(replica.model.state_dict()), before)
    moved = {name: tensor.double() if not tensor.is_complex() else tensor for name, tensor in before.items()}
    place, found = 0, update.body["gradient"]
    for name, parameter in replica.model.named_parameters():
        if not parameter.requires_grad:
            continue
        length = parameter.numel() * (2 if parameter.is_complex() else 1)
        piece = torch.from_numpy(found[place : place + length].astype(np.float64))
        shape = (*parameter.shape, 2) if parameter.is_complex() else parameter.shape
        step = torch.view_as_complex(piece.reshape(shape)) if parameter.is_complex() else piece.reshape(shape)
        moved[name] = moved[name] + step
        assert step.abs().max() > 1e-3, name
        place += length
    assert place == len(found)
    alone = made.model()
    alone.load_state_dict(before)
    optimizer = made.optimizer(alone)
    for seq in range(3):
        indices = replica.sampler.indices(0, seq)
        x, y = made.dataset().tensors
        optimizer.zero_grad()
        made.loss(alone, (x[indices], y[indices])).backward()
        optimizer.step()
    for name, tensor in alone.state_dict().items():
        exact = torch.view_as_real(tensor).double() if tensor.is_complex() else tensor.double()
        other = torch.view_as_real(moved[name]).double() if tensor.is_complex() else moved[name]
        assert torch.allclose(exact, other, rtol=1e-6, atol=1e-7), name


@pytest.mark.parametrize("dtype", TRAINED)
def test_a_pull_adds_the_gradient_of_half_the_squared_distance(dtype: torch.dtype) -> None:
    job = Made(lambda: Mixed(dtype), lambda ps: torch.optim.SGD([p for p in ps if p.requires_grad], lr=0.5))
    replica = replica_of(job, algorithm="local:1")
    alone = job.model()
    alone.load_state_dict(replica.model.state_dict())
    centre = np.linspace(-1, 1, replica.flat.size).astype(replica.flat.host.dtype)
    replica.local.open()
    replica.local.backward(0, 0)
    replica.local.pull(centre, 0.25)
    indices = replica.sampler.indices(0, 0)
    x, y = job.dataset().tensors
    trained = [p for p in alone.parameters() if p.requires_grad]
    flat = torch.cat([torch.view_as_real(p).flatten() if p.is_complex() else p.flatten() for p in trained])
    distance = (flat.double() - torch.from_numpy(centre)).square().sum()
    (job.loss(alone, (x[indices], y[indices])) + 0.125 * distance).backward()
    expected = [torch.view_as_real(p.grad).flatten() if p.is_complex() else p.grad.flatten() for p in trained]
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-6)
    np.testing.assert_allclose(replica.flat.host, torch.cat(expected).double().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:Casting complex values:UserWarning")  # torch does, and it is undone
@pytest.mark.parametrize("dtype", TRAINED)
def test_an_inner_optimizer_that_is_kept_comes_back_with_every_type_and_bit(dtype: torch.dtype) -> None:
    made = Made(lambda: Mixed(dtype), lambda ps: Remembers([p for p in ps if p.requires_grad], lr=0.1, momentum=0.9))
    replica = replica_of(made, algorithm="local:2,inner=keep")
    replica.update(0, 0)
    state = {number: dict(entries) for number, entries in replica.local.optimizer.state_dict()["state"].items()}
    assert {tensor.dtype for tensor in state[1].values()} >= set(STATES)
    memory = replica.memories.of(0, 1)
    read = Memory.read(memory.dump(0), keys.memory(0, 1))
    assert read.digest() == memory.digest()
    successor = replica_of(made, algorithm="local:2,inner=keep")
    successor.local.load_optimizer(read.arrays, read.values["optimizer"])
    found = successor.local.optimizer.state_dict()["state"]
    assert found.keys() == state.keys()
    for number, entries in state.items():
        assert equal(found[number], entries)


def test_a_state_that_an_optimizer_begins_with_is_made_anew_in_its_own_type() -> None:
    """torch casts what it loads to the type of the parameter."""

    class Wide(torch.optim.SGD):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, lr=0.1)
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["sum"] = torch.full(parameter.shape, 2.0**-40, dtype=torch.float64)

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            super().step(closure)
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["sum"] += 1

    replica = replica_of(Made(optimizer=Wide), algorithm="local:2")
    for seq in range(2):
        replica.update(0, seq)
        for entries in replica.local.optimizer.state_dict()["state"].values():
            assert entries["sum"].dtype == torch.float64
            assert (entries["sum"] == 2 + 2.0**-40).all()


def made_rates(lr: float = 0.1, **options: Any) -> tuple[torch.optim.Optimizer, InnerRates]:
    """An optimizer whose momentum is another one in the steps 3 to 5 alone, and the rates that follow its schedule."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=lr, momentum=0.5)

    class Dip:
        def __init__(self) -> None:
            self.count = 0

        def step(self) -> None:
            self.count += 1
            optimizer.param_groups[0].update(lr=lr / (self.count + 1), momentum=0.1 if 3 <= self.count <= 5 else 0.5)

        def state_dict(self) -> dict[str, Any]:
            return dict(vars(self))

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.count = state["count"]

    return optimizer, InnerRates(optimizer, Dip(), **{"interval": "step", "per_epoch": 4, "steps": 20_000} | options)


def options(optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    return optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]


def expected(step: int) -> tuple[float, float]:
    return 0.1 / (step + 1), 0.1 if 3 <= step <= 5 else 0.5


def test_a_schedule_may_be_followed_in_any_order() -> None:
    optimizer, rates = made_rates()
    for step in (0, 7, 4, 0, 5, 19_000, 4, 18_999, 8_000, 8_001, 3, 2):
        rates.set(step, {})
        assert options(optimizer) == expected(step), step


def test_going_back_and_forth_by_a_few_steps_never_follows_the_schedule_from_its_beginning() -> None:
    """Each worker of a function goes back to the step of the base: that must not cost more, the longer the run is."""
    optimizer, rates = made_rates()
    taken: list[int] = []
    scheduler: Any = rates._scheduler
    plain = scheduler.step
    scheduler.step = lambda: (taken.append(1), plain())
    for base in range(9_900, 10_200, 10):
        for _ in range(4):
            for step in range(base, base + 20):
                rates.set(step, {})
                assert options(optimizer) == expected(step)
    assert len(taken) == 10_209


def test_a_kept_state_does_not_depend_on_where_the_schedule_stood() -> None:
    """Otherwise a successor, which has not seen the later steps, would remember something else."""
    optimizer, rates = made_rates()
    other, fresh = made_rates()
    rates.set(9, {})
    rates.set(4, {})
    fresh.set(4, {})
    for each in (rates, fresh):
        each.reset()
    assert options(optimizer) == options(other) == expected(0)


def test_options_that_the_optimizer_itself_changes_are_left_alone() -> None:
    optimizer, rates = made_rates()
    optimizer.param_groups[0]["dampening"] = 0.25
    rates.set(4, {})
    rates.reset()
    assert optimizer.param_groups[0]["dampening"] == 0.25


def test_a_rate_that_was_set_in_mid_run_counts_in_place_of_the_schedules() -> None:
    optimizer, rates = made_rates()
    rates.set(4, {"lr": 0.7})
    assert options(optimizer) == (0.7, 0.1)


def test_a_schedule_of_epochs_changes_with_the_inner_steps_epoch() -> None:
    optimizer, rates = made_rates(interval="epoch", per_epoch=4)
    for step in (0, 3, 4, 15, 12, 11):
        rates.set(step, {})
        assert options(optimizer) == expected(step // 4), step


@pytest.mark.parametrize("schedule", ["bsp", "asp", "quorum:1,late=weight"])
def test_a_schedule_with_an_end_is_not_overstepped_by_workers_that_are_ahead(schedule: str) -> None:
    """OneCycleLR raises after its last step, and the base of the last update may stand for more than 8 steps."""
    job = Made(scheduler=lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=13))
    run = train(job, workers=3, steps=4, algorithm="local:3", schedule=schedule)
    assert lambdaml.Run(run.store, job).verify().faults == []


def cosine(lr: float = 0.1, epochs: int = 0) -> Made:
    scheduler = (lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9)) if not epochs else None
    return Made(
        optimizer=lambda ps: torch.optim.SGD(ps, lr=lr), **({"scheduler": scheduler} if scheduler is not None else {})
    )


def first(run: lambdaml.Run) -> State:
    data = run.store.get(keys.snapshot(0))
    assert data is not None
    return State.load(data, keys.snapshot(0))


def test_a_run_that_begins_from_another_one_goes_on_with_its_outer_optimizer_and_inner_schedule() -> None:
    spec = "local:3,outer=nesterov"
    before = train(cosine(), workers=2, steps=4, algorithm=spec)
    after = train(cosine(), workers=2, steps=2, algorithm=spec, init_from=before.url)
    again = train(cosine(), workers=2, steps=2, algorithm=spec, init_from=after.url)
    stood, begun = lambdaml.Run(before.store, cosine()).replay(), first(after)
    assert begun.meta["scheduler"] == {"inner": 12} and first(again).meta["scheduler"] == {"inner": 18}
    assert stood.tensors.keys() == begun.tensors.keys()
    assert equal(stood.tensors, begun.tensors)
    assert lambdaml.Run(again.store, cosine()).verify().faults == []


@pytest.mark.parametrize(
    ("one", "other"),
    [("gradient", "local:3,outer=nesterov"), ("local:3,outer=adam", "gradient"), ("local:3", "local:2,outer=adam")],
)
def test_from_a_run_of_another_algorithm_only_the_weights_are_taken(one: str, other: str) -> None:
    """Its optimizer is another one: SGD with the rate that Adam had would be no outer optimizer at all."""
    job = Made(optimizer=lambda ps: torch.optim.Adam(ps, lr=0.01))
    before = train(job, workers=2, steps=4, algorithm=one)
    after = train(job, workers=2, steps=2, algorithm=other, init_from=before.url)
    alone = train(job, workers=2, steps=2, algorithm=other)
    assert first(after).meta["optimizer"] == first(alone).meta["optimizer"]
    stood = lambdaml.Run(before.store, job).replay().model()
    assert equal(first(after).model(), stood)
    assert lambdaml.Run(after.store, job).verify().faults == []


def test_a_schedule_in_one_of_two_runs_alone_is_refused() -> None:
    plain = cosine(epochs=1)
    before = train(plain, workers=1, steps=1, algorithm="local:2")
    with pytest.raises(JobError, match="has a learning-rate scheduler, and the other has none"):
        train(cosine(), workers=1, steps=1, algorithm="local:2", init_from=before.url)

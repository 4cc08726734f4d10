"""Buffers: kept around a forward pass, carried as what they became, merged over the updates of a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lambdaml.errors import JobError
from lambdaml.training.buffers import Buffers


class Holder(nn.Module):
    """One parameter, and the buffers that a test wants."""

    def __init__(self, **buffers: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        for name, value in buffers.items():
            self.register_buffer(name, value)


def update(model: nn.Module, change: Any, late: bool = False) -> dict[str, Any]:
    """What an update carries if the forward pass does `change(model)`; the model is left as it was."""
    buffers = Buffers(model, late)
    kept = buffers.keep()
    change(model)
    body = buffers.changes(kept)
    assert buffers.check(body) == ""
    buffers.restore(kept)
    return body


def merged(model: nn.Module, *changes: Any, weights: Any = None, fresh: Any = None, late: bool = False) -> nn.Module:
    bodies = [update(model, change, late) for change in changes]
    weights = weights or [1 / len(changes)] * len(changes)
    Buffers(model, late).merge(bodies, weights, fresh or [True] * len(changes))
    return model


def to(value: Any) -> Any:
    """A forward pass that makes buffer `x` this."""
    return lambda model: model.x.copy_(torch.as_tensor(value))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_one_update_of_weight_one_makes_the_buffer_what_it_was_after_the_pass_bit_for_bit(dtype: torch.dtype) -> None:
    values = (torch.tensor([1e-7, 3.0, -1e4, 1 / 3]) * (1 + 1j if dtype.is_complex else 1)).to(dtype)
    model = merged(Holder(x=torch.full((4,), 1e3).to(dtype)), to(values))
    assert torch.equal(model.x, values)


def test_nan_and_infinity_are_carried() -> None:
    model = merged(Holder(x=torch.zeros(3)), to([math.nan, math.inf, -math.inf]))
    assert torch.equal(model.x.nan_to_num(7.0, 8.0, 9.0), torch.tensor([7.0, 8.0, 9.0]))


def test_a_buffer_that_does_not_change_is_not_sent_be_it_nan() -> None:
    assert update(Holder(x=torch.tensor([math.nan, -math.inf, 1.0])), lambda model: None) == {}


def test_several_updates_move_a_buffer_by_the_weighted_mean_of_their_changes() -> None:
    model = merged(Holder(x=torch.tensor([1.0])), to([2.0]), to([5.0]), lambda m: None, weights=[0.5, 0.25, 0.25])
    assert model.x.item() == 1 + 0.5 * 1 + 0.25 * 4


def test_constants_stay_to_the_last_bit_whatever_the_weights() -> None:
    changes = [lambda m, v=v: m.x[0].fill_(v) for v in (1.0, 2.0, 3.0)]
    model = merged(Holder(x=torch.tensor([0.0, 0.1, math.inf, math.nan])), *changes)
    assert torch.equal(model.x[1:3], torch.tensor([0.1, math.inf])) and math.isnan(model.x[3])
    assert model.x[0].item() == pytest.approx(2.0)


@pytest.mark.parametrize(("start", "expected"), [(math.inf, 2.0), (-math.inf, 5.0)])
def test_a_buffer_that_begins_at_infinity_keeps_the_least_or_the_greatest(start: float, expected: float) -> None:
    for changes in ([2.0, 5.0], [5.0, 2.0]):
        model = Holder(x=torch.tensor(start))
        assert merged(model, *map(to, changes)).x.item() == expected


def test_a_running_minimum_stays_the_minimum_of_all_that_was_seen() -> None:
    model = Holder(x=torch.tensor(math.inf))
    buffers = Buffers(model, late=True)
    random = np.random.RandomState(0)
    seen = []
    for _ in range(20):
        bodies, fresh = [], []
        for _ in range(3):
            value = random.rand()
            seen.append(value)
            kept = buffers.keep()
            model.x.copy_(torch.minimum(model.x, torch.tensor(value)))
            bodies.append(buffers.changes(kept))
            buffers.restore(kept)
            fresh.append(bool(random.rand() < 0.5))
        buffers.merge(bodies, [1 / 3] * 3, fresh)
        assert model.x.item() == np.float32(min(seen))


def test_of_integers_the_largest_change_counts_and_booleans_are_set() -> None:
    assert merged(Holder(x=torch.tensor(7)), to(8), to(9), lambda m: None).x.item() == 9
    assert merged(Holder(x=torch.tensor(False)), to(True), lambda m: None).x.item() is True
    assert merged(Holder(x=torch.tensor(True)), to(False), to(False)).x.item() is False


def test_a_late_update_moves_a_buffer_by_its_own_change() -> None:
    model = Holder(x=torch.tensor([1.0]), n=torch.tensor(3))

    def step(m: Any) -> None:
        m.x.fill_(1.5)
        m.n += 1

    body = update(model, step, late=True)
    model.x.fill_(10.0)
    model.n.fill_(30)
    Buffers(model, late=True).merge([body], [1.0], [False])
    assert (model.x.item(), model.n.item()) == (10.5, 31)


def test_a_buffer_that_is_assigned_anew_is_carried_and_the_model_is_left_as_it_was() -> None:
    model = Holder(x=torch.zeros(2))
    before = model.x

    def assign(m: Any) -> None:
        m.x = m.x + 1

    body = update(model, assign)
    assert model.x is before and model.x.tolist() == [0, 0]
    Buffers(model, False).merge([body], [1.0], [True])
    assert model.x.tolist() == [1, 1]


@pytest.mark.parametrize("how", ["resize", "assign"])
def test_a_buffer_that_grows_is_carried(how: str) -> None:
    """As PyTorch's observers of channels do: empty at first."""

    def grow(m: Any) -> None:
        if how == "resize":
            m.x.resize_(3)
        else:
            m.x = torch.zeros(3)
        m.x.copy_(torch.tensor([1.0, 2.0, 3.0]))

    model = merged(Holder(x=torch.tensor([])), grow, grow)
    assert model.x.tolist() == [1, 2, 3]
    other = Holder(x=torch.tensor([]))
    Buffers(other, False).load({}, model.state_dict())
    other.load_state_dict(model.state_dict())
    assert other.x.tolist() == [1, 2, 3]


def test_a_buffer_that_shares_its_elements_gets_memory_of_its_own() -> None:
    model = Holder(x=torch.ones(1, 4).expand(3, 4))
    Buffers(model, False)
    model.load_state_dict({**model.state_dict(), "x": torch.arange(12.0).reshape(3, 4)})
    assert model.x[2].tolist() == [8, 9, 10, 11]


def test_a_buffer_outside_the_state_dict_travels_and_is_part_of_the_state_once_it_changed() -> None:
    model = Holder()
    model.register_buffer("x", torch.zeros(1), persistent=False)
    buffers = Buffers(model, False)
    assert buffers.state() == {}
    buffers.merge([update(model, to([2.0]))], [1.0], [True])
    assert {name: value.tolist() for name, value in buffers.state().items()} == {"buffer/x": [2.0]}


def later(model: nn.Module) -> None:
    model.register_buffer("y", torch.zeros(1))


def double(model: nn.Module) -> None:
    model._buffers["x"] = model.x.double()


def gone(model: nn.Module) -> None:
    model._buffers["x"] = None


@pytest.mark.parametrize(("change", "message"), [(later, "new buffer.*'y'"), (double, "float64"), (gone, "x is gone")])
def test_what_cannot_be_carried_is_refused_by_name(change: Any, message: str) -> None:
    model = Holder(x=torch.zeros(1))
    buffers = Buffers(model, False)
    kept = buffers.keep()
    change(model)
    with pytest.raises(JobError, match=message):
        buffers.changes(kept)

"""The flat gradient: what a loss does to `.grad` is heeded as in a plain loop, and what cannot be is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lambdaml.errors import JobError
from lambdaml.training.flat import FlatGradient


class Pair(nn.Module):
    """Two parameters, of which a loss may use one."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, 2.0]).to(dtype))
        self.b = nn.Parameter(torch.tensor([3.0]).to(dtype))


def flat_of(model: nn.Module) -> FlatGradient:
    return FlatGradient(model, torch.device("cpu"))


def backward(flat: FlatGradient, loss: Callable[[], torch.Tensor]) -> list[int]:
    flat.begin()
    loss().backward()
    return flat.finish().tolist()


def both(model: Pair) -> torch.Tensor:
    return (model.a * model.a).sum() + 5 * model.b.sum()


def test_backward_fills_the_flat_gradient_each_time_anew() -> None:
    model = Pair()
    flat = flat_of(model)
    for _ in range(2):
        assert backward(flat, lambda: both(model)) == []
        assert flat.to_host().tolist() == [2, 4, 5]
        assert model.a.grad is not None and model.a.grad.data_ptr() == flat.host.ctypes.data


@pytest.mark.parametrize("to_none", [True, False])
def test_a_loss_that_clears_gradients_first_is_harmless(to_none: bool) -> None:
    model = Pair()
    flat = flat_of(model)

    def loss() -> torch.Tensor:
        model.zero_grad(set_to_none=to_none)
        return both(model)

    assert backward(flat, loss) == [] and flat.to_host().tolist() == [2, 4, 5]


def test_a_gradient_that_a_hook_replaces_counts() -> None:
    model = Pair()
    flat = flat_of(model)

    def replace(parameter: torch.Tensor) -> None:
        parameter.grad = parameter.grad * 10  # type: ignore[operator]

    model.a.register_post_accumulate_grad_hook(replace)
    assert backward(flat, lambda: both(model)) == [] and flat.to_host().tolist() == [20, 40, 5]


def test_parameters_that_a_loss_did_not_use_are_named_and_have_no_gradient_in_the_step() -> None:
    model = Pair()
    flat = flat_of(model)
    assert backward(flat, lambda: both(model)) == []
    absent = backward(flat, lambda: model.a.sum())
    assert absent == [1] and flat.to_host().tolist() == [1, 1, 0]
    flat.from_host(absent)
    assert model.b.grad is None and model.a.grad is not None
    flat.attach()
    assert model.b.grad is not None


def test_an_inner_backward_pass_whose_gradients_are_cleared_leaves_none() -> None:
    model = Pair()
    flat = flat_of(model)

    def loss() -> torch.Tensor:
        both(model).backward()
        model.zero_grad()
        return model.a.sum()

    assert backward(flat, loss) == [1] and flat.to_host().tolist() == [1, 1, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64])
def test_other_dtypes_go_through_the_flat_gradient_unchanged(dtype: torch.dtype) -> None:
    model = Pair(dtype)
    flat = flat_of(model)

    def loss() -> torch.Tensor:
        return (both(model) * (1 + 2j)).real if dtype.is_complex else both(model).float()

    backward(flat, loss)
    expected = torch.autograd.grad(loss(), [model.a, model.b])
    flat.from_host(())
    assert torch.equal(model.a.grad, expected[0]) and torch.equal(model.b.grad, expected[1])  # type: ignore[arg-type]
    assert flat.size == (6 if dtype.is_complex else 3) and flat.values().shape == (flat.size,)


def test_a_sparse_gradient_is_made_dense() -> None:
    model = nn.Embedding(4, 2, sparse=True)
    flat = flat_of(model)
    backward(flat, lambda: model(torch.tensor([1, 1])).sum())
    assert flat.to_host().reshape(4, 2).tolist() == [[0, 0], [2, 2], [0, 0], [0, 0]]


def freeze(model: Any) -> None:
    model.b.requires_grad_(False)


def clamp(model: Any) -> None:
    with torch.no_grad():
        model.a.clamp_(0, 1)


@pytest.mark.parametrize(("change", "message"), [(freeze, "requires_grad of b"), (clamp, "changed parameter a")])
def test_a_loss_that_changes_what_the_optimizer_alone_may_is_refused_by_name(change: Any, message: str) -> None:
    model = Pair()
    flat = flat_of(model)
    flat.begin()
    loss = both(model)
    change(model)
    loss.requires_grad_() if not loss.requires_grad else None
    with pytest.raises(JobError, match=message):
        flat.finish()

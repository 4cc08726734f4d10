"""What a replica rejects, and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from torch import nn

from lambdaml.codecs import UpdateContext
from lambdaml.log.records import Update
from lambdaml.training.replica import Replica
from tests.lambdaml.lab import Made, Tiny, replica_of, update_of


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@dataclass
class Case:
    replica: Replica
    update: Update

    def fault(self, **changes: Any) -> str:
        for name, value in changes.items():
            setattr(self.update, name, value)
        return self.replica.check(self.update)

    def with_gradient(self, change: Callable[[np.ndarray], Any]) -> str:
        gradient = self.update.body["gradient"].copy()
        changed = change(gradient)
        return self.fault(body={**self.update.body, "gradient": gradient if changed is None else changed})


@pytest.fixture
def case() -> Case:
    replica = replica_of(Made(normed))
    return Case(replica, update_of(replica, 0, 0))


def test_a_sound_update_is_accepted(case: Case) -> None:
    assert case.fault() == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 7, -1])
def test_a_gradient_that_is_not_finite_is_rejected(case: Case, value: float, at: int) -> None:
    def spoil(gradient: np.ndarray) -> None:
        gradient[at] = value

    assert case.with_gradient(spoil) == "gradient is not finite"


def test_infinities_that_cancel_are_rejected(case: Case) -> None:
    def spoil(gradient: np.ndarray) -> None:
        gradient[:2] = [np.inf, -np.inf]

    assert case.with_gradient(spoil) == "gradient is not finite"


def test_a_finite_gradient_whose_sum_overflows_is_accepted(case: Case) -> None:
    assert case.with_gradient(lambda gradient: np.full_like(gradient, 3e38)) == ""


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_rejected(case: Case, loss: float) -> None:
    assert case.fault(loss=loss) == "loss is not finite"


def test_another_codec_is_rejected_by_name(case: Case) -> None:
    assert case.fault(codec="bf16") == "codec bf16, not fp32"


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g[:-1],
        lambda g: g[:0],
        lambda g: g.reshape(1, -1),
        lambda g: g.astype(np.float16),
        lambda g: g.astype(np.int32),
    ],
)
def test_a_gradient_of_another_shape_or_type_is_rejected(case: Case, change: Any) -> None:
    assert case.with_gradient(change) != ""


@pytest.mark.parametrize("name", ["b0", "b2"])
def test_wrong_buffers_are_rejected(case: Case, name: str) -> None:
    good = dict(case.update.body)
    array = good[name]
    wrong: list[dict[str, Any]] = [
        good | {name: array[..., :-1]},
        good | {name: array.astype(np.float16)},
        good | {name: array.reshape(-1, 1)},
        good | {"b99": array},
        {key: part for key, part in good.items() if key != name} | {f"d{name[1:]}": array},
    ]
    for body in wrong:
        assert "buffer" in case.fault(body=body) or "no part" in case.fault(body=body)
    assert case.fault(body=good) == ""


@pytest.mark.parametrize("numbers", [[-1], [99], [1, 0], [0, 0], []])
def test_parameters_without_a_gradient_that_do_not_exist_are_rejected(case: Case, numbers: list[int]) -> None:
    assert "without a gradient" in case.fault(body={**case.update.body, "absent": np.array(numbers, np.int32)})


def test_buffers_where_the_model_has_none_are_rejected() -> None:
    replica = replica_of(Tiny())
    update = update_of(replica, 0, 0)
    for name in ("b0", "d0", "surprise"):
        assert replica.check(update_of(replica, 0, 0, body={**update.body, name: np.zeros((1, 4), np.uint8)})) != ""


def test_a_gradient_of_too_large_a_norm_is_rejected() -> None:
    replica = replica_of(Tiny(), max_update_norm=2.0)
    size = replica.flat.size
    for norm, accepted in ((1.99, True), (2.01, False)):
        body = {"gradient": np.full(size, norm / math.sqrt(size), np.float32)}
        fault = replica.check(update_of(replica, 0, 0, body=body))
        assert fault == ("" if accepted else "gradient has a norm above the limit")
    huge = {"gradient": np.full(size, 3e38, np.float32)}
    assert "norm" in replica.check(update_of(replica, 0, 0, body=huge))


def test_an_update_that_claims_other_samples_than_it_was_dealt_is_rejected() -> None:
    """Its samples are its weight in the mean."""
    replica = replica_of(Tiny(), workers=2)
    update = update_of(replica, 1, 3)
    assert replica.check(update) == ""
    for samples in (update.samples * 1000, 0, -1):
        update.samples = samples
        assert replica.check(update) != ""


def test_bf16_rejects_what_overflows_when_it_is_rounded() -> None:
    replica = replica_of(Tiny(), codec="bf16")
    body = replica.codec.encode(np.full(replica.flat.size, 3.4e38, np.float32), replica.flat.layout, UpdateContext())
    assert replica.check(update_of(replica, 0, 0, body=body)) == "gradient is not finite"

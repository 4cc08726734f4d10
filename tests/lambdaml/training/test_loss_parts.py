"""A job's loss may name parts, which are reported beside it and change no bit of the training."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.errors import JobFailed
from lambdaml.training.loss_parts import MOST, LossParts
from tests.lambdaml.lab import Tiny, model_bytes, train


class TinyParts(Tiny):
    """The same as `Tiny`, with the parts of its loss named."""

    def loss(self, model: nn.Module, batch: Any) -> Any:
        x, y = batch
        loss = nn.functional.cross_entropy(model(x), y)
        return {"loss": loss, "twice": 2 * loss, "seven": 7, "infinite": torch.tensor(float("inf"))}


@pytest.mark.parametrize("algorithm", ["gradient", "local:2"])
def test_named_parts_change_no_bit_and_stand_in_the_trace(algorithm: str) -> None:
    options = {"workers": 2, "steps": 4, "algorithm": algorithm, "engine": "inline"}
    plain, named = train(Tiny, **options), train(TinyParts, **options)
    assert model_bytes(plain) == model_bytes(named)
    rows = named.trace()
    assert len(rows) == 8
    for row in rows:
        parts = json.loads(row["parts"])
        assert parts == {"twice": pytest.approx(2 * row["loss"]), "seven": 7.0, "infinite": None}
    assert not any("parts" in row for row in plain.trace())


def test_a_trace_with_parts_is_saved_and_loaded(tmp_path: Any) -> None:
    trace = lambdaml.Trace.of(train(TinyParts, workers=2, steps=2, engine="inline"))
    trace.save(tmp_path / "trace.parquet")
    assert lambdaml.Trace.load(tmp_path / "trace.parquet").rows == trace.rows


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        ({"kl": 1.0}, "returned a dict without 'loss', which is what is differentiated: kl"),
        ({"loss": 1.0}, "must return a scalar tensor as its 'loss', not float"),
        (
            {"loss": torch.zeros(()), "kl": torch.zeros(3)},
            r"the part 'kl' must be a scalar, not a tensor of shape \(3,\)",
        ),
        ({"loss": torch.zeros(()), "kl": "high"}, "the part 'kl' must be a scalar, not str"),
        ({"loss": torch.zeros(()), **{str(n): n for n in range(MOST + 1)}}, "33 parts beside 'loss': 32 are carried"),
        (torch.zeros(3), r"must return a scalar tensor, not a tensor of shape \(3,\)"),
    ],
)
def test_what_cannot_be_carried_is_refused_in_one_line(returned: Any, complaint: str) -> None:
    with pytest.raises(JobFailed, match=f"^Mine.loss.*{complaint}"):
        LossParts("Mine.loss").split(returned)


def test_the_mean_is_over_samples() -> None:
    parts = LossParts("Mine.loss")
    for samples, value in ((1, 1.0), (3, 5.0)):
        parts.split({"loss": torch.zeros(()), "kl": value})
        parts.count(samples)
    assert parts.take() == {"kl": 4.0}
    assert parts.take() == {}

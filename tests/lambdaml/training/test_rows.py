"""Sparse embeddings: what travels is the rows that a batch used, and no bit differs from dense gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

import lambdaml
from lambdaml.codecs import CODECS, decode_vector
from lambdaml.log import keys
from lambdaml.log.records import Update
from lambdaml.training.flat import layout_of
from lambdaml.training.rows import Rows
from tests.lambdaml.lab import Made, broken_off, model_bytes, replica_of, train, update_of

WORDS, WIDTH = 500, 8


class Bag(nn.Module):
    """A bag and two embeddings, one of which shares its weights with a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(WORDS, WIDTH, mode="sum", sparse=True)
        self.head = nn.Linear(WIDTH, 3)
        self.words = nn.Embedding(WORDS, WIDTH, sparse=True)
        self.tied = nn.Embedding(20, WIDTH, sparse=True)
        self.out = nn.Linear(WIDTH, 20, bias=False)
        self.out.weight = self.tied.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.bag(x) + self.words(x).mean(1) + self.tied(x % 20).mean(1)
        return self.head(found) + self.out(found)[:, :3]


def job(**more: Any) -> Made:
    def dataset() -> TensorDataset:
        draw = torch.Generator().manual_seed(3)
        return TensorDataset(torch.randint(0, WORDS, (64, 5), generator=draw), torch.arange(64) % 3)

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)

    return Made(Bag, optimizer, dataset=dataset, **more)


def largest_update(run: lambdaml.Run) -> int:
    return max(info.size_bytes for info in run.store.list(keys.UPDATES))


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "bsp"},
        {"schedule": "bsp", "codec": "bf16"},
        {"schedule": "bsp", "codec": "topk:1.0"},
        {"schedule": "asp", "functions": 1, "workers": 1},
        {"schedule": "quorum:2", "workers": 2, "staleness": "dc:0.5"},
    ],
    ids=str,
)
def test_rows_give_the_bits_of_whole_gradients(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same ones: torch adds up the uses of a word in another order where its gradient is dense."""
    asked = {"workers": 3, "steps": 8, "seed": 4, **options}
    sparse = train(job(), **asked)
    monkeypatch.setattr(Rows, "find", lambda rows, gradient, seq: {})
    dense = train(job(), **asked)
    assert model_bytes(sparse) == model_bytes(dense)
    assert lambdaml.Run(sparse.store, job()).verify().faults == []
    assert largest_update(sparse) < largest_update(dense) / 4


def test_a_run_with_rows_that_was_broken_off_goes_on_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"workers": 2, "steps": 8, "seed": 4, "snapshot_every": 3, "max_update_norm": 100.0}
    run = broken_off(job(clip_norm=1.0), at=4, **asked)
    lambdaml.resume(run.store, job=job(clip_norm=1.0))
    monkeypatch.setattr(Rows, "find", lambda rows, gradient, seq: {})
    assert model_bytes(run) == model_bytes(train(job(clip_norm=1.0), **asked))


def test_a_gradient_that_touches_most_rows_travels_whole() -> None:
    replica = replica_of(job())
    names = set(update_of(replica, 0, 0).body)
    assert names == {"gradient", "r0", "r3"}, "the bag and the words; the tied one has the gradient of a dense layer"


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("r0", [3, 3]),
        ("r0", [4, 2]),
        ("r0", [-1, 2]),
        ("r0", [WORDS]),
        ("r0", [2**62, 5]),
        ("r0", [[1]]),
        ("r1", [0]),
        ("r9", [0]),
        ("r0", [1, 2]),
    ],
)
def test_rows_that_do_not_fit_are_a_reason_to_reject(name: str, rows: list[Any]) -> None:
    replica = replica_of(job())
    update = update_of(replica, 0, 0)
    assert replica.check(update) == ""
    update.body[name] = np.array(rows, np.int64)
    assert replica.check(update)
    update.body = {**update_of(replica, 0, 0).body, "r0": update.body["r3"].astype(np.int32)}
    assert replica.check(update)


@given(st.lists(st.sampled_from([0.0, -0.0, 1.5, float("nan")]), min_size=60, max_size=60), st.floats(0.1, 2))
def test_sums_are_those_of_whole_gradients(numbers: list[float], weight: float) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 2, sparse=True)
            self.head = nn.Linear(3, 3)
            self.more = nn.Embedding(4, 2, sparse=True)

    model = Model()
    parameters = list(model.parameters())
    rows = Rows(model, parameters, layout_of(model))
    gradient = np.array(numbers, np.float32)
    assert len(gradient) == sum(parameter.numel() for parameter in parameters)
    gradient[6:30] = 0.0
    found = rows.find(gradient)
    packed, codec = rows.pack(gradient, found), CODECS.make("fp32")
    assert "r0" in found and len(packed) == rows.layout(found).size < len(gradient)
    np.testing.assert_array_equal(
        rows.unpack(codec, {"gradient": packed}, found).view(np.int32), gradient.view(np.int32)
    )
    for first in (True, False):
        whole, out = np.full(60, 0.25, np.float32), np.full(60, 0.25, np.float32)
        rows.add(codec, {"gradient": gradient}, {}, weight, whole, first)
        rows.add(codec, {"gradient": packed}, found, weight, out, first)
        np.testing.assert_array_equal(out.view(np.int32), whole.view(np.int32))


@pytest.mark.parametrize("first", [True, False])
def test_a_codec_that_leaves_numbers_out_adds_to_the_rows_what_it_decodes(first: bool) -> None:
    replica = replica_of(job(), codec="topk:0.1")
    rows, codec = replica.rows, replica.codec
    gradient = replica.flat.host
    update = update_of(replica, 0, 0)
    found = {name: array for name, array in update.body.items() if name.startswith("r")}
    body = {name: update.body[name] for name in ("index", "value")}
    assert set(found) == {"r0", "r3"} and len(body["index"]) == rows.layout(found).size // 10
    assert replica.check(update) == ""
    decoded = decode_vector(codec, body, rows.layout(found))
    out, whole = np.full(len(gradient), 0.25, np.float32), np.full(len(gradient), 0.25, np.float32)
    rows.add(codec, body, found, 0.5, out, first)
    rows.add(CODECS.make("fp32"), {"gradient": decoded}, found, 0.5, whole, first)
    assert np.count_nonzero(out != (0.0 if first else 0.25)) == np.count_nonzero(body["value"]) > 20
    np.testing.assert_array_equal(out.view(np.int32), whole.view(np.int32))


def test_a_training_whose_codec_leaves_numbers_of_the_rows_out_verifies() -> None:
    run = train(job(), codec="topk:0.1", workers=3, steps=8, seed=4)
    assert lambdaml.Run(run.store, job()).verify().faults == []
    size = replica_of(job()).flat.size
    assert largest_update(run) < size, "a tenth of the numbers takes 0.8 bytes for each, and all take 4"


def test_an_update_with_rows_is_read_back_as_it_was() -> None:
    update = update_of(replica_of(job()), 0, 0)
    read = Update.unpack(update.pack(), 0, 0)
    assert {name: array.tolist() for name, array in read.body.items()} == {
        name: array.tolist() for name, array in update.body.items()
    }

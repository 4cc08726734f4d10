"""The codecs of places on real error-compensated gradients: what training with error feedback gives them to encode."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from torch import nn

import lambdaml
from examples.digits import Digits
from lambdaml.codecs import Layout, UpdateContext
from lambdaml.codecs.places import DensityCodec
from lambdaml.log.records import Body
from tests.lambdaml.codecs.coding import count, encode, through
from tests.lambdaml.lab import memory

SIZE = 26_122


class Deep(Digits):
    """The digits with two hidden layers of 128."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr)

    def model(self) -> nn.Module:
        hidden = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(128, 10))


@cache
def encoded(codec: str) -> tuple[list[np.ndarray], np.ndarray]:
    """What two workers encoded in thirty steps, and how many numbers of each vector they sent."""
    vectors, sent, plain = [], [], DensityCodec.encode

    def watched(self: DensityCodec, vector: np.ndarray, layout: Layout, context: UpdateContext) -> Body:
        body = plain(self, vector, layout, context)
        vectors.append(vector.copy())
        sent.append(len(body["index"]))
        return body

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DensityCodec, "encode", watched)
        lambdaml.train(Deep(), memory().url, workers=2, functions=1, engine="inline", codec=codec, steps=30, seed=0)
    assert len(vectors) == 60 and all(len(vector) == SIZE for vector in vectors)
    assert not np.array_equal(vectors[-1] != 0, vectors[0] != 0), "what is encoded has what was left out before"
    return vectors, np.array(sent)


@pytest.mark.parametrize("density", [0.001, 0.01])
def test_the_error_keeps_the_bound_of_bell_shaped_vectors(density: float) -> None:
    """The squared error is at most (1 - k/d)^2 of the squared norm, at every step: Shi et al., arXiv 1911.08772. The
    negative control, a vector that does not keep the bound, is in `test_topk.py`."""
    shares = []
    for vector in encoded(f"topk:{density}")[0]:
        left = vector.astype(np.float64) - through(f"topk:{density}", vector)
        shares.append((left**2).sum() / (vector.astype(np.float64) ** 2).sum())
    assert 0.5 < max(shares) <= (1 - count(SIZE, density) / SIZE) ** 2


def test_the_published_rule_stalls_and_bisection_does_not() -> None:
    """Both send a thousandth, in trainings of their own."""
    due = count(SIZE, 0.001)
    published, bisected = (encoded(f"gaussiank:0.001{rule}")[1] / due for rule in (",rule=paper", ""))
    assert published.mean() < 1 / 3 and (published == 0).mean() > 0.25
    assert 2 / 3 <= bisected.min() and bisected.max() <= 4 / 3
    assert bisected.mean() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("density", [0.001, 0.01])
def test_bisection_finds_about_k_on_what_topk_is_given(density: float) -> None:
    due, vectors = count(SIZE, density), encoded(f"topk:{density}")[0]
    counts = {
        rule: [len(encode(f"gaussiank:{density},rule={rule}", vector)["index"]) / due for vector in vectors]
        for rule in ("bisect", "paper")
    }
    assert 2 / 3 <= min(counts["bisect"]) and max(counts["bisect"]) <= 4 / 3
    assert np.mean(counts["paper"]) > 2, "the tails are heavy, and the published rule ends far from k"

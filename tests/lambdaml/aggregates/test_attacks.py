"""What workers may send without harm, and what harms the mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lambdaml.aggregates import AGGREGATES, mean_of
from lambdaml.codecs import Vector
from lambdaml.errors import SettingsError

HONEST, EVIL, SIZE = 6, 2, 1000


def honest() -> list[Vector]:
    """Gradients of one direction, with noise as long as they are."""
    stream = np.random.RandomState(1)
    truth = stream.randn(SIZE)
    return [(truth + stream.randn(SIZE)).astype(np.float32) for _ in range(HONEST)]


ATTACKS: dict[str, Callable[[list[Vector]], list[Vector]]] = {
    "sign flip": lambda good: [np.float32(-10) * good[0], np.float32(-10) * good[1]],
    "one huge update": lambda good: [np.full(SIZE, 3e38, np.float32), good[0]],
    "two huge updates, one of each sign": lambda good: [np.full(SIZE, value, np.float32) for value in (3e38, -1e38)],
    "scaled noise": lambda good: [
        (100 * np.random.RandomState(seed).randn(SIZE)).astype(np.float32) for seed in range(EVIL)
    ],
    "the same lie": lambda good: [np.float32(-3) * good[0]] * EVIL,
}


def along(vector: Vector) -> tuple[float, float]:
    """The cosine with the mean of the honest updates, and the length as a share of its length."""
    truth = np.mean(np.array(honest(), np.float64), axis=0)
    length, wide = np.linalg.norm(truth), vector.astype(np.float64)
    return float(wide @ truth / np.linalg.norm(wide) / length), float(np.linalg.norm(wide) / length)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("spec", ["median", "trimmed:0.25", "clip-median-norm", "krum:2", "krum:2,m=4"])
def test_a_step_still_goes_where_the_honest_majority_goes(spec: str, attack: str, first: bool) -> None:
    good = honest()
    evil = ATTACKS[attack](good)
    vectors = evil + good if first else good + evil
    out, aggregate = np.empty(SIZE, np.float32), AGGREGATES.make(spec)
    assert aggregate is not None and aggregate.least <= len(vectors)
    aggregate.combine(vectors, out)
    cosine, length = along(out)
    assert cosine > 0.7 and 0.3 < length < 1.6, (cosine, length)
    mean_of(vectors, out)
    cosine, length = along(out)
    assert cosine < 0.3 or length > 10, "the mean does not"


@pytest.mark.parametrize("spec", ["median", "trimmed:0.4", "clip-median-norm", "krum:2"])
def test_a_majority_that_lies_has_its_way_with_any(spec: str) -> None:
    vectors = [-each for each in honest()] + honest()[:2]
    out, aggregate = np.empty(SIZE, np.float32), AGGREGATES.make(spec)
    assert aggregate is not None
    aggregate.combine(vectors, out)
    assert along(out)[0] < 0


def test_a_trimmed_mean_resists_as_many_as_it_leaves_out_and_no_more() -> None:
    values = [[-1e9], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0], [8.0], [1e9]]
    vectors = [np.array(value, np.float32) for value in values]
    out = np.empty(1, np.float32)
    for spec in ("trimmed:0.1", "trimmed:0.11", "trimmed:0.3", "trimmed:0.49"):
        AGGREGATES.make(spec).combine(vectors, out)  # type: ignore[union-attr]
        assert out[0] == 4.5, spec
    AGGREGATES.make("trimmed:0.1").combine([*vectors, vectors[-1]], out)  # type: ignore[union-attr]
    assert out[0] == 5, "of 11, two are left out at each end"
    AGGREGATES.make("trimmed:0.1").combine([vectors[-1], *vectors[1:9], vectors[-1]], out)  # type: ignore[union-attr]
    assert out[0] > 1e8, "two of ten at one end are one too many"


def test_krum_takes_one_update_as_it_is_and_multi_krum_the_mean_of_the_best() -> None:
    vectors = [np.array([value], np.float32) for value in (50.0, 1.0, 2.0, 2.5, 100.0)]
    out = np.empty(1, np.float32)
    AGGREGATES.make("krum:1").combine(vectors, out)  # type: ignore[union-attr]
    assert out[0] == 2.0  # 0.25 + 1 to its two nearest, 2.5 and 1; 2.5 has 0.25 + 2.25
    AGGREGATES.make("krum:1,m=2").combine(vectors, out)  # type: ignore[union-attr]
    assert out[0] == 2.25


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("trimmed:0.5", "between 0 and 0.5"),
        ("trimmed:0", "between 0 and 0.5"),
        ("trimmed:-0.1", "between 0 and 0.5"),
        ("trimmed:nan", "between 0 and 0.5"),
        ("krum", "needs f"),
        ("krum:-1", "f must be 0 or more"),
        ("krum:1,m=0", "m must be 1 or more"),
        ("krum:0.5", "must be of type int"),
        ("mean:3", "no parameters"),
        ("medium", "did you mean 'median'"),
    ],
)
def test_nonsense_is_refused_in_one_line(spec: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        AGGREGATES.make(spec)
    assert words in str(caught.value) and "\n" not in str(caught.value)

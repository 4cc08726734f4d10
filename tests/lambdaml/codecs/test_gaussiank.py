"""`gaussiank` against the published rule in plain Python, and how many numbers its bisection finds."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist, fmean, stdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lambdaml.codecs import CODECS, UpdateContext, gaussiank, moments
from lambdaml.codecs.moments import mean_and_deviation
from lambdaml.errors import SettingsError
from tests.lambdaml.codecs.coding import FEW, count, densities, encode, flat, peak_bytes, small_pieces, vectors

SHAPES: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "normal": lambda draw, size: draw.standard_normal(size),
    "Cauchy": lambda draw, size: draw.standard_cauchy(size),
    "t2, far from zero": lambda draw, size: draw.standard_t(2, size) + 50.0,
    "uniform": lambda draw, size: draw.uniform(-1, 1, size),
    "nearly all zero": lambda draw, size: draw.standard_normal(size) * (draw.random(size) < 0.002),
    "one outlier": lambda draw, size: np.where(np.arange(size) == 7, 1e10, draw.standard_normal(size)),
    "three magnitudes": lambda draw, size: draw.integers(-3, 4, size),
    "one magnitude": lambda draw, size: np.where(draw.random(size) < 0.5, -2.0, 2.0),
    "zeros": lambda draw, size: np.zeros(size),
}


@pytest.mark.parametrize("size", [2, 3, 100, 2**15 - 1, 2**15 + 1, 200_001])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_and_deviation_are_those_of_the_textbook(size: int, dtype: Any) -> None:
    vector = (np.random.default_rng(size).standard_normal(size) + 3.0).astype(dtype)
    exact = [float(number) for number in vector]
    assert mean_and_deviation(vector) == pytest.approx((fmean(exact), stdev(exact)), rel=1e-12)


@given(hnp.arrays(np.float32, st.integers(2, 40), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_the_order_of_every_addition_is_fixed(vector: np.ndarray) -> None:
    """Number i goes into sum i modulo 8; then the upper half of the sums is added to the lower half."""

    def total(numbers: list[float]) -> float:
        sums = [0.0] * 8
        for place, number in enumerate(numbers):
            sums[place % 8] += number
        while len(sums) > 1:
            half = len(sums) // 2
            sums = [low + high for low, high in zip(sums[:half], sums[half:], strict=True)]
        return sums[0]

    numbers, size = vector.tolist(), len(vector)
    mean = total(numbers) / size
    variance = (total([number * number for number in numbers]) - size * mean * mean) / (size - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "_LANES", 8)
        assert mean_and_deviation(vector) == (mean, math.sqrt(max(variance, 0.0)))


def test_the_quantile_leaves_half_of_the_density_on_each_side() -> None:
    assert gaussiank.normal_quantile(0.001) == pytest.approx(-3.290526731, abs=1e-8)
    for density in (1.0, 0.5, 0.01, 1e-9):
        assert 2 * NormalDist().cdf(gaussiank.normal_quantile(density)) == pytest.approx(density, rel=1e-6)
    assert gaussiank.normal_quantile(5e-324) < -38


def published(vector: np.ndarray, density: float) -> list[int]:
    """The places that the published rule finds."""
    due = count(len(vector), density)
    mean, deviation = mean_and_deviation(vector)
    threshold = mean - NormalDist().inv_cdf(density / 2) * deviation
    for _ in range(3):
        found = [place for place, number in enumerate(vector) if abs(number) > vector.dtype.type(threshold)]
        if len(found) < 2 * due / 3:
            threshold *= 0.5
        elif len(found) > 4 * due / 3:
            threshold *= 1.5
        else:
            break
    return found


@given(
    hnp.arrays(np.float32, st.integers(2, 60), elements=st.floats(-1000, 1000, width=32)),
    st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.9]),
    st.booleans(),
)
def test_the_published_rule_is_followed(vector: np.ndarray, density: float, pieces: bool) -> None:
    if count(len(vector), density) == len(vector):
        return
    with small_pieces(pieces):
        body = encode(f"gaussiank:{density},rule=paper", vector)
    assert body["index"].tolist() == published(vector, density)
    assert body["value"].tobytes() == vector[body["index"]].tobytes()


def test_the_published_rule_may_send_nothing_or_everything() -> None:
    outlier = np.zeros(100_000, np.float32)
    outlier[5:25] = 1.0
    outlier[7] = 1e6
    assert encode("gaussiank:0.001,rule=paper", outlier)["index"].tolist() == [7]
    assert len(encode("gaussiank:0.001,rule=paper", np.zeros(1000, np.float32))["index"]) == 0
    assert len(encode("gaussiank:0.001,rule=paper", np.full(1000, -2.0, np.float32))["index"]) == 1000
    assert len(encode("gaussiank:0.001", outlier)["index"]) in range(67, 134)


@given(vectors(least=2), densities, st.booleans())
def test_bisection_sends_two_to_four_thirds_of_k_and_none_that_is_smaller_than_one_that_it_leaves(
    vector: np.ndarray, density: float, pieces: bool
) -> None:
    due = count(len(vector), density)
    with small_pieces(pieces):
        index = encode(f"gaussiank:{density}", vector)["index"]
    assert 2 * due / 3 <= len(index) <= 4 * due / 3
    left = np.delete(np.abs(vector), index)
    assert not len(left) or np.abs(vector)[index].min() >= left.max()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.00005, 0.001, 0.01, 0.2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bisection_does_not_stall_on_any_shape(shape: str, density: float, dtype: Any) -> None:
    vector = SHAPES[shape](np.random.default_rng(3), 50_000).astype(dtype)
    due = count(len(vector), density)
    index = encode(f"gaussiank:{density}", vector)["index"]
    assert 2 * due / 3 <= len(index) <= 4 * due / 3
    assert np.abs(vector)[index].min() >= np.delete(np.abs(vector), index).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_vector_is_compared_four_times_at_most(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vector, looks, exact = SHAPES[shape](np.random.default_rng(3), 50_000).astype(np.float32), [], []
    where, largest = gaussiank.where, gaussiank.largest
    monkeypatch.setattr(gaussiank, "where", lambda *asked: looks.append(len(asked[1])) or where(*asked))
    monkeypatch.setattr(gaussiank, "largest", lambda *asked: exact.append(len(asked[0])) or largest(*asked))
    encode("gaussiank:0.001", vector)
    assert 1 <= looks.count(len(vector)) <= 4 and len(looks) <= 11
    assert len(exact) <= 1
    assert looks == [50_000] or shape != "normal"


@pytest.mark.parametrize("rule", ["bisect", "paper"])
@pytest.mark.parametrize(
    ("size", "density"), [(100_000, 0.02), (100_000, 0.3), (1_000_000, 0.002), (1_000_000, 0.01), (3_000_000, 0.001)]
)
def test_of_normal_numbers_it_finds_k_within_a_tenth(size: int, density: float, rule: str) -> None:
    vector = np.random.default_rng(size).standard_normal(size, dtype=np.float32)
    vector *= np.float32(1e-4)
    found = len(encode(f"gaussiank:{density},rule={rule}", vector)["index"])
    assert found == pytest.approx(size * density, rel=0.1)


@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([*FEW, float("nan")])),
    st.sampled_from(["gaussiank:0.1", "gaussiank:0.1,rule=paper", "threshold:0.1"]),
)
def test_a_vector_that_is_not_finite_is_sent_with_a_number_that_is_not(vector: np.ndarray, codec: str) -> None:
    value = encode(codec, vector)["value"]
    assert np.isfinite(value).all() == np.isfinite(vector).all()
    assert np.isnan(value).any() == np.isnan(vector).any()


def test_squares_that_overflow_leave_the_selection_exact() -> None:
    vector = np.array([1e200, -3e200, 2e200, 1.0, 0.0])
    for rule in ("bisect", "paper"):
        assert encode(f"gaussiank:0.4,rule={rule}", vector)["index"].tolist() == [1, 2]


@pytest.mark.parametrize("codec", ["gaussiank:0.001", "threshold:0.001", "randomk:0.001"])
@pytest.mark.parametrize("shape", ["normal", "one magnitude", "one outlier"])
def test_a_vector_is_encoded_without_arrays_of_its_size(codec: str, shape: str) -> None:
    vector = SHAPES[shape](np.random.default_rng(1), 2_000_000).astype(np.float32)
    made = CODECS.make(codec)
    with peak_bytes(vector.nbytes // 2 - 1):  # blocks of 2^18 numbers, and a sixteenth of all places
        made.encode(vector, flat(vector), UpdateContext(seed=3))


@pytest.mark.parametrize("codec", ["gaussiank", "randomk", "threshold"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "needs density, as in '"),
        (":0", "density must be above 0 and at most 1, not 0.0"),
        (":1.5", "density must be above 0 and at most 1, not 1.5"),
        (":nan", "density must be above 0 and at most 1, not nan"),
        (":-0.1", "density must be above 0 and at most 1, not -0.1"),
        (":many", "density must be of type float, not 'many'"),
        (":0.1,per=layer", "per must be model or tensor, not 'layer'"),
        (":0.1,warmup=0.5/0", "warmup must be above 0 and at most 1, not 0"),
    ],
)
def test_a_density_that_is_none_is_refused(codec: str, options: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        CODECS.make(codec + options)
    assert "\n" not in str(caught.value)


def test_a_rule_that_there_is_not_is_refused() -> None:
    with pytest.raises(SettingsError, match="rule must be bisect or paper, not 'guess'"):
        CODECS.make("gaussiank:0.1,rule=guess")

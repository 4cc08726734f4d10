"""`significant`: which changes are significant, how its threshold decays, and when a body is dense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lambdaml
from lambdaml.codecs import CODECS, significant
from lambdaml.errors import SettingsError
from tests.lambdaml.codecs.coding import decode, encode, flat, through
from tests.lambdaml.lab import Tiny, memory

numbers = st.one_of(st.floats(-10, 10, width=32), st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, 1e-45]))


def at(weights: np.ndarray, **known: Any) -> dict[str, Any]:
    return {"weights": lambda: weights, "rate_share": lambda: 1.0, **known}


@given(
    st.integers(1, 60).flatmap(
        lambda size: st.tuples(
            *(hnp.arrays(dtype, size, elements=numbers) for dtype in (np.float32, np.float32)),
            st.sampled_from([np.float32, np.float64]),
        )
    ),
    st.sampled_from([1e-9, 0.1, 0.5, 3.0, 1e9]),
)
def test_what_exceeds_its_part_of_the_parameter_is_sent_and_nothing_else(
    drawn: tuple[np.ndarray, np.ndarray, Any], threshold: float
) -> None:
    vector, weights = drawn[0].astype(drawn[2]), drawn[1].astype(drawn[2])
    codec, exceeds = f"significant:{threshold},decay=none", vector.dtype.type(threshold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(significant, "_BLOCK", 7)
        body = encode(codec, vector, **at(weights))
    places = [i for i in range(len(vector)) if abs(vector[i]) > exceeds * abs(weights[i])]
    expected = np.zeros_like(vector)
    expected[places] = vector[places]
    if len(places) * (4 + vector.itemsize) < vector.nbytes:
        assert body["index"].tolist() == places
        assert decode(codec, body, vector).tobytes() == expected.tobytes()
    else:
        assert body["gradient"].tobytes() == vector.tobytes() == decode(codec, body, vector).tobytes()
    assert sum(part.nbytes for part in body.values()) <= CODECS.make(codec).expected_bytes(flat(vector))


def test_a_body_is_dense_where_that_is_not_larger() -> None:
    weights = np.ones(100, np.float32)
    for sent in range(101):
        vector = np.where(np.arange(100) < sent, 2.0, 0.5).astype(np.float32)
        assert set(encode("significant:1", vector, **at(weights))) == (
            {"index", "value"} if sent < 50 else {"gradient"}
        )


def least(codec: str, **known: Any) -> float:
    """The smallest of a thousand numbers, from 0.001 to 1, that is sent where the parameters are 1."""
    vector, weights = np.zeros(4000, np.float32), np.ones(4000, np.float32)
    vector[:1000] = np.arange(1, 1001) / 1000
    sent = through(codec, vector, **at(weights, **known))
    return float(sent[sent > 0].min())


def test_the_threshold_decays_as_asked() -> None:
    assert [least("significant:0.4", seq=seq) for seq in (0, 3, 15)] == pytest.approx([0.401, 0.201, 0.101])
    assert least("significant:0.4,decay=sqrt", seq=3) == least("significant:0.4", seq=3, rate_share=lambda: 0.1)
    shares = [least("significant:0.4,decay=lr", seq=99, rate_share=lambda part=part: part) for part in (1.0, 0.5, 0.01)]
    assert shares == pytest.approx([0.401, 0.201, 0.005])
    assert least("significant:0.4,decay=none", seq=99, rate_share=lambda: 0.1) == pytest.approx(0.401)


def test_where_a_parameter_is_zero_any_change_is_significant() -> None:
    vector, weights = np.zeros(9, np.float32), np.zeros(9, np.float32)
    vector[4], weights[8], vector[8] = 1e-45, 1.0, 1e-45
    assert encode("significant:1e9", vector, **at(weights))["index"].tolist() == [4]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("weight", [0.0, 1.0, 3e38, float("inf"), float("nan")])
def test_what_is_not_finite_is_always_significant(bad: float, weight: float) -> None:
    vector, weights = np.zeros(9, np.float32), np.ones(9, np.float32)
    vector[4], weights[4] = bad, weight
    assert encode("significant:1e30", vector, **at(weights))["index"].tolist() == [4]


def test_only_a_threshold_of_zero_is_exact_and_knows_nothing_of_the_parameters() -> None:
    vector = np.array([0.0, -0.0, 1.0], np.float32)
    assert CODECS.make("significant:0").exact and not CODECS.make("significant:0").feedback
    assert not CODECS.make("significant:1e-9").exact and CODECS.make("significant:1e-9").feedback
    assert encode("significant:0", vector)["gradient"].tobytes() == vector.tobytes()


def test_a_training_that_sends_all_numbers_has_the_bits_of_fp32() -> None:
    asked = {"engine": "inline", "functions": 1, "workers": 3, "steps": 6, "seed": 5, "algorithm": "local:2"}
    hashes = {
        codec: lambdaml.train(Tiny(), memory().url, codec=codec, **asked).model_sha256
        for codec in ("fp32", "significant:0", "significant:0.5,decay=lr")
    }
    assert hashes["significant:0"] == hashes["fp32"] != hashes["significant:0.5,decay=lr"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("significant", "needs threshold, as in 'significant:0.5'"),
        ("significant:-1", "threshold must be a finite number of at least 0, not -1.0"),
        ("significant:nan", "threshold must be a finite number of at least 0, not nan"),
        ("significant:inf", "threshold must be a finite number of at least 0, not inf"),
        ("significant:much", "threshold must be of type float, not 'much'"),
        ("significant:0.1,decay=exp", "decay must be sqrt, lr or none, not 'exp'"),
    ],
)
def test_a_threshold_that_is_none_is_refused(spec: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        CODECS.make(spec)
    assert "\n" not in str(caught.value)


def test_gradients_are_refused_since_they_do_not_say_how_far_a_parameter_moves() -> None:
    with pytest.raises(SettingsError, match="'significant:0.1' needs displacements"):
        lambdaml.train(Tiny(), memory().url, codec="significant:0.1", workers=2, steps=1, engine="inline")

"""`threshold` against a sample and a sort by Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.codecs import threshold
from tests.lambdaml.codecs.coding import count, densities, encode, largest, small_pieces, vectors


def sampled(vector: np.ndarray, density: float, seed: int, stride: int) -> list[int]:
    """The places that the sampled threshold gives, or those of the k largest."""
    due = count(len(vector), density)
    sample = sorted((abs(number) for number in vector[seed % stride :: stride]), reverse=True)
    least = sample[max(1, round(due * len(sample) / len(vector))) - 1]
    found = [place for place, number in enumerate(vector) if abs(number) >= least]
    return found if len(found) <= 4 * due / 3 else largest(vector, density)


@given(vectors(least=2), densities, st.integers(0, 2**63 - 1), st.sampled_from([1, 4, 9, 60]), st.booleans())
def test_the_numbers_from_the_sampled_threshold_on_are_sent(
    vector: np.ndarray, density: float, seed: int, fewest: int, pieces: bool
) -> None:
    stride = max(1, min(len(vector) // fewest, 101))
    stride -= stride % 2 == 0
    with pytest.MonkeyPatch.context() as patch, small_pieces(pieces):
        patch.setattr(threshold, "_SAMPLE", fewest)
        body = encode(f"threshold:{density}", vector, seed=seed)
    if count(len(vector), density) < len(vector):
        assert body["index"].tolist() == sampled(vector, density, seed, stride)
    assert body["value"].tobytes() == vector[body["index"]].tobytes()
    assert len(body["index"]) >= 1


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("size", [300, 26_122, 100_000])
def test_about_k_numbers_are_sent_and_never_more_than_a_third_more(size: int, density: float) -> None:
    due, found = count(size, density), []
    for seed in range(8):
        vector = np.random.default_rng(seed).standard_t(3, size).astype(np.float32)
        index = encode(f"threshold:{density}", vector, seed=seed)["index"]
        assert np.abs(vector)[index].min() >= np.delete(np.abs(vector), index).max()
        found.append(len(index))
    assert 1 <= min(found) and max(found) <= 4 * due / 3
    assert np.mean(found) == pytest.approx(due, rel=0.25)


def test_of_a_million_numbers_a_hundredth_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    vector, looked = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32), []
    magnitude_at = threshold.magnitude_at
    monkeypatch.setattr(threshold, "magnitude_at", lambda *asked: looked.append(len(asked[0])) or magnitude_at(*asked))
    assert len(encode("threshold:0.01", vector, seed=100)["index"]) == pytest.approx(10_000, rel=0.2)
    assert looked == [9900]


def test_a_long_vector_is_sampled_from_a_place_that_the_seed_chooses() -> None:
    vector = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    counts = {len(encode("threshold:0.01", vector, seed=seed)["index"]) for seed in range(12)}
    assert 3 <= len(counts) <= 12


def test_the_sample_meets_all_columns_of_a_matrix() -> None:
    """Every fourth number is a thousand times as large, and a stride of four would meet only them or none of them."""
    vector = np.random.default_rng(0).standard_normal(4 * 2**13).astype(np.float32)
    vector[::4] *= 1000
    for seed in range(8):
        assert len(encode("threshold:0.1", vector, seed=seed)["index"]) == pytest.approx(0.1 * len(vector), rel=0.15)


@pytest.mark.parametrize("number", [0.0, -2.0])
def test_of_equal_magnitudes_the_first_k_are_sent(number: float) -> None:
    vector = np.full(20_000, number, np.float32)
    assert encode("threshold:0.01", vector)["index"].tolist() == list(range(200))

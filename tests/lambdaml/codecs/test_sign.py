"""`sign` against plain Python, what it leaves out, and its edges."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lambdaml.codecs import CODECS, Layout, UpdateContext, blocks
from tests.lambdaml.codecs.coding import by_integers, decode, encode, flat, hash_of, peak_bytes, through

finite = hnp.arrays(
    np.float32, st.integers(0, 100), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


def halved(terms: list[float]) -> float:
    """The sum, where the last half is added to the first until one term is left."""
    while len(terms) > 1:
        half = len(terms) // 2
        rest = len(terms) - half
        terms = [terms[at] + terms[rest + at] if at < half else terms[at] for at in range(rest)]
    return terms[0]


def plainly(vector: np.ndarray) -> bytes:
    """The body, number by number."""
    body = b""
    for start in range(0, len(vector), 2048):
        numbers = vector[start : start + 2048].tolist()
        sum_of_all = halved([abs(number) for number in numbers] + [0.0] * (2048 - len(numbers)))
        signs = sum(1 << at for at, number in enumerate(numbers) if np.signbit(number))
        body += struct.pack("<f", sum_of_all / len(numbers)) + signs.to_bytes(256, "little")
    return body


@given(finite)
def test_a_block_is_its_mean_magnitude_and_its_signs(vector: np.ndarray) -> None:
    body = encode("sign", vector)["blocks"]
    assert body.shape == (-(-len(vector) // 2048), 260)
    assert body.tobytes() == plainly(vector)


@pytest.mark.parametrize("size", [2047, 2048, 2049, 9000])
def test_a_vector_of_many_pieces_is_encoded_like_one_of_one(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = by_integers(size)
    whole, decoded = encode("sign", vector)["blocks"].tobytes(), through("sign", vector)
    assert whole == plainly(vector)
    monkeypatch.setattr(blocks, "_PIECE", 4096)
    assert encode("sign", vector)["blocks"].tobytes() == whole
    assert through("sign", vector).tobytes() == decoded.tobytes()


def test_the_bytes_are_the_same_on_every_machine() -> None:
    body = encode("sign", by_integers(270_001))
    assert hash_of(body["blocks"]) == "8e3c0216cf1eb9c4"
    assert hash_of(decode("sign", body, by_integers(270_001))) == "96e9f14084081ba8"


def test_every_number_is_decoded_as_the_mean_with_its_sign() -> None:
    decoded = through("sign", np.array([1.0, -2.0, 0.0, -0.0, 6.0, -3.0], np.float32))
    assert decoded.tolist() == [2.0, -2.0, 2.0, -2.0, 2.0, -2.0]


def test_zeros_stay_zeros() -> None:
    assert not through("sign", np.zeros(3000, np.float32)).any()


@pytest.mark.parametrize("draw", ["standard_normal", "standard_cauchy", "random"])
@pytest.mark.parametrize("size", [1, 2, 1000, 2048, 5000])
def test_each_block_leaves_out_what_the_paper_says(draw: str, size: int) -> None:
    """Karimireddy et al. (arXiv 1901.09847): the scaled sign leaves out 1 - ||x||_1^2 / (d ||x||^2) of the square."""
    vector = getattr(np.random.default_rng(size), draw)(size).astype(np.float32)
    decoded = through("sign", vector).astype(np.float64)
    for start in range(0, size, 2048):
        x, q = vector[start : start + 2048].astype(np.float64), decoded[start : start + 2048]
        left_out = 1 - np.abs(x).sum() ** 2 / (len(x) * (x @ x))
        assert (x - q) @ (x - q) == pytest.approx(left_out * (x @ x), rel=1e-6, abs=1e-6 * (x @ x))
        assert left_out < 1


def test_what_fills_up_the_last_block_does_not_count() -> None:
    assert through("sign", np.full(2048 + 3, -4.0, np.float32)).tolist() == [-4.0] * 2051


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_block_with_a_number_that_is_not_finite_has_none_that_is(bad: float) -> None:
    vector = by_integers(5000)
    clean = through("sign", vector)
    vector[2500] = bad
    decoded = through("sign", vector)
    assert not np.isfinite(decoded[2048:4096]).any()
    assert decoded[:2048].tobytes() == clean[:2048].tobytes()
    assert decoded[4096:].tobytes() == clean[4096:].tobytes()


@pytest.mark.parametrize("magnitude", [1e-45, 1e-40, 1e-20, 3e38])
def test_a_block_of_any_magnitude_comes_back(magnitude: float) -> None:
    vector = np.where(np.arange(3000) % 3, magnitude, -magnitude).astype(np.float32)
    assert through("sign", vector).tolist() == vector.tolist()


def test_what_is_left_out_and_sent_later_arrives() -> None:
    vector = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    arrived, left = np.zeros(3000, np.float32), [float(np.linalg.norm(vector))]
    for _ in range(40):
        arrived += through("sign", vector - arrived)
        left.append(float(np.linalg.norm(vector - arrived)))
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.1 * left[0]


@given(st.integers(0, 5000), st.integers(0, 5000), st.floats(-2, 2, width=32))
def test_any_slice_is_added_as_a_part_of_the_whole(first: int, last: int, weight: float) -> None:
    first, last, vector = min(first, last), max(first, last), by_integers(5000)
    codec, body, whole = CODECS.make("sign"), encode("sign", vector), np.ones(5000, np.float32)
    codec.add(body, weight, whole, flat(vector), slice(0, 5000))
    piece = np.ones(last - first, np.float32)
    codec.add(body, weight, piece, flat(vector), slice(first, last))
    assert piece.tobytes() == whole[first:last].tobytes()


def test_a_number_takes_little_more_than_a_bit() -> None:
    vector = by_integers(2048 * 20)
    codec = CODECS.make("sign")
    assert encode(codec, vector)["blocks"].nbytes == codec.expected_bytes(flat(vector)) == 260 * 20


def test_a_vector_is_encoded_and_added_without_arrays_of_its_size() -> None:
    vector, codec, total = by_integers(2_000_000), CODECS.make("sign"), np.zeros(2_000_000, np.float32)
    with peak_bytes(vector.nbytes // 2):
        body = codec.encode(vector, flat(vector), UpdateContext())
        codec.add(body, 0.5, total, flat(vector), slice(0, len(vector)))
    assert total.all()


def test_a_vector_in_double_precision_is_refused() -> None:
    assert "float64" in CODECS.make("sign").misfit(Layout.flat(5, "float64"))
    assert CODECS.make("sign").misfit(Layout.flat(5)) == ""

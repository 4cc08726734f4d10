"""`powersgd` against numpy.linalg, and its edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lambdaml
from lambdaml.codecs import CODECS, Layout, UpdateContext, powersgd
from lambdaml.errors import SettingsError
from tests.lambdaml.codecs.coding import by_integers, decode, encode, hash_of, peak_bytes, through
from tests.lambdaml.lab import Tiny

SHAPES = ((8, 3, 3, 3), (8,), (40, 30), (0, 7), (2, 2), (5, 100), ())
"""A convolution, a bias, two matrices that rank 2 saves something on, one that it does not, and nothing at all."""

LAYOUT = Layout(SHAPES)


def shuffled(rows: int, columns: int, values: list[float], dtype: str = "float32") -> np.ndarray:
    """A random matrix with these singular values."""
    draw = np.random.default_rng(rows * columns)
    left, right = (np.linalg.qr(draw.standard_normal((side, len(values))))[0] for side in (rows, columns))
    return ((left * values) @ right.T).astype(dtype)


def best(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The nearest matrix of this rank."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def off(one: np.ndarray, other: np.ndarray) -> float:
    exact = other.astype(np.float64)
    return float(np.linalg.norm(one - exact) / np.linalg.norm(exact))


def through_matrix(codec: str, matrix: np.ndarray, **known: int) -> np.ndarray:
    layout = Layout((matrix.shape,), matrix.dtype.name)
    return through(codec, matrix.reshape(-1), layout, **known).reshape(matrix.shape)


@pytest.mark.parametrize(("rows", "columns"), [(40, 30), (30, 40), (300, 20), (7, 900), (700, 300)])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_matrix_of_no_higher_rank_comes_back(rows: int, columns: int, rank: int) -> None:
    for true in range(1, rank + 1):
        matrix = shuffled(rows, columns, [3.0, 2.0, 1.0][:true])
        assert off(through_matrix(f"powersgd:{rank}", matrix), matrix) < 1e-5
        double = shuffled(rows, columns, [3.0, 2.0, 1.0][:true], "float64")
        assert off(through_matrix(f"powersgd:{rank}", double), double) < 1e-12


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_of_a_spectrum_that_decays_it_leaves_out_little_more_than_it_must(ratio: float, rank: int) -> None:
    matrix = shuffled(60, 50, [ratio**number for number in range(50)])
    least = off(best(matrix, rank), matrix)
    factors = {
        turns: sorted(
            off(through_matrix(f"powersgd:{rank},iterations={turns}", matrix, seed=seed), matrix) / least
            for seed in range(9)
        )
        for turns in (1, 2, 9)
    }
    assert factors[1][-1] * least < 1, "any projection leaves out less than the matrix itself"
    assert factors[2][4] < 1.5 and factors[2][-1] < 4
    assert factors[9][4] < 1.02
    assert factors[9][4] <= factors[2][4] <= factors[1][4]


@pytest.mark.parametrize("magnitude", [1e-30, 1e-18, 1.0, 1e18, 1e30])
def test_a_matrix_of_any_magnitude_comes_back(magnitude: float) -> None:
    matrix = shuffled(40, 30, [3 * magnitude, magnitude])
    assert off(through_matrix("powersgd:2", matrix), matrix) < 1e-5


def test_the_decoded_matrix_is_a_projection_of_the_matrix() -> None:
    matrix = np.random.default_rng(0).standard_normal((50, 80)).astype(np.float32)
    body = encode("powersgd:3", matrix.reshape(-1), Layout((matrix.shape,)))["numbers"]
    left, right = body[:150].reshape(3, 50).T, body[150:].reshape(3, 80).T
    assert np.allclose(left.T @ left, np.eye(3), atol=1e-6)
    assert np.allclose(right, matrix.T @ left, atol=1e-5)
    assert np.allclose(through_matrix("powersgd:3", matrix), left @ right.T, atol=1e-5)


def test_tensors_that_it_saves_nothing_on_travel_whole() -> None:
    vector = by_integers(LAYOUT.size)
    body, decoded = encode("powersgd:2", vector, LAYOUT)["numbers"], through("powersgd:2", vector, LAYOUT)
    sizes = [2 * (8 + 27), 8, 2 * (40 + 30), 0, 4, 2 * (5 + 100), 1]
    assert len(body) == sum(sizes) and CODECS.make("powersgd:2").expected_bytes(LAYOUT) == 4 * sum(sizes)
    for span, (sent, shape) in zip(LAYOUT.spans, zip(sizes, SHAPES, strict=True), strict=True):
        assert (decoded[span].tobytes() == vector[span].tobytes()) == (sent == np.prod(shape, dtype=int))


def test_a_convolution_is_the_matrix_of_its_first_dimension_and_the_others() -> None:
    matrix = shuffled(8, 27, [2.0, 1.0])
    decoded = through("powersgd:2", matrix.reshape(-1), Layout(((8, 3, 3, 3),)))
    assert off(decoded, matrix.reshape(-1)) < 1e-5


def test_the_decoding_of_a_body_has_the_same_bits_on_every_machine() -> None:
    for rank, expected in ((1, "b8c0a200e0f55f30"), (3, "233ea47ded67bb3d")):
        layout = Layout(((700, 300), (9,), (10, 10, 10)))
        size = CODECS.make(f"powersgd:{rank}").expected_bytes(layout) // 4
        decoded = decode(f"powersgd:{rank}", {"numbers": by_integers(size)}, np.empty(layout.size, np.float32), layout)
        assert hash_of(decoded) == expected


def test_products_are_added_up_in_their_order() -> None:
    """2^24 + 1 - 2^24 is 0 in single precision, in this order."""
    layout = Layout(((7, 8),))
    left = np.repeat(np.array([1.0, 1.0, 1.0], np.float32), 7)
    right = np.repeat(np.array([2.0**24, 1.0, -(2.0**24)], np.float32), 8)
    body = {"numbers": np.concatenate([left, right])}
    assert decode("powersgd:3", body, np.empty(56, np.float32), layout).tolist() == [0.0] * 56


@given(st.integers(0, LAYOUT.size), st.integers(0, LAYOUT.size), st.sampled_from([1.0, -1.0, 0.3]), st.booleans())
def test_any_slice_is_added_as_a_part_of_the_whole(first: int, last: int, weight: float, fresh: bool) -> None:
    first, last = min(first, last), max(first, last)
    codec, whole = CODECS.make("powersgd:2"), np.ones(LAYOUT.size, np.float32)
    body = encode(codec, by_integers(LAYOUT.size), LAYOUT)
    codec.add(body, weight, whole, LAYOUT, slice(0, LAYOUT.size), fresh=fresh)
    for piece in (64, 2**16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(powersgd, "_PIECE", piece)
            part = np.ones(last - first, np.float32)
            codec.add(body, weight, part, LAYOUT, slice(first, last), fresh=fresh)
        assert part.tobytes() == whole[first:last].tobytes()


def test_what_a_worker_sends_depends_on_the_seed_alone() -> None:
    vector = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    one, again, other = (encode("powersgd:2", vector, LAYOUT, seed=seed)["numbers"].tobytes() for seed in (1, 1, 2))
    assert one == again != other


def test_many_tiles_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = shuffled(90, 70, [0.5**number for number in range(70)])
    whole = through_matrix("powersgd:2", matrix)
    monkeypatch.setattr(powersgd, "_SIDE", 16)
    monkeypatch.setattr(powersgd, "_PIECE", 256)
    assert off(through_matrix("powersgd:2", matrix), whole) < 1e-5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("rank", [1, 3])
def test_what_is_not_finite_is_decoded_to_nothing_finite(bad: float, rank: int) -> None:
    for at in (0, 611, 1199):
        matrix = shuffled(40, 30, [1.0])
        matrix.reshape(-1)[at] = bad
        for turns in (1, 2):
            assert not np.isfinite(through_matrix(f"powersgd:{rank},iterations={turns}", matrix)).any()


def test_zeros_stay_zeros_and_a_single_number_stays_alone() -> None:
    matrix = np.zeros((40, 30), np.float32)
    assert not through_matrix("powersgd:2", matrix).any()
    matrix[7, 9] = -3.5
    assert through_matrix("powersgd:2", matrix) == pytest.approx(matrix, abs=1e-6)


def test_what_is_left_out_and_sent_later_arrives() -> None:
    matrix = np.random.default_rng(1).standard_normal((30, 20)).astype(np.float32)
    arrived, left = np.zeros_like(matrix), [1.0]
    for seed in range(12):
        arrived += through_matrix("powersgd:2", matrix - arrived, seed=seed)
        left.append(off(arrived, matrix))
    assert left == sorted(left, reverse=True)
    assert left[-1] < 1e-4, "two of twenty dimensions a turn"


def test_a_matrix_is_encoded_and_added_without_arrays_of_its_size() -> None:
    vector, layout, codec = by_integers(2_000_000), Layout(((2000, 1000),)), CODECS.make("powersgd:2")
    total = np.zeros_like(vector)
    with peak_bytes(vector.nbytes // 4):
        body = codec.encode(vector, layout, UpdateContext())
        codec.add(body, 0.5, total, layout, slice(0, len(vector)))
    assert np.count_nonzero(total) > 1_000_000


@pytest.mark.parametrize(("shape", "highest"), [((3, 6), 1), ((100, 100), 49), ((1, 50), 0), ((6, 3, 1), 1)])
def test_the_highest_rank_that_saves_something_is_named(shape: tuple[int, ...], highest: int) -> None:
    layout = Layout((shape, (1000,)))
    for rank in range(1, highest + 1):
        assert CODECS.make(f"powersgd:{rank}").misfit(layout) == ""
    hint = f"the highest that saves something is {highest}" if highest else "no rank does"
    assert CODECS.make(f"powersgd:{highest + 1}").misfit(layout) == (
        f"saves nothing with rank {highest + 1} on any tensor of this model ({hint})"
    )


def test_a_rank_above_all_tensors_is_refused_before_a_run_begins() -> None:
    with pytest.raises(SettingsError, match=r"^codec 'powersgd:2' saves nothing with rank 2 on any tensor .* is 1\)$"):
        lambdaml.train(Tiny, "memory://powersgd-refused", workers=1, steps=2, engine="inline", codec="powersgd:2")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("powersgd", "needs rank"),
        ("powersgd:0", "rank must be 1 or more, not 0"),
        ("powersgd:-1", "rank must be 1 or more, not -1"),
        ("powersgd:1.5", "rank must be of type int"),
        ("powersgd:2,iterations=0", "iterations must be 1 or more, not 0"),
    ],
)
def test_bad_parameters_are_refused(spec: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        CODECS.make(spec)


def test_double_precision_stays_double() -> None:
    matrix = shuffled(30, 20, [1.0, 0.5], "float64")
    assert encode("powersgd:2", matrix.reshape(-1), Layout(((30, 20),), "float64"))["numbers"].dtype == np.float64
    assert through_matrix("powersgd:2", matrix).dtype == np.float64

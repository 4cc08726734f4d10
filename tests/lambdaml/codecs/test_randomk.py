"""`randomk`: which places are drawn, what a body takes, and its expected error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.codecs import CODECS, Layout, randomk
from tests.lambdaml.codecs.coding import count, decode, densities, encode, flat, through, vectors

INDEX = np.dtype(np.int32)
LAYOUT = Layout(((20, 10), (0,), (7,), (20, 10)))


def one_by_one(key: int, due: int, size: int) -> list[int]:
    """The places, drawn one after the other; where more than half are due, those that are not drawn."""
    generator, seen = np.random.Philox(key=key), dict.fromkeys(())
    while len(seen) < min(due, size - due):
        seen.setdefault(int(generator.random_raw()) % size)
    return sorted(seen) if due <= size - due else sorted(set(range(size)).difference(seen))


@given(st.integers(0, 2**128 - 1), st.integers(1, 70), st.integers(0, 70), st.sampled_from([2, 16, 10**9]))
def test_places_are_drawn_one_after_the_other_and_one_that_comes_again_is_dropped(
    key: int, size: int, due: int, many: int
) -> None:
    due = min(due, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(randomk, "_MANY", many)
        patch.setattr(randomk, "_BLOCK", 5)
        found = randomk.drawn(key, due, size, INDEX)
    assert found.dtype == INDEX
    assert found.tolist() == one_by_one(key, due, size)


def test_the_places_of_a_seed_are_these_on_every_machine() -> None:
    assert randomk.drawn(1, 6, 1000, INDEX).tolist() == [255, 553, 666, 738, 844, 887]
    assert randomk.drawn(2**64 + 1, 6, 1000, INDEX).tolist() == [9, 308, 485, 519, 628, 686]
    assert randomk.drawn(1, 8, 10, INDEX).tolist() == [0, 1, 2, 3, 4, 6, 8, 9]
    assert randomk.drawn(2**63 - 1, 3, 10**9, INDEX).tolist() == [193924205, 474009138, 934550029]


@pytest.mark.parametrize("due", [1, 1000, 6000, 20_000, 90_000, 99_999])
def test_exactly_k_distinct_rising_places_are_drawn(due: int) -> None:
    found = randomk.drawn(7, due, 100_000, INDEX)
    assert len(found) == due and found[0] >= 0 and found[-1] < 100_000
    assert (np.diff(found) > 0).all()


@given(vectors(), densities, st.integers(0, 2**63 - 1))
def test_the_numbers_at_the_drawn_places_arrive_with_their_bits(vector: np.ndarray, density: float, seed: int) -> None:
    vector, due = np.where(np.isfinite(vector), vector, 1).astype(vector.dtype), count(len(vector), density)
    body = encode(f"randomk:{density}", vector, seed=seed)
    places = randomk.drawn(seed, due, len(vector), INDEX)
    expected = np.zeros_like(vector)
    expected[places] = vector[places]
    assert decode(f"randomk:{density}", body, vector).tobytes() == expected.tobytes()
    assert body["value"].tobytes() == vector[places].tobytes()
    assert body["seed"].tolist() == [seed] and body["seed"].dtype == np.int64


def test_a_number_takes_four_bytes_and_the_seed_eight() -> None:
    vector = np.ones(50_000, np.float32)
    assert sum(part.nbytes for part in encode("randomk:0.01", vector).values()) == 8 + 4 * 500
    assert CODECS.make("randomk:0.01").expected_bytes(flat(vector)) == 8 + 4 * 500
    assert CODECS.make("randomk:0.01").expected_bytes(flat(vector.astype(np.float64))) == 8 + 8 * 500


@pytest.mark.parametrize(("size", "density"), [(400, 0.02), (400, 0.3), (400, 0.8)])
def test_the_expected_error_is_one_minus_the_density(size: int, density: float) -> None:
    """Its mean over many seeds, on numbers of very different size; each place is sent as often as any other."""
    vector, kept = np.random.default_rng(1).standard_t(3, size).astype(np.float32), count(size, density) / size
    squares, turns = vector.astype(np.float64) ** 2, 1000
    sent, errors = np.zeros(size), []
    for seed in range(turns):
        came = through(f"randomk:{density}", vector, seed=seed) != 0
        sent += came
        errors.append(squares[~came].sum() / squares.sum())
    assert np.mean(errors) == pytest.approx(1 - kept, abs=4 * np.std(errors) / turns**0.5)
    assert np.abs(sent / turns - kept).max() < 4.5 * (kept * (1 - kept) / turns) ** 0.5


def test_each_tensor_gives_its_share_at_places_of_its_own() -> None:
    vector = np.arange(1, 408, dtype=np.float32)
    sent = through("randomk:0.1,per=tensor", vector, LAYOUT, seed=3) != 0
    assert [int(sent[span].sum()) for span in LAYOUT.spans] == [20, 0, 1, 20]
    assert (sent[:200] != sent[207:]).any()


def test_the_density_of_an_epoch_is_seen_from_the_number_of_values() -> None:
    vector = np.arange(1, 408, dtype=np.float32)
    for per in ("model", "tensor"):
        for epoch, density in enumerate((0.5, 0.25, 0.1, 0.1)):
            spec = f"randomk:0.1,per={per},warmup=0.5/0.25"
            warm = through(spec, vector, LAYOUT, seed=5, epoch=epoch)
            assert warm.tobytes() == through(f"randomk:{density},per={per}", vector, LAYOUT, seed=5).tobytes()
    codec = CODECS.make("randomk:0.1,warmup=0.5")
    seed = np.zeros(1, np.int64)
    due = [size for size in range(300) if not codec.check({"seed": seed, "value": vector[:size]}, LAYOUT)]
    assert due == [40, 203]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_sent_wherever_it_is(bad: float) -> None:
    vector = np.ones(200_000, np.float32)
    vector[[150_000, 170_000]] = bad, 0.0
    value = encode("randomk:0.0001", vector)["value"]
    assert len(value) == 20 and np.isfinite(value[1:]).all()
    assert value[:1].tobytes() == np.float32(bad).tobytes()


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1, 0])
def test_any_seed_from_outside_can_be_read(seed: int) -> None:
    body = {"seed": np.array([seed], np.int64), "value": np.ones(40, np.float32)}
    codec = CODECS.make("randomk:0.1,per=tensor")
    assert codec.check({**body, "value": np.ones(41, np.float32)}, LAYOUT) == ""
    assert codec.check(body, LAYOUT) == "has 40 numbers where 41 are due"
    decoded = decode("randomk:0.1,per=tensor", {**body, "value": np.ones(41, np.float32)}, np.ones(407), LAYOUT)
    assert decoded.sum() == 41

"""`topk` against a sort by Python, its bound on bell-shaped vectors, and whole trainings with it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

import lambdaml
from lambdaml.codecs import CODECS, Layout, UpdateContext, selection
from lambdaml.errors import SettingsError
from lambdaml.simulation.costs import assumed
from tests.lambdaml.codecs.coding import (
    FEW,
    count,
    decode,
    densities,
    encode,
    flat,
    largest,
    peak_bytes,
    small_pieces,
    through,
    vectors,
)
from tests.lambdaml.lab import Made, Tiny, memory, replica_of, table, update_of


def encoded(vector: np.ndarray, density: float) -> dict[str, np.ndarray]:
    return encode(f"topk:{density}", vector)


@given(vectors(), densities, st.booleans())
def test_the_numbers_of_the_largest_magnitude_are_sent_with_their_bits_and_of_equal_ones_the_first(
    vector: np.ndarray, density: float, pieces: bool
) -> None:
    if pieces:
        with small_pieces():
            body = encoded(vector, density)
    else:
        body = encoded(vector, density)
    places = largest(vector, density)
    assert body["index"].tolist() == places
    assert body["index"].dtype == np.int32 and body["value"].dtype == vector.dtype
    assert body["value"].tobytes() == vector[places].tobytes()
    decoded = decode(f"topk:{density}", body, vector)
    expected = np.zeros_like(vector)
    expected[places] = vector[places]
    assert decoded.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("vector", "density", "places"),
    [
        ([5.0], 0.01, [0]),
        ([0.0], 0.01, [0]),
        ([1.0, -3.0, 2.0], 0.01, [1]),
        ([2.0] * 10, 0.35, [0, 1, 2]),
        ([-2.0, 2.0, -2.0, 2.0], 0.5, [0, 1]),
        ([0.0] * 10, 0.2, [0, 1]),
        ([-0.0, 0.0, -0.0, 0.0], 0.5, [0, 1]),
        ([0.0, 0.0, 0.0, 1.0, 0.0], 0.6, [0, 1, 3]),
        ([1.0, float("-inf"), 3e38], 0.4, [1]),
        ([1.0, float("nan"), float("inf")], 0.4, [1]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_and_edges(vector: list[float], density: float, places: list[int], dtype: Any) -> None:
    assert encoded(np.array(vector, dtype), density)["index"].tolist() == places


def test_a_sample_that_misleads_changes_nothing() -> None:
    """Every hundredth number is large, and these are all that the sample sees; and the other way round."""
    generator, looked = np.random.default_rng(0), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_SAMPLE", 64)
        magnitude_at = selection.magnitude_at
        patch.setattr(
            selection, "magnitude_at", lambda found, rank: looked.append(len(found)) or magnitude_at(found, rank)
        )
        for scale in (1e6, 1e-6):
            vector = generator.standard_normal(6400).astype(np.float32)
            vector[::100] *= scale
            assert encoded(vector, 0.2)["index"].tolist() == largest(vector, 0.2)
    assert looked[:3] == [64, 6400, 64], "the first guess is too high, so all numbers are ranked"
    assert 6300 < looked[3] < 6400, "the second is too low, so nearly all are"


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([*FEW, float("nan")])), densities)
def test_a_vector_with_a_nan_is_sent_with_one(vector: np.ndarray, density: float) -> None:
    value = encoded(vector, density)["value"]
    assert np.isnan(value).any() == np.isnan(vector).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_rejected_although_one_number_of_it_is_sent(bad: float) -> None:
    replica = replica_of(Tiny(), codec="topk:0.01")
    gradient = np.ones(replica.flat.size, np.float32)
    for spoilt, fault in ((gradient, ""), (np.where(np.arange(replica.flat.size) == 7, bad, gradient), "not finite")):
        body = replica.codec.encode(spoilt.astype(np.float32), replica.flat.layout, UpdateContext())
        assert len(body["value"]) == 1
        assert fault in replica.check(update_of(replica, 0, 0, body=body))
        assert bool(fault) == bool(replica.check(update_of(replica, 0, 0, body=body)))


@given(vectors(least=1), densities, st.lists(st.integers(0, 60), max_size=4), st.sampled_from([1.0, 0.3, -2.0]))
def test_any_slice_is_added_to_what_is_there_and_nothing_else_is_touched(
    vector: np.ndarray, density: float, cuts: list[int], weight: float
) -> None:
    vector = np.clip(vector, -1e30, 1e30)
    size, codec, body = len(vector), CODECS.make(f"topk:{density}"), encoded(vector, density)
    decoded = decode(codec, body, vector)
    bounds = sorted({0, size, *(cut for cut in cuts if cut < size)})
    before = np.linspace(-1, 1, size).astype(vector.dtype)
    with small_pieces():
        for fresh in (False, True):
            pieces = before.copy()
            for start, stop in pairwise(bounds):
                codec.add(body, weight, pieces[start:stop], flat(vector), slice(start, stop), fresh=fresh)
            expected = decoded * weight if fresh else before + decoded * weight
            assert pieces.tobytes() == expected.tobytes()


def test_several_updates_add_up_where_they_meet() -> None:
    one, two = np.array([0.0, 3.0, 4.0], np.float32), np.array([0.0, 5.0, 1.0], np.float32)
    codec, total = CODECS.make("topk:0.67"), np.full(3, np.nan, np.float32)
    codec.add(encode(codec, one), 0.5, total, flat(one), slice(0, 3), fresh=True)
    codec.add(encode(codec, two), 2.0, total, flat(two), slice(0, 3))
    assert total.tolist() == [0.0, 11.5, 4.0]


def test_a_vector_is_encoded_and_added_without_arrays_of_its_size() -> None:
    vector = np.random.default_rng(1).standard_normal(2_000_000).astype(np.float32)
    codec, total = CODECS.make("topk:0.001"), np.zeros_like(vector)
    with peak_bytes(vector.nbytes // 2 - 1):  # blocks of 2^18 numbers and a sample of 2^16
        body = codec.encode(vector, flat(vector), UpdateContext())
        codec.add(body, 0.5, total, flat(vector), slice(0, len(vector)))
    assert np.count_nonzero(total) == 2000


GOOD = {"index": np.array([1, 4], np.int32), "value": np.array([2.0, 3.0], np.float32)}


@pytest.mark.parametrize(
    "change",
    [
        {"index": np.array([4, 1], np.int32)},
        {"index": np.array([4, 4], np.int32)},
        {"index": np.array([-1, 4], np.int32)},
        {"index": np.array([1, 10], np.int32)},
        {"index": np.array([1, 2**31 - 1], np.int32)},
        {"index": np.array([-(2**31), 4], np.int32)},
        {"index": np.array([1, 4], np.int64)},
        {"index": np.array([1, 4], np.uint32)},
        {"value": np.array([2.0, 3.0], np.float16)},
        {"value": np.array([2, 3], np.int32)},
        {"value": np.array([2.0], np.float32)},
        {"index": np.array([1], np.int32), "value": np.array([2.0], np.float32)},
        {"index": np.array([1, 2, 3], np.int32), "value": np.ones(3, np.float32)},
        {"index": np.empty(0, np.int32), "value": np.empty(0, np.float32)},
        {"gradient": np.ones(10, np.float32)},
    ],
    ids=str,
)
def test_a_body_that_cannot_be_read_is_refused(change: dict[str, np.ndarray]) -> None:
    codec = CODECS.make("topk:0.2")
    assert codec.check(GOOD, Layout.flat(10)) == ""
    reason = codec.check({**GOOD, **change}, Layout.flat(10))
    assert reason and "\n" not in reason


def test_as_many_numbers_are_due_as_the_size_of_the_vector_gives() -> None:
    codec = CODECS.make("topk:0.2")
    assert [size for size in range(1, 40) if codec.check(GOOD, Layout.flat(size)) == ""] == [10, 11, 12, 13, 14]


def test_the_index_of_a_vector_of_two_thousand_million_numbers_is_wider() -> None:
    codec, value = CODECS.make("topk:1e-9"), np.array([2.0, 3.0], np.float32)
    for size, dtype in ((2**31 - 1, np.int32), (2**31, np.int64)):
        bodies = {kind: {"index": np.array([5, size - 1], kind), "value": value} for kind in (np.int32, np.int64)}
        assert [kind for kind, body in bodies.items() if codec.check(body, Layout.flat(size)) == ""] == [dtype]
        last = np.ones(3, np.float32)
        codec.add(bodies[dtype], 2.0, last, Layout.flat(size), slice(size - 3, size))
        assert last.tolist() == [1.0, 1.0, 7.0]


def test_only_the_whole_is_exact_and_all_else_needs_error_feedback() -> None:
    assert {spec: (CODECS.make(spec).exact, CODECS.make(spec).feedback) for spec in ("topk:1", "topk:0.999")} == {
        "topk:1": (True, False),
        "topk:0.999": (False, True),
    }
    assert not any(CODECS.make(spec).feedback for spec in ("fp32", "bf16"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("topk", "needs density, as in 'topk:0.5'"),
        ("topk:0", "density must be above 0 and at most 1, not 0.0"),
        ("topk:1.5", "density must be above 0 and at most 1, not 1.5"),
        ("topk:nan", "density must be above 0 and at most 1, not nan"),
        ("topk:many", "density must be of type float, not 'many'"),
    ],
)
def test_a_density_that_is_none_is_refused(spec: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        CODECS.make(spec)


SIZE = 26_122


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("kind", ["normal", "laplace", "t4", "uniform"])
def test_the_error_of_bell_shaped_vectors_keeps_the_bound(kind: str, density: float) -> None:
    """The squared error is at most (1 - k/d)^2 of the squared norm: Shi et al., arXiv 1911.08772."""
    draw = np.random.default_rng(7)
    made = {"normal": draw.normal, "laplace": draw.laplace, "uniform": lambda size: draw.uniform(-1, 1, size)}
    for _ in range(3):
        vector = draw.standard_t(4, SIZE) if kind == "t4" else made[kind](size=SIZE)
        assert error_share(vector, density) <= (1 - count(SIZE, density) / SIZE) ** 2


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1])
def test_the_bound_is_none_for_every_vector(density: float) -> None:
    """The negative control: of numbers that are all equal, the squared error is 1 - k/d of the squared norm."""
    kept = count(SIZE, density) / SIZE
    assert error_share(np.full(SIZE, -2.0), density) == pytest.approx(1 - kept, rel=1e-12)
    assert error_share(np.full(SIZE, -2.0), density) > (1 - kept) ** 2


def error_share(vector: np.ndarray, density: float) -> float:
    left = vector - through(f"topk:{density}", vector)
    return float((left**2).sum() / (vector**2).sum())


def double() -> Made:
    return Made(
        lambda: nn.Linear(6, 3).double(),
        lambda parameters: torch.optim.Adam(parameters, lr=0.05),
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0].double()), batch[1]),
        dataset=lambda: table(60),
        clip_norm=0.5,
    )


@pytest.mark.parametrize(
    ("job", "options"),
    [
        (Tiny, {"schedule": "bsp", "workers": 3, "max_update_norm": 100.0}),
        (Tiny, {"schedule": "asp", "workers": 1}),
        (Tiny, {"schedule": "quorum:2", "workers": 2, "staleness": "dc:0.5"}),
        (double, {"schedule": "bsp", "workers": 3}),
    ],
    ids=["bsp", "asp", "dc", "double precision"],
)
def test_a_training_that_sends_all_numbers_has_the_bits_of_fp32(job: Any, options: dict[str, Any]) -> None:
    asked = {"engine": "inline", "functions": 1, "steps": 12, "seed": 5, **options}
    hashes = {
        codec: lambdaml.train(job(), memory().url, codec=codec, **asked).model_sha256
        for codec in ("fp32", "topk:1.0", "gaussiank:1.0", "randomk:1.0", "threshold:1.0", "topk:0.5")
    }
    assert hashes.pop("topk:0.5") not in hashes.values()
    assert len(set(hashes.values())) == 1


@pytest.mark.parametrize("size", [1, 50, 12_345, 3_000_000])
@pytest.mark.parametrize("density", [1e-5, 0.001, 0.01, 0.3])
def test_the_bytes_of_an_update_are_known_beforehand(size: int, density: float) -> None:
    codec = CODECS.make(f"topk:{density}")
    held = 8 * count(size, density)
    assert codec.expected_bytes(Layout.flat(size)) == pytest.approx(held, rel=0.1)
    assert codec.expected_bytes(Layout.flat(size, "float64")) == pytest.approx(1.5 * held, rel=0.1)
    assert assumed(f"topk:{density}", parameters=size).update_bytes == pytest.approx(held, rel=0.1)


def test_a_function_reserves_the_bytes_that_its_updates_take() -> None:
    replica = replica_of(Tiny(), codec="topk:0.1")
    update = update_of(replica, 0, 0)
    assert replica.update_bytes == sum(update.body[name].nbytes for name in ("index", "value")) == 16

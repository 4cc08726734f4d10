"""What every aggregate must do. A new one takes one file and one line in `AGGREGATES`: see `tests/parts/medoid.py`.

pytest -p mine --aggregate mine:3 tests/lambdaml/aggregates/test_conformance.py    # one of your own, in mine.py
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

import lambdaml
from lambdaml.aggregates import AGGREGATES, Aggregate
from lambdaml.codecs import Vector
from tests.lambdaml.lab import TinyAdam, broken_off, model_bytes, train

WORKERS = 7


@pytest.fixture(scope="module", params=[spec for spec in [*AGGREGATES.variants(WORKERS), "medoid"] if spec != "mean"])
def aggregate(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AGGREGATES.factories, "medoid", "tests.parts.medoid:Medoid")
        yield request.param


def made(spec: str) -> Aggregate:
    one = AGGREGATES.make(spec)
    assert one is not None
    return one


def drawn(size: int = 40_000, dtype: str = "float32") -> list[Vector]:
    stream = np.random.RandomState(3)
    return [stream.randn(size).astype(dtype) for _ in range(WORKERS)]


def combined(spec: str, vectors: list[Vector]) -> Vector:
    out = np.full_like(vectors[0], np.nan)
    made(spec).combine(vectors, out)
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_updates_give_that_update(aggregate: str, dtype: str) -> None:
    (one, *_) = drawn(dtype=dtype)
    found = combined(aggregate, [one.copy() for _ in range(WORKERS)])
    assert found.dtype == one.dtype
    np.testing.assert_allclose(found, one, rtol=0 if dtype == "float32" else 1e-15)


def test_what_comes_out_is_bounded_by_what_went_in_and_the_updates_stay_as_they_are(aggregate: str) -> None:
    vectors = drawn()
    kept = [vector.copy() for vector in vectors]
    for vector in vectors:
        vector.flags.writeable = False
    found = combined(aggregate, vectors)
    assert np.isfinite(found).all()
    assert (np.abs(found) <= np.max(np.abs(vectors), axis=0)).all()
    assert all(np.array_equal(one, other) for one, other in zip(vectors, kept, strict=True))


def test_no_worker_counts_for_more_because_of_its_number(aggregate: str) -> None:
    vectors = drawn()
    np.testing.assert_allclose(combined(aggregate, vectors), combined(aggregate, vectors[::-1]), rtol=1e-6)


def test_zeros_of_both_signs_give_the_same_bits_wherever_they_stand(aggregate: str) -> None:
    zeros = [np.full(3, -0.0 if worker % 2 else 0.0, np.float32) for worker in range(WORKERS)]
    assert combined(aggregate, zeros).tobytes() == combined(aggregate, zeros[::-1]).tobytes()


def test_each_parameter_has_the_bits_that_it_has_alone_or_all_are_of_the_same_updates(aggregate: str) -> None:
    """The length of a vector, and where its chunks begin, are no reason for other bits."""
    vectors = drawn(2**14 + 1)
    if aggregate.partition(":")[0] in ("median", "trimmed"):
        last = combined(aggregate, [vector[-1:] for vector in vectors])
        assert combined(aggregate, vectors)[-1:].tobytes() == last.tobytes()
    padded = combined(aggregate, [np.append(vector, np.float32(0)) for vector in vectors])[:-1]
    np.testing.assert_allclose(padded, combined(aggregate, vectors), rtol=1e-6)


def test_it_holds_at_most_three_more_vectors_than_the_updates(aggregate: str) -> None:
    vectors, spec = drawn(2**20), made(aggregate)
    out = np.empty_like(vectors[0])
    tracemalloc.start()
    try:
        spec.combine(vectors, out)
        most_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most_bytes <= 3.1 * out.nbytes


def test_a_run_has_the_same_bits_with_any_number_of_functions_and_from_its_log(aggregate: str) -> None:
    options = {"workers": WORKERS, "steps": 6, "aggregate": aggregate, "snapshot_every": 2, "keep": "all"}
    alone = train(TinyAdam, functions=1, **options)
    shared = train(TinyAdam, functions=3, **options)
    assert model_bytes(alone) == model_bytes(shared)
    report = shared.verify(deep=1)
    assert report.faults == [] and report.recomputed == WORKERS * 6 and report.snapshots >= 3


def test_a_run_that_was_broken_off_goes_on_with_the_bits_of_the_undisturbed_one(aggregate: str) -> None:
    options = {"workers": WORKERS, "steps": 6, "aggregate": aggregate, "snapshot_every": 2}
    run = broken_off(TinyAdam, at=4, functions=2, **options)
    assert lambdaml.resume(run.store, functions=2).stop == "steps"
    assert model_bytes(run) == model_bytes(train(TinyAdam, functions=1, **options))


def test_every_aggregate_of_ours_is_tried_here() -> None:
    assert {spec.partition(":")[0] for spec in AGGREGATES.variants(WORKERS)} == {*AGGREGATES.factories}

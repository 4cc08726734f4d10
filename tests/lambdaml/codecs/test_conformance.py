"""What every codec must do. A new one takes one file and one line in `CODECS`: see `tests/parts/half.py`.

pytest -p mine --codec mine tests/lambdaml/codecs/test_conformance.py    # one of your own, in mine.py
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lambdaml
from lambdaml.codecs import CODECS, decode_vector
from lambdaml.log.records import Update
from lambdaml.simulation.costs import assumed
from tests.lambdaml.lab import Tiny, broken_off

SIZE = 6

# Zeros of both signs, numbers that no codec may make much of, the greatest, infinities, and NaN of several kinds.
EDGES = np.array(
    [
        *[0x00000000, 0x80000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x3F808000, 0xBF818000],
        *[0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00000, 0xFFFFFFFF],
    ],
    np.uint32,
).view(np.float32)


@pytest.fixture(scope="module", params=["fp32", "bf16", "fp16", "topk:0.1", "topk:1.0"])
def codec(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CODECS.factories, "fp16", "tests.parts.half:Half")
        yield request.param


def test_a_gradient_comes_back_in_its_shape_and_nearly_its_numbers(codec: str) -> None:
    made, gradient = CODECS.make(codec), np.linspace(-2, 2, 101, dtype=np.float32)
    body = made.encode(gradient, 0)
    assert made.check(body, slice(0, len(gradient))) == ""
    decoded = decode_vector(made, body, len(gradient), np.float32)
    for _ in range(50 if made.feedback else 0):  # what was left out is sent with the next one
        left = gradient - decoded
        sent = decode_vector(made, made.encode(left, 0), len(gradient), np.float32)
        assert np.linalg.norm(left - sent) <= np.linalg.norm(left)
        decoded += sent
    assert np.abs(decoded - gradient).mean() < 0.1
    assert not made.exact or decoded.tobytes() == gradient.tobytes()


def test_the_same_gradient_and_seed_are_always_encoded_to_the_same_bytes(codec: str) -> None:
    gradient = np.linspace(-2, 2, 101, dtype=np.float32)
    one, two = (
        {name: part.tobytes() for name, part in CODECS.make(codec).encode(gradient, 5).items()} for _ in range(2)
    )
    assert one == two


def test_a_packed_update_does_not_alias_the_gradient_it_was_encoded_from(codec: str) -> None:
    gradient = np.array([1.0, 2.0, 3.0], np.float32)
    update = Update(0, 0, 0, 1, "f", 8, 0.5, codec, body=CODECS.make(codec).encode(gradient, 0))
    before = decode_vector(CODECS.make(codec), update.body, 3, np.float32).tolist()
    update.pack()
    gradient[:] = 7.0
    assert decode_vector(CODECS.make(codec), update.body, 3, np.float32).tolist() == before


def test_encoding_leaves_the_gradient_alone(codec: str) -> None:
    gradient = EDGES.copy()
    CODECS.make(codec).encode(gradient, 0)
    assert gradient.tobytes() == EDGES.tobytes()


def test_a_body_of_another_shape_or_type_is_refused(codec: str) -> None:
    made = CODECS.make(codec)
    good = made.encode(np.ones(SIZE, np.float32), 0)
    assert made.check(good, slice(0, SIZE)) == ""
    bad = {"nothing": {}}
    for name, part in good.items():
        others = {
            "missing": None,
            "too short": part[:-1],
            "too long": np.concatenate([part, part]),
            "empty": part[:0],
            "two sides": part.reshape(1, -1),
            "no side": part[0].reshape(()),
            **{kind: part.astype(kind) for kind in ("int32", "float16", "complex64", "bool") if kind != part.dtype},
            **({"bytes": part.view(np.uint8)} if part.itemsize > 1 else {}),
        }
        for what, other in others.items():
            rest = {key: array for key, array in good.items() if key != name}
            bad[f"{name}: {what}"] = rest if other is None else {**rest, name: other}
    assert [why for why, body in bad.items() if made.check(body, slice(0, SIZE)) == ""] == []


@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1000, 1000, width=32)), st.floats(-2, 2, width=32)
)
def test_slices_that_are_added_one_by_one_add_up_to_the_whole(codec: str, values: np.ndarray, weight: float) -> None:
    made, size = CODECS.make(codec), len(values)
    length = made.record[0] if made.record else size  # a slice is made of whole records
    body, cut = made.encode(values, 0), size // 3 // length * length
    whole, pieces = np.full(size, 0.5, np.float32), np.full(size, 0.5, np.float32)
    made.add(body, weight, whole, slice(0, size))
    for elements in (slice(0, cut), slice(cut, size)):
        made.add(body, weight, pieces[elements], elements)
    assert whole.tobytes() == pieces.tobytes()
    expected = np.float32(0.5) + decode_vector(made, body, size, np.float32) * np.float32(weight)
    assert whole.tobytes() == expected.tobytes()
    made.add(body, weight, whole, slice(0, size), fresh=True)
    assert whole.tobytes() == (decode_vector(made, body, size, np.float32) * np.float32(weight)).tobytes()


@given(hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_the_values_of_a_body_are_all_that_decoding_gives_but_zeros(codec: str, values: np.ndarray) -> None:
    made = CODECS.make(codec)
    body = made.encode(values, 0)
    decoded, held = decode_vector(made, body, len(values), np.float32), made.values(body)
    assert np.array_equal(np.sort(held[held != 0]), np.sort(decoded[decoded != 0]), equal_nan=True)


def test_a_run_that_broke_off_ends_and_verifies(codec: str) -> None:
    run = broken_off(Tiny, workers=2, steps=20, codec=codec, snapshot_every=2)
    assert lambdaml.resume(run.store).metrics["accuracy"] >= 0.8
    assert run.verify().faults == []


def test_simulations_know_its_bytes(codec: str) -> None:
    body = CODECS.make(codec).encode(np.ones(10_000, np.float32), 0)
    size = sum(part.nbytes for part in body.values())
    assert assumed(codec, parameters=10_000).update_bytes == pytest.approx(size, rel=0.1)

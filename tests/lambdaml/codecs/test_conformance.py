"""What every codec must do. A new one takes one file and one line in `CODECS`: see `tests/parts/half.py`.

pytest -p mine --codec mine tests/lambdaml/codecs/test_conformance.py    # one of your own, in mine.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lambdaml
from lambdaml.codecs import CODECS, DISPLACEMENT, Codec, Layout, UpdateContext, decode_vector, slice_body
from lambdaml.log.records import Body, Update
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


@pytest.fixture(
    scope="module",
    params=[
        *CODECS.variants(),
        "half",
        "topk:1.0",
        "topk:0.1,per=tensor",
        "topk:0.1,warmup=0.5",
        "randomk:0.1,per=tensor",
    ],
)
def codec(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CODECS.factories, "half", "tests.parts.half:Half")
        yield request.param


def layout_of(size: int) -> Layout:
    """A few numbers as a matrix and a vector."""
    return Layout(((size // 6, 5), (size - size // 6 * 5,)))


def encode(made: Codec, vector: np.ndarray, seed: int = 0) -> Body:
    known = UpdateContext(seed=seed, rate_share=lambda: 1.0, weights=lambda: np.ones_like(vector))
    return made.encode(vector, layout_of(len(vector)), known)


def decode(made: Codec, body: Body, size: int) -> np.ndarray:
    return decode_vector(made, body, layout_of(size))


def test_a_gradient_comes_back_in_its_shape_and_nearly_its_numbers(codec: str) -> None:
    made, gradient = CODECS.make(codec), np.linspace(-2, 2, 101, dtype=np.float32)
    body = encode(made, gradient)
    assert made.check(body, layout_of(101)) == ""
    decoded = decode(made, body, 101)
    for turn in range(600 if made.feedback else 0):  # what was left out is sent with the next one
        if np.abs(left := gradient - decoded).mean() < 0.1:
            break
        sent = decode(made, encode(made, left, turn), 101)
        assert np.linalg.norm(left - sent) <= np.linalg.norm(left)
        decoded += sent
    assert np.abs(decoded - gradient).mean() < 0.1
    assert not made.exact or decoded.tobytes() == gradient.tobytes()


def test_the_same_gradient_and_seed_are_always_encoded_to_the_same_bytes(codec: str) -> None:
    gradient = np.linspace(-2, 2, 101, dtype=np.float32)
    one, two = (
        {name: part.tobytes() for name, part in encode(CODECS.make(codec), gradient, 5).items()} for _ in range(2)
    )
    assert one == two


def test_a_packed_update_does_not_alias_the_gradient_it_was_encoded_from(codec: str) -> None:
    gradient = np.array([1.0, 2.0, 3.0], np.float32)
    update = Update(0, 0, 0, 1, "f", 8, 0.5, codec, body=encode(CODECS.make(codec), gradient))
    before = decode(CODECS.make(codec), update.body, 3).tolist()
    update.pack()
    gradient[:] = 7.0
    assert decode(CODECS.make(codec), update.body, 3).tolist() == before


def test_encoding_leaves_the_gradient_alone(codec: str) -> None:
    gradient = EDGES.copy()
    encode(CODECS.make(codec), gradient)
    assert gradient.tobytes() == EDGES.tobytes()


@pytest.mark.parametrize("size", [SIZE, 5000])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_sent_so_that_every_replica_rejects_it(codec: str, size: int, bad: float) -> None:
    made, vector = CODECS.make(codec), np.ones(size, np.float32)
    for at in (0, size // 2, size - 1):
        spoilt = vector.copy()
        spoilt[at] = bad
        body = encode(made, spoilt)
        assert made.check(body, layout_of(size)) or not np.isfinite(made.values(body, layout_of(size))).all()


def test_a_body_of_another_shape_or_type_is_refused(codec: str) -> None:
    made = CODECS.make(codec)
    good = encode(made, np.linspace(1, 2, SIZE, dtype=np.float32))
    assert made.check(good, layout_of(SIZE)) == ""
    bad = {"nothing": {}, "more": {**good, "more": np.zeros(3, np.float32)}}
    for name, part in good.items():
        others = {
            "missing": None,
            "too short": part[:-1],
            "too long": np.concatenate([part, part]),
            "empty": part[:0],
            "two sides": part.reshape(1, *part.shape),
            "no side": part.reshape(-1)[0].reshape(()),
            **{kind: part.astype(kind) for kind in ("int32", "float16", "complex64", "bool") if kind != part.dtype},
            **({"bytes": part.view(np.uint8)} if part.itemsize > 1 else {}),
        }
        for what, other in others.items():
            rest = {key: array for key, array in good.items() if key != name}
            bad[f"{name}: {what}"] = rest if other is None else {**rest, name: other}
    assert [why for why, body in bad.items() if made.check(body, layout_of(SIZE)) == ""] == []


@pytest.mark.parametrize("size", [7, 300])
def test_a_body_of_which_any_byte_is_another_is_refused_or_decoded_like_any_other(codec: str, size: int) -> None:
    made, layout, draw = CODECS.make(codec), layout_of(size), np.random.default_rng(3)
    good = encode(made, draw.standard_normal(size).astype(np.float32))
    for name, part in good.items():
        for at in range(part.nbytes):
            for other in {0, 255, int(draw.integers(256))}:
                spoilt = bytearray(np.ascontiguousarray(part).tobytes())
                spoilt[at] = other
                body = {**good, name: np.frombuffer(spoilt, part.dtype).reshape(part.shape)}
                if made.check(body, layout) == "":
                    with np.errstate(all="ignore"):
                        made.values(body, layout)
                        assert decode(made, body, size).shape == (size,)


@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1000, 1000, width=32)),
    st.integers(0, 40),
    st.floats(-2, 2, width=32),
)
def test_slices_that_are_added_one_by_one_add_up_to_the_whole(
    codec: str, values: np.ndarray, cut: int, weight: float
) -> None:
    made, size = CODECS.make(codec), len(values)
    layout, cut, body = layout_of(size), min(cut, size), encode(made, values)
    whole, pieces = np.full(size, 0.5, np.float32), np.full(size, 0.5, np.float32)
    made.add(body, weight, whole, layout, slice(0, size))
    for elements in (slice(0, cut), slice(cut, size)):
        made.add(body, weight, pieces[elements], layout, elements)
    assert whole.tobytes() == pieces.tobytes()
    expected = np.float32(0.5) + decode(made, body, size) * np.float32(weight)
    assert whole.tobytes() == expected.tobytes()
    made.add(body, weight, whole, layout, slice(0, size), fresh=True)
    assert whole.tobytes() == (decode(made, body, size) * np.float32(weight)).tobytes()


def test_a_slice_of_whole_records_is_a_body_of_its_own(codec: str) -> None:
    made = CODECS.make(codec)
    if made.record is None:
        return
    length, width = made.record
    size = 5 * length - length // 3
    vector = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    body, whole = encode(made, vector), decode(made, encode(made, vector), size)
    for elements in (slice(0, length), slice(length, 3 * length), slice(3 * length, size)):
        piece, count = slice_body(made, body, elements), elements.stop - elements.start
        assert made.check(piece, Layout.flat(count)) == ""
        assert decode_vector(made, piece, Layout.flat(count)).tobytes() == whole[elements].tobytes()
        assert sum(array.nbytes for array in piece.values()) <= -(-count // length) * width + 100


@given(hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_the_values_of_a_body_are_all_that_decoding_gives_but_zeros(codec: str, values: np.ndarray) -> None:
    made = CODECS.make(codec)
    with np.errstate(all="ignore"):
        body = encode(made, values)
        decoded, held = decode(made, body, len(values)), made.values(body, layout_of(len(values)))
    assert np.array_equal(np.sort(held[held != 0]), np.sort(decoded[decoded != 0]), equal_nan=True)


def test_a_run_that_broke_off_ends_and_verifies(codec: str) -> None:
    options: dict[str, Any] = {"algorithm": "local:1"} if DISPLACEMENT in CODECS.make(codec).needs else {}
    run = broken_off(Tiny, workers=2, steps=20, codec=codec, snapshot_every=2, **options)
    assert lambdaml.resume(run.store).metrics["accuracy"] >= 0.8
    assert run.verify().faults == []


def test_simulations_know_its_bytes(codec: str) -> None:
    draw, made, layout = np.random.default_rng(0), CODECS.make(codec), Layout(((300, 300),))
    vector = draw.standard_normal(90_000).astype(np.float32)
    known = UpdateContext(epoch=99, rate_share=lambda: 1.0, weights=lambda: np.full(90_000, 1e-9, np.float32))
    size = sum(part.nbytes for part in made.encode(vector, layout, known).values())
    assert assumed(codec, parameters=90_000).update_bytes == pytest.approx(size, rel=0.1)

"""`int8` against plain Python, its error, and its edges."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

import lambdaml
from lambdaml.codecs import CODECS, Layout, UpdateContext, blocks
from lambdaml.errors import SettingsError
from tests.lambdaml.codecs.coding import by_integers, decode, encode, flat, hash_of, peak_bytes, through
from tests.lambdaml.lab import Made

TINY = float(np.finfo(np.float32).tiny)
LARGE = float(np.float32(3.4e38))

finite = hnp.arrays(np.float32, st.integers(0, 600), elements=st.floats(-LARGE, LARGE, width=32))


def plainly(vector: np.ndarray) -> bytes:
    """The body, number by number."""
    body = b""
    for start in range(0, len(vector), 256):
        numbers = [*vector[start : start + 256], *[np.float32(0)] * (start + 256 - len(vector))]
        scale = max(max(abs(number) for number in numbers) / np.float32(127), np.float32(2.0**-126))
        body += struct.pack("<f", scale) + struct.pack("256b", *(round(float(number / scale)) for number in numbers))
    return body


@given(finite)
def test_each_number_is_the_nearest_multiple_of_its_blocks_scale(vector: np.ndarray) -> None:
    body = encode("int8", vector)["blocks"]
    assert body.shape == (-(-len(vector) // 256), 260)
    assert body.tobytes() == plainly(vector)


def test_a_vector_of_many_pieces_is_encoded_like_one_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = by_integers(2000)
    whole, decoded = encode("int8", vector)["blocks"].tobytes(), through("int8", vector)
    assert whole == plainly(vector)
    monkeypatch.setattr(blocks, "_PIECE", 512)
    assert encode("int8", vector)["blocks"].tobytes() == whole
    assert through("int8", vector).tobytes() == decoded.tobytes()


def test_the_bytes_are_the_same_on_every_machine() -> None:
    body = encode("int8", by_integers(70_001))
    assert hash_of(body["blocks"]) == "752da3687225ae46"
    assert hash_of(decode("int8", body, by_integers(70_001))) == "f13890c034478a45"


@given(finite)
def test_the_error_is_at_most_half_a_scale(vector: np.ndarray) -> None:
    decoded = through("int8", vector)
    for start in range(0, len(vector), 256):
        block = vector[start : start + 256].astype(np.float64)
        scale = max(np.abs(block).max() / 127, TINY)
        assert (np.abs(decoded[start : start + 256] - block) <= 0.50002 * scale).all()


def test_ties_go_to_even() -> None:
    vector = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5], np.float32)
    assert through("int8", vector).tolist() == [127, 0, 2, 2, 0, -2, -2, 126]


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-40, TINY, 127 * TINY, 200 * TINY, 1.0, LARGE, -LARGE])
def test_a_block_of_any_magnitude_comes_back(largest: float) -> None:
    vector = np.array([largest, -largest, largest / 2, 0.0], np.float32)
    decoded = through("int8", vector)
    scale = max(abs(largest) / 127, TINY)
    assert np.isfinite(decoded).all()
    assert (np.abs(decoded.astype(np.float64) - vector) <= 0.50002 * scale).all()
    assert abs(largest) < TINY or decoded.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_block_with_a_number_that_is_not_finite_has_none_that_is(bad: float) -> None:
    vector = by_integers(700)
    clean = through("int8", vector)
    vector[300] = bad
    decoded = through("int8", vector)
    assert not np.isfinite(decoded[256:512]).any()
    assert decoded[:256].tobytes() == clean[:256].tobytes()
    assert decoded[512:].tobytes() == clean[512:].tobytes()


def test_what_fills_up_the_last_block_is_zero_and_is_never_decoded() -> None:
    vector = by_integers(300)
    body = encode("int8", vector)["blocks"]
    assert not body[1, 4 + 44 :].any()
    decoded = decode("int8", {"blocks": body}, vector)
    body[1, 4 + 44 :] = 0x80
    assert decode("int8", {"blocks": body}, vector).tobytes() == decoded.tobytes()


@given(st.integers(0, 1000), st.integers(0, 1000), st.floats(-2, 2, width=32))
def test_any_slice_is_added_as_a_part_of_the_whole(first: int, last: int, weight: float) -> None:
    first, last, vector = min(first, last), max(first, last), by_integers(1000)
    codec, body, whole = CODECS.make("int8"), encode("int8", vector), np.ones(1000, np.float32)
    codec.add(body, weight, whole, flat(vector), slice(0, 1000))
    piece = np.ones(last - first, np.float32)
    codec.add(body, weight, piece, flat(vector), slice(first, last))
    assert piece.tobytes() == whole[first:last].tobytes()


def test_a_vector_is_encoded_and_added_without_arrays_of_its_size() -> None:
    vector, codec, total = by_integers(2_000_000), CODECS.make("int8"), np.zeros(2_000_000, np.float32)
    with peak_bytes(vector.nbytes // 2):
        body = codec.encode(vector, flat(vector), UpdateContext())
        codec.add(body, 0.5, total, flat(vector), slice(0, len(vector)))
    assert np.count_nonzero(total) > 1_000_000


def test_a_vector_in_double_precision_is_refused_before_a_run_begins() -> None:
    assert CODECS.make("int8").misfit(Layout.flat(5)) == ""
    job = Made(lambda: nn.Linear(6, 3, dtype=torch.float64))
    with pytest.raises(SettingsError, match="'int8' carries float32 numbers, and this model's gradients are float64"):
        lambdaml.train(job, "memory://int8-double", workers=1, steps=2, engine="inline", codec="int8")

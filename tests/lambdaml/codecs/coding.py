"""Shorthands for the tests of codecs. The vector is one tensor, unless a layout is given."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lambdaml.codecs import CODECS, Codec, Layout, UpdateContext, decode_vector, places, selection
from lambdaml.log.records import Body

FEW = [0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 1e-45, 3e38, float("inf"), float("-inf")]


def vectors(*more: float, least: int = 0) -> st.SearchStrategy[np.ndarray]:
    """Vectors of both dtypes, of any numbers but NaN or of a few with many ties."""
    any_number = st.floats(width=32, allow_nan=False)
    return st.one_of(
        hnp.arrays(dtype, st.integers(least, 60), elements=elements)
        for dtype in (np.float32, np.float64)
        for elements in (any_number, st.sampled_from([*FEW, *more]))
    )


densities = st.sampled_from([1e-9, 0.01, 0.1, 0.2, 0.3, 0.5, 0.9, 0.999, 1.0])


@contextmanager
def small_pieces(wanted: bool = True) -> Iterator[None]:
    """Let a vector of sixty numbers have many blocks, and a sample that leaves most numbers out."""
    with pytest.MonkeyPatch.context() as patch:
        if wanted:
            patch.setattr(selection, "_BLOCK", 7)
            patch.setattr(selection, "_SAMPLE", 12)
            patch.setattr(places, "_BLOCK", 7)
        yield


def count(size: int, density: float) -> int:
    return min(max(int(size * density), 1), size)


def largest(vector: np.ndarray, density: float) -> list[int]:
    """The places of the largest magnitudes; of equal ones the first."""
    order = sorted(range(len(vector)), key=lambda at: (-abs(vector[at]), at))
    return sorted(order[: count(len(vector), density)])


def flat(vector: np.ndarray) -> Layout:
    return Layout.flat(len(vector), vector.dtype)


def encode(codec: str | Codec, vector: np.ndarray, layout: Layout | None = None, **known: Any) -> Body:
    """Encode a vector, and make sure that the codec passes its own body."""
    made, layout = CODECS.make(codec) if isinstance(codec, str) else codec, layout or flat(vector)
    body = made.encode(vector, layout, UpdateContext(**known))
    assert made.check(body, layout) == ""
    return body


def decode(codec: str | Codec, body: Body, like: np.ndarray, layout: Layout | None = None) -> np.ndarray:
    """Decode the body of a vector of the same size and dtype as `like`."""
    return decode_vector(CODECS.make(codec) if isinstance(codec, str) else codec, body, layout or flat(like))


def through(codec: str | Codec, vector: np.ndarray, layout: Layout | None = None, **known: Any) -> np.ndarray:
    """Encode a vector, and decode it again."""
    return decode(codec, encode(codec, vector, layout, **known), vector, layout)


def by_integers(size: int) -> np.ndarray:
    """Numbers of both signs and of magnitudes from 2^-30 to 2^11, by integer arithmetic alone, so that their encodings
    have the same hash on every machine."""
    at = np.arange(size, dtype=np.int64)
    mantissas = (at * 2_654_435_761 + 12_345) % 2**24 - 2**23
    return np.ldexp(mantissas.astype(np.float32), (-(at // 100) % 20 - 32).astype(np.int32))


def hash_of(array: np.ndarray) -> str:
    """The first 16 digits of the SHA-256 of the array's bytes."""
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


@contextmanager
def peak_bytes(most: int) -> Iterator[None]:
    """Make sure that what is done needs no more memory than this at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= most
    finally:
        tracemalloc.stop()

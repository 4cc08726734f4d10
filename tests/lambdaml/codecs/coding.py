"""Shorthands for the tests of codecs. The vector is one tensor, unless a layout is given."""

from __future__ import annotations

from typing import Any

import numpy as np

from lambdaml.codecs import CODECS, Codec, Layout, UpdateContext, decode_vector
from lambdaml.log.records import Body


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

"""Seeds and streams of random numbers, the same on every machine."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed from any parts, the same on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def random_state(*parts: int | str) -> np.random.RandomState:
    """Return a stream seeded by these parts. Those of `RandomState` are frozen by NumPy's policy; those of `Generator`
    may change between releases."""
    return np.random.RandomState(derive_seed(*parts) % 2**32)

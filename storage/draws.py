"""Random numbers that depend on the request, not on the order in which threads happen to make requests.

The draw for a request is a hash of the seed, its kind, its key and how often this kind has met this key before. A run
therefore repeats, and workers that use one seed but different keys are not struck at the same moment.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter


class Draws:
    """Random numbers for requests. One count is remembered for each key that was met (about 150 bytes)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._met: Counter[tuple[str, str]] = Counter()

    def unit(self, op: str, key: str) -> float:
        """Draw a number that is uniform in the open interval (0, 1)."""
        with self._lock:
            self._met[op, key] += 1
            n = self._met[op, key]
        digest = hashlib.blake2b(f"{self._seed}\0{op}\0{key}\0{n}".encode(), digest_size=6).digest()
        return (int.from_bytes(digest, "big") + 0.5) / 2**48

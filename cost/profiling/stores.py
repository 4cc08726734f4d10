"""Measuring a store from here, with the few kinds of request that runs need."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from statistics import median

from lambdaml.cost.profiling.facts import RequestTime, StoreFacts
from lambdaml.storage.open import open_store
from lambdaml.storage.probe import check
from lambdaml.storage.retry import Retrying

_SMALL_BYTES = 1024
_LARGE_BYTES = (2**20, 32 * 2**20)
"""The smallest and the largest size of objects for measuring bandwidth. The size of an update lies between them."""

LEAST_ROUNDS, MOST_ROUNDS = 8, 200
"""The least and the most rounds of small requests."""

LARGE_ROUNDS = 4
"""The number of large objects that are written and read."""


def measure_store(
    url: str, update_bytes: int, seconds: float, tell: Callable[[float], None] = lambda share: None
) -> tuple[StoreFacts, dict[str, int], int, int]:
    """Create, get, miss, head and list small objects on fresh keys under `probe/`, then a few large ones; remove them.

    Args:
        seconds: The approximate seconds to spend on the small requests.
        tell: A function that is told the finished share.

    Returns:
        The facts, and the cost of measuring: requests by kind, bytes sent, bytes received.

    Raises:
        BadStoreURL, StoreUnfit, StoreError: If there is no such store, or it breaks promises on which runs rely.
    """
    store = open_store(url)
    try:
        check(store)
        root = f"probe/{secrets.token_hex(8)}"
        before = store.meter.snapshot()
        try:
            _small(store, root, seconds, tell)
            reading = store.meter.snapshot() - before
            size = min(max(update_bytes, _LARGE_BYTES[0]), _LARGE_BYTES[1])
            write_s, read_s = _large(store, root, size)
        finally:
            store.delete([info.key for info in store.list(root + "/")])
        times = {
            kind: RequestTime(count, *(reading.percentile_s(kind, q) for q in (0.5, 0.95, 0.99)))
            for kind, count in sorted(reading.requests.items())
            if kind in reading.latency
        }
        facts = StoreFacts(
            store.url,
            times,
            _bytes_per_s(size, read_s - times["get"].p50_s),
            _bytes_per_s(size, write_s - times["create"].p50_s),
            reading.to_dict(),
        )
        spent = store.meter.snapshot()
        return facts, dict(spent.requests), spent.bytes_sent, spent.bytes_received
    finally:
        store.close()


def _small(store: Retrying, root: str, seconds: float, tell: Callable[[float], None]) -> None:
    begun = time.monotonic()
    for number in range(MOST_ROUNDS):
        passed = time.monotonic() - begun
        if number >= LEAST_ROUNDS and passed >= seconds:
            break
        tell(min(1.0, passed / seconds) if seconds else 1.0)
        key = f"{root}/{number:05d}"
        store.create(key, secrets.token_bytes(_SMALL_BYTES))
        store.get(key)
        store.get(key + "-missing")
        store.head(key)
        if number % 8 == 0:
            list(store.list(f"{root}/", after=f"{root}/{max(0, number - 8):05d}"))


def _large(store: Retrying, root: str, size: int) -> tuple[float, float]:
    """Return the median seconds for writing and for reading this many bytes."""
    writes, reads = [], []
    for number in range(LARGE_ROUNDS):
        key, data = f"{root}/large-{number}", secrets.token_bytes(size)
        begun = time.perf_counter()
        store.create(key, data)
        written = time.perf_counter()
        bytes(store.get(key) or b"")  # a view may not have been read yet
        reads.append(time.perf_counter() - written)
        writes.append(written - begun)
    return median(writes), median(reads)


def _bytes_per_s(size: int, seconds: float) -> float | None:
    return size / seconds if seconds > 0 else None

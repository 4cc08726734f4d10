"""Checks that a store keeps the promises that runs rely on: `check` before every run, `examine` to learn more.

`store_time` asks for the time by the store's clock.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from lambdaml.storage.errors import StoreError, StoreUnfit
from lambdaml.storage.protocol import Bytes, Store

RACERS = 8
ROUNDS = 12
LATENCY_SAMPLES = 16
MANY_KEYS = 40
READINGS = 5
"""The readings of an object that does not read as it was written, before the store is blamed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one examination.

    Attributes:
        name: The name of the examination.
        ok: Whether the store passed it.
        reason: A phrase that says what was found.
        measured: The numbers that were measured, by names that carry their units.
    """

    name: str
    ok: bool
    reason: str
    measured: Mapping[str, float] = field(default_factory=dict)


def check(store: Store) -> None:
    """Refuse a store that does not honour create-only puts or list in order, with eight requests under `probe/`.

    It creates sequentially only. This finds a store that ignores `If-None-Match`; finding one that merely checks before
    it acts (moto, some S3 look-alikes) takes the races of `examine`, and luck.

    Raises:
        StoreUnfit: If the store breaks a promise; the message says which.
        StoreError: If the store could not be asked.
    """
    key = f"probe/{secrets.token_hex(8)}"
    keys = [f"{key}-0", f"{key}/1"]  # where folders are listed one by one, the second comes first
    first, second = b"first " + key.encode(), b"second " + key.encode()
    try:
        _check_create(store, keys[0], first, second)
        store.put(keys[1], b"")
        if [info.key for info in store.list(key)] != keys:
            raise StoreUnfit(f"{store.url}: a list does not have all keys in their order")
    except StoreError:
        with suppress(StoreError):
            store.delete(keys)
        raise
    store.delete(keys)
    if store.get(keys[0]) is not None:
        raise StoreUnfit(f"{store.url}: a deleted object can still be read")


def _check_create(store: Store, key: str, first: bytes, second: bytes) -> None:
    found = store.create(key, first)
    if not _stands(store, key, first, first if found is None else found):
        raise StoreUnfit(f"{store.url}: a create of a fresh key says that it existed")
    found = store.create(key, second)
    if found is None:
        raise StoreUnfit(
            f"{store.url}: the store overwrites on a create-only put (If-None-Match: *); runs on it would corrupt "
            "each other. Use a store that honours conditional writes"
        )
    if not _stands(store, key, first, found) or not _stands(store, key, first, store.get(key)):
        raise StoreUnfit(f"{store.url}: a refused create changed the object that stood there")


def _stands(store: Store, key: str, data: bytes, found: Bytes | None) -> bool:
    """Return whether the object is this one, in the first reading or in a further one."""
    for _ in range(READINGS - 1):
        if found is not None and bytes(found) == data:
            return True
        found = store.get(key)
    return found is not None and bytes(found) == data


def store_time(store: Store) -> float:
    """Return the time by the store's clock, rounded down to a whole second where its dates are.

    This takes three requests, on a fresh key under `probe/`.

    Raises:
        StoreError: If the store may not be written to, or cannot be reached.
    """
    key = f"probe/{secrets.token_hex(8)}"
    store.put(key, b"")
    try:
        info = store.head(key)
    finally:
        store.delete([key])
    if info is None:
        raise StoreUnfit(f"{store.url}: an object just written is not there")
    return info.modified


def examine(store: Store) -> list[Finding]:
    """Try everything that runs rely on, with some 500 requests on fresh keys under `probe/`, removed at the end.

    A broken promise is a finding that is not ok, and so is an error of the store; nothing is raised for either.
    """
    root = f"probe/{secrets.token_hex(8)}"
    looks: list[tuple[str, Callable[[Store, str], tuple[bool, str, dict[str, float]]]]] = [
        ("create-only", _create_only),
        ("races", _races),
        ("read after write", _read_after_write),
        ("ranged reads", _ranges),
        ("lists", _lists),
        ("deletes", _deletes),
        ("clock", _clock),
        ("latency 1 KB", lambda store, at: _latency(store, at, 1024)),
        ("latency 1 MB", lambda store, at: _latency(store, at, 2**20)),
    ]
    findings = []
    for number, (name, look) in enumerate(looks):
        try:
            ok, reason, measured = look(store, f"{root}/{number}")
        except StoreError as error:
            ok, reason, measured = False, f"{type(error).__name__}: {error}", {}
        findings.append(Finding(name, ok, reason, measured))
    try:
        store.delete([info.key for info in store.list(root + "/")])
    except StoreError as error:
        findings.append(Finding("clean-up", False, f"objects may be left under {root}/: {error}"))
    return findings


def _create_only(store: Store, at: str) -> tuple[bool, str, dict[str, float]]:
    try:
        check(store)
    except StoreUnfit as error:
        return False, str(error), {}
    return True, "a second create is refused and returns the first bytes", {}


def _races(store: Store, at: str) -> tuple[bool, str, dict[str, float]]:
    odd = 0
    with ThreadPoolExecutor(RACERS) as pool:
        for round_ in range(ROUNDS):
            key = f"{at}/{round_}"
            results = list(pool.map(lambda who, key=key: store.create(key, b"racer %d" % who), range(RACERS)))
            kept = store.get(key)
            winners = [who for who, result in enumerate(results) if result is None]
            told = {bytes(result) for result in results if result is not None}
            if len(winners) != 1 or kept is None or {bytes(kept)} != told or bytes(kept) != b"racer %d" % winners[0]:
                odd += 1
    reason = f"{ROUNDS - odd} of {ROUNDS} races between {RACERS} threads had exactly one winner, known to all"
    return odd == 0, reason, {"races": ROUNDS, "races_without_one_winner": odd}


def _read_after_write(store: Store, at: str) -> tuple[bool, str, dict[str, float]]:
    stale = 0
    for n in range(10):
        data = b"version %d" % n
        store.put(at, data)
        found, info = store.get(at), store.head(at)
        stale += found is None or bytes(found) != data or info is None or info.size_bytes != len(data)
    return stale == 0, f"{10 - stale} of 10 overwrites were read back at once", {"stale_reads": stale}


def _ranges(store: Store, at: str) -> tuple[bool, str, dict[str, float]]:
    data = bytes(range(256)) * 1024
    store.put(at, data)
    for start, length in ((0, 10), (100_000, 70_000), (len(data) - 5, 100), (len(data), 10)):
        found = store.get_range(at, start, length)
        if found is None or bytes(found) != data[start : start + length]:
            got = "nothing" if found is None else f"{len(found)} bytes"
            return False, f"asked for {length} bytes from {start} of {len(data)}, got {got} or wrong ones", {}
    return True, "ranges inside, at and behind the end are right", {}


def _lists(store: Store, at: str) -> tuple[bool, str, dict[str, float]]:
    keys = [f"{at}/a/{n:04d}" for n in range(MANY_KEYS)] + [f"{at}/a-b", f"{at}/ab"]
    for key in keys:
        store.put(key, b"")
    for prefix, after in ((f"{at}/a", ""), (f"{at}/a/", ""), (f"{at}/a/00", keys[7]), (f"{at}/none", "")):
        wanted = sorted(key for key in keys if key.startswith(prefix) and key > after)
        found = [info.key for info in store.list(prefix, after)]
        if found != wanted:
            return False, f"a list of {prefix!r} after {after!r} gave {len(found)} keys, not the {len(wanted)} due", {}
    return True, "string prefixes, order and starting points are right", {}


def _deletes(store: Store, at: str) -> tuple[bool, str, dict[str, float]]:
    store.put(at, b"x")
    store.delete([at, at + "-missing"])
    gone = store.get(at) is None and not list(store.list(at))
    return gone, "a deleted object is gone" if gone else "a deleted object is still there", {}


def _clock(store: Store, at: str) -> tuple[bool, str, dict[str, float]]:
    before = time.time()
    store.put(at, b"")
    after = time.time()
    info = store.head(at)
    if info is None:
        return False, "an object just written is not there", {}
    offset = info.modified - (before + after) / 2
    error = (after - before) / 2 + (1.0 if info.modified == int(info.modified) else 0.0)
    reason = f"the store's clock is {offset:+.2f} s against ours, give or take {error:.2f} s"
    return abs(offset) <= 60 + error, reason, {"offset_s": offset, "offset_error_s": error}


def _latency(store: Store, at: str, size_bytes: int) -> tuple[bool, str, dict[str, float]]:
    data = secrets.token_bytes(size_bytes)
    kinds: dict[str, Callable[[str], object]] = {
        "create": lambda key: store.create(key, data),
        "get": lambda key: bytes(store.get(key) or b""),
        "get_miss": lambda key: store.get(key + "-missing"),
    }
    measured: dict[str, float] = {}
    for kind, request in kinds.items():
        times = []
        for n in range(LATENCY_SAMPLES):
            begin = time.perf_counter()
            request(f"{at}/{n}")
            times.append(time.perf_counter() - begin)
        times.sort()
        for q in (50, 90):
            measured[f"{kind}_p{q}_s"] = times[math.ceil(q / 100 * len(times)) - 1]
    shown = ", ".join(f"{kind} {measured[f'{kind}_p50_s'] * 1e3:.2f} ms" for kind in kinds)
    return True, f"medians: {shown}", measured

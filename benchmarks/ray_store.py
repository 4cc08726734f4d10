"""Compare Ray's object store as a store with bare Ray, and with the other stores of one machine.

    python benchmarks/ray_store.py

The median times of puts and gets of 64 KB, 1 MB and 16 MB are printed. "Bare" is `ray.put` and `ray.get` of the same
bytes in one process, where the reference is at hand. Nobody has a reference at hand to what another process wrote, so
"by name" is the least that Ray can do to pass an object on: an actor that does nothing but keep a reference, and hand
out one to an object of another process. All ways are measured in turns, so that a busy period affects each of them.
`get_many` reads 16 objects of 1 MB at once, and its time is given per object. The last number is the time from a create
in this process to the return of a `wait` for its key in another.
"""

from __future__ import annotations

import argparse
import itertools
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import ray

from lambdaml.storage import open_store

WAYS = ("bare Ray", "by name", "ray://", "file://", "memory://")
SIZES = {"64 KB": 64 * 1024, "1 MB": 2**20, "16 MB": 2**24}

WAITER = """
import sys, time
from lambdaml.storage import open_store
store = open_store(sys.argv[1])
for n in range(int(sys.argv[2])):
    print("waiting", flush=True)
    assert store.wait(f"wait/{n}", 60)
    print(time.monotonic(), flush=True)
"""


class Names:
    """The least: an actor that keeps one reference, and hands out one to an object that the caller did not make."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.other: list[Any] = []

    async def keep(self, ref: list[Any]) -> None:
        self.kept = ref

    async def make(self, array: Any) -> None:
        self.other = [ray.put(array)]

    async def give(self) -> list[Any]:
        return self.other


class Bare:
    """Ray itself, with the reference at hand."""

    def __init__(self, data: bytes) -> None:
        self._array = np.frombuffer(data, np.uint8)
        self._ref: Any = None

    def put(self) -> None:
        self._ref = ray.put(self._array)

    def between(self) -> None:
        pass

    def get(self) -> None:
        ray.get(self._ref)


class ByName:
    """Ray with the reference in an actor."""

    def __init__(self, data: bytes) -> None:
        self._array = np.frombuffer(data, np.uint8)
        self._names: Any = ray.remote(Names).options(num_cpus=0).remote()

    def put(self) -> None:
        ray.get(self._names.keep.remote([ray.put(self._array)]))

    def between(self) -> None:
        ray.get(self._names.make.remote(self._array))

    def get(self) -> None:
        ray.get(ray.get(self._names.give.remote())[0])


class Stored:
    """A store of ours, in which each key is written once."""

    def __init__(self, data: bytes, url: str) -> None:
        self._data = data
        self._store = open_store(url)
        self._keys = (f"{len(data)}/{n:06d}" for n in itertools.count())
        self._key = ""

    def put(self) -> None:
        self._key = next(self._keys)
        assert self._store.create(self._key, self._data) is None

    def between(self) -> None:
        """Let the store come to rest."""
        self._store.get(self._key)

    def get(self) -> None:
        assert self._store.get(self._key) is not None

    def tidy(self) -> None:
        self._store.delete([self._key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()

    begin = time.perf_counter()
    url = open_store(f"ray://benchmark-{secrets.token_hex(4)}").url
    print(f"start of a local Ray: {time.perf_counter() - begin:.1f} s")
    print("| | " + " | ".join(WAYS) + " | ray:// to bare, to by name |\n" + "|---" * (len(WAYS) + 2) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for title, size in SIZES.items():
            urls = [url, f"file://{folder}", "memory://benchmark"]
            measure(title, size, urls, options.repeats if size < 2**22 else options.repeats // 4)
    print(many(url, options.repeats // 4))
    for what, late in zip(("the create returned", "the create was called"), noticed_s(url, options.repeats)):
        print(f"a new key is noticed by `wait` in another process {median(late) * 1e3:.2f} ms after {what}")


def measure(title: str, size_bytes: int, urls: list[str], repeats: int) -> None:
    """Print a row of medians for put, and one for get."""
    data = np.random.default_rng(0).bytes(size_bytes)
    ways = [Bare(data), ByName(data), *(Stored(data, url) for url in urls)]
    puts: list[list[float]] = [[] for _ in ways]
    gets: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats + 1):
        for way, put_s, get_s in zip(ways, puts, gets):
            put_s.append(seconds(way.put))
            way.between()
            get_s.append(seconds(way.get))
            if isinstance(way, Stored):
                way.tidy()
    for verb, times in (("put", puts), ("get", gets)):
        middles = [median(each[1:]) for each in times]
        cells = [f"{middle * 1e3:.2f} ms" for middle in middles]
        ratios = f"{middles[2] / middles[0]:.2f}, {middles[2] / middles[1]:.2f}"
        print(f"| {verb} {title} | {' | '.join(cells)} | {ratios} |")


def many(url: str, repeats: int) -> str:
    """Return the time of reading 16 objects of 1 MB together."""
    store = open_store(url)
    data = np.random.default_rng(0).bytes(2**20)
    keys = [f"many/{n}" for n in range(16)]
    for key in keys:
        store.create(key, data)
    refs = [ray.put(np.frombuffer(data, np.uint8)) for _ in keys]
    ours, bare = (
        median(seconds(call) for _ in range(repeats)) / len(keys) * 1e3
        for call in (lambda: store.get_many(keys), lambda: ray.get(refs))
    )
    return f"get_many of 16 objects of 1 MB, per object: {ours:.2f} ms, bare Ray {bare:.2f} ms"


def noticed_s(url: str, repeats: int) -> tuple[list[float], list[float]]:
    """Return seconds to the return of another process's `wait`, from a create's return and from its call."""
    store = open_store(url)
    waiter = subprocess.Popen(
        [sys.executable, "-c", WAITER, url, str(repeats)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert waiter.stdout is not None
    after_return, after_call = [], []
    for n in range(repeats):
        assert waiter.stdout.readline() == "waiting\n"
        time.sleep(0.01)
        called = time.monotonic()
        store.create(f"wait/{n}", b"x")
        returned = time.monotonic()
        noticed = float(waiter.stdout.readline())
        after_return.append(noticed - returned)
        after_call.append(noticed - called)
    waiter.wait()
    return after_return, after_call


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())

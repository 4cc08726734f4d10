"""Ray's object store: writers may die, reads share memory, waits are told, errors say what is lost."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lambdaml.storage import BadStoreURL, Store, StoreError, open_store
from lambdaml.storage.keyspace import KeySpace

PROCESSES = 3
ROUNDS = 40
LARGE = 5 * 2**20

WRITER = """
import sys, time
from lambdaml.storage import open_store
store = open_store(sys.argv[1])
for n, size in enumerate((10, 65_536, 65_537, 90_000, 5 * 2**20)):
    store.create(f"k/{n}", bytes([n]) * size)
print("written", flush=True)
time.sleep(60)
"""

RACER = """
import sys
from lambdaml.storage import open_store
url, me, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = open_store(url)
print("ready", flush=True)
sys.stdin.readline()
wins = [n for n in range(rounds) if store.create(f"log/{n}", f"{me} {n}".encode() * (n % 2 * 20_000 + 1)) is None]
print(",".join(map(str, wins)))
"""

STARTER = """
import sys
from lambdaml.storage import open_store
store = open_store("ray://mine")
assert store.ephemeral
store.put("k", b"x" * 100_000)
print(store.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def url(ray_url: str) -> str:
    """A fresh prefix of the session's store."""
    return ray_url.replace("?", f"/{secrets.token_hex(4)}?")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = open_store(url)
    yield opened
    opened.close()


def test_a_killed_writer_takes_nothing_with_it(store: Store) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, store.url], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "written\n"
    writer.kill()
    writer.wait()
    writer.stdout.close()
    for n in range(20):  # Ray frees what the dead process owned, and others write over it
        store.put("other", bytes([100 + n]) * LARGE)
    for n, size in enumerate((10, 65_536, 65_537, 90_000, LARGE)):
        assert bytes(store.get(f"k/{n}") or b"") == bytes([n]) * size


def test_of_several_processes_exactly_one_creates_each_key(store: Store) -> None:
    command = [sys.executable, "-c", RACER, store.url]
    racers = [
        subprocess.Popen([*command, str(me), str(ROUNDS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for me in range(PROCESSES)
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    wins = [text.strip() for text, _ in (racer.communicate("go\n", timeout=60) for racer in racers)]
    winners = {int(n): me for me, text in enumerate(wins) for n in text.split(",") if n}
    assert sum(len([n for n in text.split(",") if n]) for text in wins) == ROUNDS == len(winners)
    for n, me in winners.items():
        assert bytes(store.get(f"log/{n}") or b"") == f"{me} {n}".encode() * (n % 2 * 20_000 + 1)


def test_reads_share_memory_and_outlive_replacing_and_deleting(store: Store) -> None:
    import numpy as np

    store.put("k", b"a" * LARGE)
    first, part, (second,) = store.get("k"), store.get_range("k", 10, 80_000), store.get_many(["k"])
    assert first is not None and second is not None and part is not None
    places = [np.frombuffer(view, np.uint8).ctypes.data for view in (first, second, part)]
    assert places == [places[0], places[0], places[0] + 10]
    store.put("k", b"b" * LARGE)
    store.delete(["k"])
    for n in range(5):
        store.put(f"other/{n}", b"c" * LARGE)
    assert bytes(first) == b"a" * LARGE and bytes(part) == b"a" * 80_000


def test_what_was_deleted_is_freed(store: Store) -> None:
    import ray

    def until_free(enough: Callable[[float], bool]) -> float:
        """Ray says what is free a moment later."""
        deadline = time.monotonic() + 60
        while not enough(free := ray.available_resources().get("object_store_memory", 0.0)):
            assert time.monotonic() < deadline, f"{free:,.0f} bytes are free"
            time.sleep(0.1)
        return float(free)

    names, size_bytes = [f"k/{n}" for n in range(16)], 4 * LARGE
    much = len(names) * size_bytes / 2  # what other tests left may be freed meanwhile, which is less
    before = ray.available_resources()["object_store_memory"]
    for name in names:
        store.put(name, b"x" * size_bytes)
        assert len(store.get(name) or b"") == size_bytes
    full = until_free(lambda free: free <= before - much)
    store.delete(names)
    until_free(lambda free: free >= full + much)


def test_all_that_wait_are_told_at_once_and_each_counts_as_a_request(url: str) -> None:
    store = open_store(url)
    answers: list[bool] = []
    waiters = [threading.Thread(target=lambda: answers.append(store.wait("k", 60))) for _ in range(20)]
    for waiter in waiters:
        waiter.start()
    open_store(url).put("k", b"")
    for waiter in waiters:
        waiter.join(60)
    assert answers == [True] * 20
    reading = store.meter.snapshot()
    assert reading.requests == {"wait": 20} and reading.latency == {}


def test_objects_read_together_count_one_by_one(url: str) -> None:
    store = open_store(url)
    store.put("small", b"x" * 10)
    store.put("large", b"x" * 100_000)
    store.get_many(["small", "none", "large"])
    reading = store.meter.snapshot()
    assert (reading.requests, reading.bytes_received) == ({"put": 2, "get": 2, "get_miss": 1}, 100_010)


def _child(url: str, answer: Any) -> None:
    try:
        open_store(url).create("from-child", b"hello")
        answer.put("written")
    except StoreError as error:
        answer.put(str(error))


def _child_with(store: Store, answer: Any) -> None:
    try:
        store.get("k")
    except StoreError as error:
        answer.put(str(error))


@pytest.mark.parametrize(("method", "says"), [("spawn", "written"), ("fork", "forked from one that is connected")])
def test_a_child_process_opens_it_by_url_or_learns_why_not(method: str, says: str, store: Store) -> None:
    context: Any = multiprocessing.get_context(method)
    answer = context.SimpleQueue()
    child = context.Process(target=_child, args=(store.url, answer))
    child.start()
    assert says in answer.get()
    child.join(30)
    assert child.exitcode == 0


def test_a_store_that_was_open_before_a_fork_says_so(store: Store) -> None:
    context: Any = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_child_with, args=(store, answer))
    child.start()
    assert "forked from one that is connected" in answer.get()
    child.join(30)


def test_when_the_actor_dies_its_objects_are_lost_and_that_is_said(ray_url: str) -> None:
    import ray

    from lambdaml.storage.ray import NAMESPACE

    url = ray_url.replace("tests", "doomed")
    store = open_store(url)
    store.put("k", b"x" * 100_000)
    ray.kill(ray.get_actor("store:doomed", namespace=NAMESPACE))
    with pytest.raises(StoreError, match=r"^get k: the actor that held the keys of ray://doomed is gone") as caught:
        store.get("k")
    assert "\n" not in str(caught.value) and "attempts" not in str(caught.value)
    assert list(open_store(url).list()) == []


def test_a_store_whose_connection_was_shut_down_is_to_be_opened_again(store: Store) -> None:
    import ray

    store.put("k", b"x")
    ray.shutdown()
    with pytest.raises(StoreError, match="no longer connected to Ray; open the store again"):
        store.get("k")
    assert open_store(store.url).get("k") == b"x"


def test_a_store_that_was_dropped_is_empty(ray_url: str) -> None:
    from lambdaml.storage.ray import RayStore
    from lambdaml.storage.url import StoreURL

    url = ray_url.replace("tests", "dropped")
    store = RayStore(StoreURL.parse(url))
    store.put("k", b"x")
    store.drop()
    assert list(open_store(url).list()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("ray://a b", "bad name 'a b'"),
        ("ray://", "names no place"),
        ("ray://x/../y", "bad key"),
        ("ray://x?adress=auto", "did you mean address"),
        ("ray://x?auth=secret", "only auth=token"),
        ("ray://x?address=ray://head:10001", "Ray Client cannot be used"),
    ],
)
def test_wrong_urls_are_refused(wrong: str, message: str) -> None:
    with pytest.raises((BadStoreURL, ValueError), match=message):
        open_store(wrong)


def test_one_process_uses_one_cluster(store: Store) -> None:
    with pytest.raises(StoreError, match="connected to the Ray cluster at .*, so it cannot use 127.0.0.1:1"):
        open_store("ray://x?address=127.0.0.1:1")


def test_a_cluster_is_the_same_by_each_of_its_names(store: Store) -> None:
    place, _, port = store.url.partition("address=")[2].partition("&")[0].rpartition(":")
    store.put("k", b"x")
    for name in ("127.0.0.1", "localhost"):
        assert open_store(store.url.replace(f"{place}:{port}", f"{name}:{port}")).get("k") == b"x"


def test_the_address_of_a_ray_client_in_the_environment_is_refused_too() -> None:
    code = "from lambdaml.storage import open_store; open_store('ray://x')"
    environment = {**os.environ, "RAY_ADDRESS": "ray://127.0.0.1:10001"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "BadStoreURL: address=ray://127.0.0.1:10001: a Ray Client cannot be used" in done.stderr


def test_a_cluster_of_its_own_is_quiet_and_ends_with_the_process_even_by_sigkill(monkeypatch: Any) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None and starter.stderr is not None
    url = starter.stdout.readline().strip()
    reader = "import sys; from lambdaml.storage import open_store; print(len(open_store(sys.argv[1]).get('k')))"
    done = subprocess.run([sys.executable, "-c", reader, url], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("100000\n", "")
    starter.kill()
    out, err = starter.communicate(timeout=60)
    assert (out, err) == ("", "")
    host, _, port = url.partition("address=")[2].partition("&")[0].partition(":")
    assert _refused(host, int(port), 20)


def _refused(host: str, port: int, timeout_s: float) -> bool:
    import socket

    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), 1).close()
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_the_key_space_copies_again_when_there_was_no_memory() -> None:
    tries = []

    def own(view: bytearray) -> str:
        tries.append(len(view))
        if len(tries) == 1:
            raise MemoryError("full")
        return "reference"

    async def scene() -> None:
        keys = KeySpace(own)
        assert await keys.create("k", bytearray(10))
        with pytest.raises(MemoryError):
            await keys.get(["k"])
        assert await keys.get(["k", "none"]) == [["reference"], None]
        assert await keys.get_range("k", 2, 3) == ["reference"]

    asyncio.run(scene())
    assert tries == [10, 10]


def test_the_key_space_lists_by_pages_and_forgets_who_stopped_waiting() -> None:
    async def scene() -> None:
        keys = KeySpace(lambda view: view)
        for n in range(25):
            await keys.put(f"b/{n:02d}", b"x")
        await keys.put("a", b"")
        await keys.put("c", b"")
        rows, more = await keys.page("b/", "", 10)
        assert ([row[0] for row in rows], more) == ([f"b/{n:02d}" for n in range(10)], True)
        rows, more = await keys.page("b/", "b/19", 10)
        assert ([row[0] for row in rows], more) == ([f"b/{n:02d}" for n in range(20, 25)], False)
        assert not await keys.wait("later", 0.01)
        told = asyncio.ensure_future(keys.wait("later", 60))
        await asyncio.sleep(0)
        await keys.put("later", b"")
        assert await told
        assert not keys._waiting

    asyncio.run(scene())

"""The directory store: exactly one winner between processes, views that outlive what they show, tidy lists."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lambdaml.storage import BadStoreURL, DirectoryStore, MemoryStore, Store, StoreError, open_store

PROCESSES = 8
ROUNDS = 120

RACER = """
import sys
from lambdaml.storage import open_store
url, me, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = open_store(url)
print("ready", flush=True)
sys.stdin.readline()
wins = [n for n in range(rounds) if store.create(f"log/{n:06d}", f"{me} {n}".encode() * 50) is None]
print(",".join(map(str, wins)))
"""


def test_of_eight_processes_exactly_one_creates_each_key(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACER, f"file://{tmp_path}"]
    racers = [
        subprocess.Popen([*command, str(me), str(ROUNDS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for me in range(PROCESSES)
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    wins = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    store = open_store(str(tmp_path))
    winners = {int(n): me for me, text in enumerate(wins) for n in text.split(",") if n}
    assert sum(len([n for n in text.split(",") if n]) for text in wins) == ROUNDS == len(winners)
    for n, me in winners.items():
        assert bytes(store.get(f"log/{n:06d}") or b"") == f"{me} {n}".encode() * 50
    assert list((tmp_path / ".tmp").iterdir()) == []


@pytest.mark.parametrize("make", [lambda path: DirectoryStore(path), lambda path: MemoryStore(str(path))])
def test_of_eight_threads_exactly_one_creates_each_key(make: type[DirectoryStore], tmp_path: Path) -> None:
    store: Store = make(tmp_path)
    wins: list[tuple[int, int]] = []
    gate = threading.Barrier(PROCESSES)

    def race(me: int) -> None:
        for n in range(ROUNDS):
            gate.wait(30)
            if store.create(f"k{n}", b"%d" % me) is None:
                wins.append((n, me))

    threads = [threading.Thread(target=race, args=(me,)) for me in range(PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(n for n, _ in wins) == list(range(ROUNDS))
    assert all(bytes(store.get(f"k{n}") or b"") == b"%d" % me for n, me in wins)


def _child(url: str) -> None:
    open_store(url).create("from-child", b"hello")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_opens_it_by_url(method: str, tmp_path: Path) -> None:
    store = open_store(f"{tmp_path}/with space?latency=1ms")
    store.put("parent", b"x")
    child = multiprocessing.get_context(method).Process(target=_child, args=(store.url,))  # type: ignore[attr-defined]
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert bytes(store.get("from-child") or b"") == b"hello"


def test_a_killed_writer_leaves_nothing_that_can_be_read(tmp_path: Path) -> None:
    program = (
        "import sys; from lambdaml.storage import open_store; s = open_store(sys.argv[1])\n"
        "print('go', flush=True)\nfor n in range(10**6): s.create(f'k/{n:07d}', b'x' * 200_000)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    store = open_store(str(tmp_path))
    while store.get("k/0000010") is None:
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    infos = list(store.list())
    assert infos and all(info.size_bytes == 200_000 and info.key.startswith("k/") for info in infos)


def test_a_view_outlives_replacing_and_deleting(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("k", b"a" * 100_000)
    view, part = store.get("k"), store.get_range("k", 10, 80_000)
    assert isinstance(view, memoryview) and isinstance(part, memoryview)
    store.put("k", b"b" * 100_000)
    store.delete(["k"])
    assert bytes(view) == b"a" * 100_000 and bytes(part) == b"a" * 80_000
    del view, part
    assert not [fd for fd in os.listdir("/proc/self/fd") if str(tmp_path) in _target(fd)]


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""


def test_lists_go_on_while_objects_vanish(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for n in range(3000):
        store.put(f"f{n % 7}/{n:05d}", b"")
    keys = [info.key for info in store.list()]
    assert len(keys) == 3000 and keys == sorted(keys)
    rest = store.list()
    first = next(rest).key
    thread = threading.Thread(target=store.delete, args=(keys,))
    thread.start()
    found = [first, *(info.key for info in rest)]
    thread.join()
    assert found == sorted(found) and set(found) <= set(keys)
    assert list(store.list()) == []


def test_pages_join_without_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambdaml.storage.file.LOCAL_PAGE", 7)
    monkeypatch.setattr("lambdaml.storage.memory.LOCAL_PAGE", 7)
    for store in (open_store(str(tmp_path)), open_store("memory://pages")):
        keys = sorted(f"{n % 4}/{n % 3}/{n}" for n in range(35))
        for key in keys:
            store.put(key, b"")
        assert [info.key for info in store.list()] == keys
        assert [info.key for info in store.list("2/")] == [key for key in keys if key.startswith("2/")]
        assert store.meter.snapshot().requests["list"] in (7, 8)


def test_a_key_cannot_be_a_folder_too(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a/b", b"")
    for write in (store.put, store.create):
        with pytest.raises(StoreError, match="a"):
            write("a", b"")  # type: ignore[operator]
        with pytest.raises(StoreError, match="a/b/c"):
            write("a/b/c", b"")  # type: ignore[operator]
    assert store.get("a") is None and store.head("a") is None and store.get("a/b/c") is None
    store.delete(["a", "a/b/c"])
    assert [info.key for info in store.list()] == ["a/b"]


def test_paths_become_absolute_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (f"{tmp_path}/x%", "./x%25/../x%", "file://./x%25", f"file://{tmp_path}/x%25"):
        assert open_store(url).url == f"file://{tmp_path}/x%25"


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(StoreError, match=r"cannot write under .*plain"):
        open_store(f"{tmp_path}/plain").put("k", b"")
    assert open_store(f"{tmp_path}/plain").get("k") is None


def test_a_memory_store_is_one_store_by_name() -> None:
    one, two, other = MemoryStore("one"), MemoryStore("one"), MemoryStore("other")
    one.put("k", b"x")
    one.close()
    assert two.get("k") == b"x" and other.get("k") is None
    two.drop()
    assert MemoryStore("one").get("k") is None
    assert (one.shared, one.ephemeral, one.near) == (False, True, True)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "names no place"),
        ("s4://bucket/x", "did you mean s3"),
        ("./x?latancy=40ms", "did you mean latency"),
        ("s3://bucket/x?regoin=eu-west-1", "did you mean region"),
        ("s3://bucket/x?client=boto", "did you mean boto3"),
        ("s3://bucket/x?endpoint=localhost:9000", "must begin with http"),
        ("s3://key:secret@bucket/x", "write bucket/prefix"),
        ("s3://bucket/../x", "write bucket/prefix"),
        ("./x?latency=40", "time like 40ms"),
        ("./x?latency=s3-standart", "did you mean s3-standard"),
        ("./x?latency=s3-express&bandwidth=fast", "like 65MB/s"),
        ("./x?faults=lots:0.1", "did you mean lost"),
        ("./x?faults=lost:2", "in 0..1"),
        ("./x?faults=lost:0.6,slow:0.6", "add up"),
        ("./x?faults=lost:many", "must be a number"),
        ("./x?faults_seed=1", "without faults"),
        ("./x?latency", "cannot read"),
        ("./x?latency=1ms&latency=2ms", "twice"),
    ],
)
def test_a_wrong_url_says_what_is_wrong(url: str, says: str) -> None:
    with pytest.raises(BadStoreURL, match=says) as caught:
        open_store(url)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_importing_is_cheap() -> None:
    program = (
        "import sys; import lambdaml; before = set(sys.modules); import lambdaml.storage; import lambdaml.storage.open\n"
        "print(sorted({'boto3', 'botocore', 'obstore', 'moto', 'numpy', 'torch', 'pydantic'} & (set(sys.modules) - before)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"

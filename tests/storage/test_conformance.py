"""What every store promises, tried on every backend, and on backends that are slow and faulty on purpose. A new one takes
one file and one line in `BACKENDS`: see `tests/parts/sqlite.py`.

    pytest -p mine --store 'mine://{folder}/{token}' tests/storage/test_conformance.py    # one of your own, in mine.py
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from threading import Timer

import pytest

from lambdaml.storage import Store, check, copy, examine, open_store

ODD_KEYS = [
    "a b",
    "a%20b",
    "a%2Fb",
    "ä/日本/😀",
    "a#b?c&d=e",
    "a+b",
    "a*b~c",
    "a:b;c,d",
    "a|c^d`e",
    "[a]{b}<c>'d\"",
    ".hidden/.x",
    "a./b..c/...",
    "x" * 200 + "/" + "y" * 200,
]
BAD_KEYS = ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a/.", "a\nb", "a\x00b", "a\\b", ".tmp/a"]


def test_create_writes_once(store: Store) -> None:
    assert store.create("log/0", b"first") is None
    assert bytes(store.create("log/0", b"second") or b"") == b"first"
    assert bytes(store.get("log/0") or b"") == b"first"


def test_create_with_equal_bytes_counts_as_the_same_create(store: Store) -> None:
    assert store.create("log/0", b"token-1") is None
    assert store.create("log/0", b"token-1") is None


def test_a_key_that_is_not_there_is_none(store: Store) -> None:
    assert store.get("nothing/here") is None
    assert store.get_range("nothing/here", 0, 10) is None
    assert store.get_range("nothing/here", 0, 0) is None
    assert store.head("nothing/here") is None
    assert list(store.list("nothing")) == []


def test_put_replaces(store: Store) -> None:
    store.put("k", b"one, and longer")
    store.put("k", b"two")
    assert bytes(store.get("k") or b"") == b"two"


@pytest.mark.parametrize("size", [0, 1, 70_000, 5 * 2**20 + 1])
def test_objects_of_any_size_come_back_whole(store: Store, size: int) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    assert store.create("big", data) is None
    found = store.get("big")
    assert found is not None and bytes(found) == data
    info = store.head("big")
    assert info is not None and info.size_bytes == size and info.key == "big"


def test_ranges_are_cut_at_the_end(store: Store) -> None:
    data = bytes(range(256)) * 1000
    store.put("r", data)
    store.put("empty", b"")
    for start, length in [(0, 1), (5, 0), (1000, 66_000), (100, 200_000), (len(data) - 3, 10), (len(data), 10)]:
        found = store.get_range("r", start, length)
        assert found is not None and bytes(found) == data[start : start + length], (start, length)
    assert store.get_range("empty", 0, 4) == b""
    with pytest.raises(ValueError, match="range"):
        store.get_range("r", -1, 4)


def test_what_is_read_cannot_be_written_to(store: Store) -> None:
    store.put("small", b"x")
    store.put("large", bytes(100_000))
    assert all(memoryview(store.get(key) or b"").readonly for key in ("small", "large"))


def test_the_caller_may_reuse_its_buffer(store: Store) -> None:
    for key, write in {"p": store.put, "c": store.create}.items():
        buffer = bytearray(b"x" * 1000)
        write(key, buffer)  # type: ignore[operator]
        buffer[:] = b"y" * 1000
        assert bytes(store.get(key) or b"") == b"x" * 1000


def test_any_contiguous_buffer_is_bytes(store: Store) -> None:
    numbers = array("f", range(100))
    for key, data in {"view": memoryview(numbers), "bytes": memoryview(numbers).cast("B")}.items():
        assert store.create(key, data) is None
        assert bytes(store.get(key) or b"") == numbers.tobytes()
        assert store.create(key, data) is None


def test_odd_keys_are_kept_as_they_are(store: Store) -> None:
    for n, key in enumerate(ODD_KEYS):
        assert store.create(key, b"%d" % n) is None
    assert [info.key for info in store.list()] == sorted(ODD_KEYS)
    for n, key in enumerate(ODD_KEYS):
        assert bytes(store.get(key) or b"") == b"%d" % n
        assert [info.key for info in store.list(key)] == [key]
    store.delete(ODD_KEYS)
    assert list(store.list()) == []


def test_keys_that_some_store_cannot_hold_are_refused_by_each(store: Store) -> None:
    calls: list[Callable[[str], object]] = [store.get, store.head, lambda key: store.create(key, b"")]
    calls += [lambda key: store.put(key, b""), lambda key: store.delete([key]), lambda key: store.get_range(key, 0, 1)]
    for key in BAD_KEYS:
        for call in calls:
            with pytest.raises(ValueError, match="bad key"):
                call(key)


def test_prefixes_that_no_key_can_have_are_refused(store: Store) -> None:
    for prefix in ("/", "a//", "../a", ".tmp/"):
        with pytest.raises(ValueError, match="bad key"):
            list(store.list(prefix))
    assert list(store.list("..")) == list(store.list("a/.")) == []


def test_list_goes_by_string_prefix_in_key_order(store: Store) -> None:
    keys = ["a/1", "a/2", "a/b/3", "a-0", "a.b", "ab/1", "abc", "b/1", "a0"]
    for key in keys:
        store.put(key, key.encode())

    def listed(prefix: str = "", after: str = "") -> list[str]:
        return [info.key for info in store.list(prefix, after)]

    assert listed() == sorted(keys)
    for prefix in ["a", "a/", "a/b", "ab", "abc", "a/b/3", "b", "c", "a/1x", "a."]:
        assert listed(prefix) == sorted(key for key in keys if key.startswith(prefix)), prefix
        for after in ["a", "a/", "a/1", "a/b", "a/b/3", "ab", "b/1", "zzz"]:
            wanted = sorted(key for key in keys if key.startswith(prefix) and key > after)
            assert listed(prefix, after) == wanted, (prefix, after)
    assert all(info.size_bytes == len(info.key) for info in store.list())


def test_delete_takes_any_iterable_and_forgives_what_is_gone(store: Store) -> None:
    store.put("d/1", b"")
    store.put("d/2", b"")
    store.delete(iter(["d/1", "d/none", "other/none"]))
    assert [info.key for info in store.list()] == ["d/2"]
    store.delete([])
    assert store.create("d/1", b"again") is None


def test_get_many_answers_in_the_order_asked(store: Store) -> None:
    for n in range(40):
        store.put(f"m/{n}", b"%d" % n)
    keys = [f"m/{n}" for n in reversed(range(45))]
    found = store.get_many(keys)
    assert [None if data is None else int(bytes(data)) for data in found] == [None] * 5 + list(reversed(range(40)))
    assert list(store.get_many([])) == []


def test_get_many_refuses_what_get_refuses(store: Store) -> None:
    with pytest.raises(ValueError, match="bad key"):
        store.get_many(["fine", "/bad"])


def test_wait_answers_when_the_key_is_there_or_the_time_is_up(store: Store) -> None:
    began = time.monotonic()
    assert not store.wait("w/1", 0.05)
    assert not store.wait("w/1", 0)
    assert time.monotonic() - began >= 0.05
    writer = Timer(0.02, store.create, ("w/1", b"x"))
    writer.start()
    assert store.wait("w/1", 30)
    assert store.wait("w/1", 0)
    writer.join()
    with pytest.raises(ValueError, match="bad key"):
        store.wait("/bad", 1)


def test_the_time_of_an_object_is_about_now(store: Store) -> None:
    store.put("t", b"")
    info = store.head("t")
    assert info is not None and abs(info.modified - time.time()) < 5
    assert next(store.list("t")).modified == pytest.approx(info.modified, abs=1)


def test_the_url_opens_the_same_store_again(store: Store) -> None:
    store.put("u", b"seen")
    again = open_store(store.url)
    assert again.url == store.url
    assert bytes(again.get("u") or b"") == b"seen"
    again.close()


def test_copy_leaves_what_stands_there_and_can_be_repeated(store: Store) -> None:
    source = open_store(f"memory://copy-{id(store)}")
    for n in range(20):
        source.put(f"run/{n}", b"%d" % n)
    source.put("other", b"")
    store.put("run/3", b"stays")
    assert copy(source, store, "run/") == 19
    assert copy(source, store, "run/") == 19
    assert bytes(store.get("run/3") or b"") == b"stays"
    assert len(list(store.list())) == 20


def test_the_probes_accept_the_store(store: Store) -> None:
    check(store)
    assert [finding for finding in examine(store) if not finding.ok and finding.name != "races"] == []
    assert list(store.list()) == []

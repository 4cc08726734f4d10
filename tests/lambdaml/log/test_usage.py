"""Nothing spent is lost: what a run used is known exactly, also of functions that were killed."""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

import lambdaml
from lambdaml.engines.accounts import Accounts, total
from lambdaml.errors import BadObject
from lambdaml.events import UsageEvent
from lambdaml.log import keys
from lambdaml.log.usage import Usage
from lambdaml.storage import MemoryStore, MeterReading, copy, open_store
from lambdaml.storage.protocol import Bytes, Data
from tests.lambdaml.worker.test_kills import JOB, Killer
from tests.storage.s3server import S3Server

KILLS = 20


def by_op(reading: MeterReading) -> Counter[str]:
    """Requests by what was asked, whatever the answer, failed ones included."""
    asked: Counter[str] = Counter()
    for kind, number in reading.requests.items():
        asked[kind.removesuffix("_miss").removesuffix("_lost")] += number
    for name, number in reading.errors.items():
        asked[name.split("/")[0]] += number
    return asked


def test_the_usage_of_a_run_with_twenty_kills_is_what_the_store_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    killer, in_flight = Killer(KILLS, seed=3), {}

    def watch(event: Any) -> None:
        killer(event)
        if event.event == "usage":
            in_flight[event.function] = event.in_flight

    with S3Server() as server:
        result = lambdaml.train(JOB, server.url, workers=4, steps=30, functions=2, on_event=watch)
        counted = server.kinds.copy()
        usage = lambdaml.Run(server.url).usage()
    assert killer.done == KILLS
    functions = [each for each in usage if not each.launcher]
    assert len(functions) == 2 + KILLS == len(usage) - 1
    assert all(each.complete and each.seconds > 0 and each.memory_bytes > 2**24 for each in functions)
    spent = by_op(total(usage))
    assert sum(result.requests.values()) + sum(total(usage).errors.values()) == spent.total()
    uncertain = sum(in_flight.values())
    assert uncertain <= 64 * KILLS
    assert counted.total() <= spent.total() <= counted.total() + uncertain
    assert all(counted[op] <= spent[op] for op in counted | spent)


def test_without_kills_the_usage_is_exact_to_the_request() -> None:
    url = f"memory://{secrets.token_hex(6)}"
    result = lambdaml.train("tests/lambdaml/lab.py:Tiny", url, workers=2, steps=5, functions=2)
    run = lambdaml.Run(url)
    usage = run.usage()
    spent = total(usage)
    assert dict(spent.requests) == result.requests
    assert {"sent": spent.bytes_sent, "received": spent.bytes_received} == result.bytes
    functions = total(each for each in usage if not each.launcher)
    trace = run.requests()
    assert functions.requests["get"] == trace.requests["get"]
    assert functions.requests["create"] == trace.requests["create"]


def test_what_stands_in_the_store_was_paid_for() -> None:
    url = f"memory://{secrets.token_hex(6)}"
    result = lambdaml.train("tests/lambdaml/lab.py:Tiny", url, workers=2, steps=5, functions=1)
    store = open_store(url)
    probe = 1  # deleted again
    created = [info for info in store.list() if not info.key.startswith(keys.TRACE)]
    assert result.requests["create"] == len(created) + probe
    assert result.bytes["sent"] > sum(info.size_bytes for info in store.list())


def test_each_call_counts_what_came_before_and_itself_once() -> None:
    url = f"memory://{secrets.token_hex(6)}"
    store = open_store(url)
    first = lambdaml.train("tests/lambdaml/lab.py:Tiny", store, workers=2, steps=5, functions=1)
    again = lambdaml.resume(store)
    usage = lambdaml.Run(url).usage()
    assert [each.launcher for each in usage].count(True) == 2
    assert dict(total(usage).requests) == again.requests
    assert sum(again.requests.values()) > sum(first.requests.values())


def test_of_a_run_whose_starter_died_the_last_trace_counts() -> None:
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train("tests/lambdaml/lab.py:Tiny", url, workers=2, steps=5, functions=2)
    left = MemoryStore(secrets.token_hex(6))
    copy(open_store(url), left)
    left.delete([info.key for info in left.list(keys.USAGE)])
    run = lambdaml.Run(left)
    usage = run.usage()
    assert len(usage) == 2
    assert not any(each.complete for each in usage)
    assert total(usage).requests == run.requests().requests


def test_a_record_reads_back_and_is_checked() -> None:
    usage = Usage("f.1", 1.5, 2**20, MeterReading({"get": 3}, {"put/Throttled": 1}, 5, 7), complete=True)
    data = usage.dump()
    assert Usage.load(data, "f.1") == usage
    for at in range(len(data)):
        with pytest.raises(BadObject):
            Usage.load(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "f.1")
    with pytest.raises(BadObject, match="usage of 'f.1'"):
        Usage.load(data, "f.2")


def test_deleting_what_is_not_needed_keeps_the_usage(tmp_path: Path) -> None:
    result = lambdaml.train(
        "tests/lambdaml/lab.py:Tiny", f"file://{tmp_path}/run", workers=1, steps=20, engine="inline"
    )
    run = lambdaml.Run(result.run)
    before = run.usage()
    assert run.gc() > 0
    assert run.usage() == before
    assert run.verify().faults == []


class Slow(MemoryStore):
    """A store whose writes wait for a word."""

    def __init__(self) -> None:
        super().__init__(secrets.token_hex(8))
        self.asked, self.word = Event(), Event()

    def create(self, key: str, data: Data) -> Bytes | None:
        self.asked.set()
        assert self.word.wait(30)
        return super().create(key, data)


def test_events_are_taken_while_the_last_usage_is_written() -> None:
    store = Slow()
    accounts = Accounts(store)
    accounts.take(UsageEvent(function="f", seconds=1.0, memory_bytes=0, reading=MeterReading()))
    closing = Thread(target=accounts.close)
    closing.start()
    assert store.asked.wait(30)
    taking = Thread(
        target=accounts.take,
        args=(UsageEvent(function="f", seconds=2.0, memory_bytes=0, reading=MeterReading()),),
        daemon=True,
    )
    taking.start()
    taking.join(10)
    assert not taking.is_alive()
    store.word.set()
    closing.join()

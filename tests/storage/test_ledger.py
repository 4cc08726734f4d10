"""A ledger: counts that outlive the process that counted."""

from __future__ import annotations

import os
import signal

import pytest

from lambdaml.storage import Ledger, Meter, MeterReading, StoreError, read_ledger
from lambdaml.storage.errors import Throttled
from lambdaml.storage.ledger import in_flight
from lambdaml.storage.memory import MemoryStore
from lambdaml.storage.meter import Metered


class Dying(MemoryStore):
    """Kills its process at the get of `the last`."""

    def get(self, key: str) -> bytes | memoryview | None:
        if key == "the last":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().get(key)


def test_a_killed_process_leaves_its_counts_and_what_was_in_flight() -> None:
    ledger = Ledger.shared()
    pid = os.fork()
    if not pid:
        store = Metered(Dying("left"), Meter(ledger))
        store.create("a", b"12345")
        store.create("a", b"12345")
        store.get("a")
        store.get("none")
        store.get("the last")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert in_flight(ledger.read()) == {"get": 1}
    # the second create is settled by reading what stands there
    assert read_ledger(ledger) == MeterReading({"get": 3, "get_miss": 1, "create": 1, "create_lost": 1}, {}, 10, 10)


def test_a_meter_and_its_ledger_say_the_same_when_nothing_is_in_flight() -> None:
    class Failing(MemoryStore):
        def get(self, key: str) -> bytes | memoryview | None:
            raise {"bad": ValueError(key), "own": Own(key)}.get(key, Throttled(key))

    class Own(StoreError):
        pass

    ledger = Ledger()
    store = Metered(Failing("failing"), Meter(ledger))
    for key in ("slow", "bad", "own"):
        with pytest.raises((StoreError, ValueError)):
            store.get(key)
    reading = store.meter.snapshot()
    assert reading.errors == {"get/Throttled": 1, "get/StoreError": 1}
    assert reading.requests == {}
    assert read_ledger(ledger) == reading


def test_requests_begun_and_not_answered_are_in_flight() -> None:
    ledger = Ledger()
    meter = Meter(ledger)
    meter.begun("get", 3)
    meter.begun("put")
    meter.answered("get_miss", 0.1)
    assert in_flight(ledger.read()) == {"get": 2, "put": 1}
    assert read_ledger(ledger).requests == {"get": 2, "get_miss": 1, "put": 1}
    assert meter.snapshot().requests == {"get_miss": 1}


def test_a_ranged_get_that_finds_nothing_is_a_miss_and_no_longer_in_flight() -> None:
    ledger = Ledger()
    store = Metered(MemoryStore("empty"), Meter(ledger))
    assert store.get_range("none", 0, 5) is None
    assert in_flight(ledger.read()) == {}
    assert read_ledger(ledger).requests == store.meter.snapshot().requests == {"get_miss": 1}

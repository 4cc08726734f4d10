"""Waiting for a store that is down: how long, with which pauses, and what whoever watches is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from lambdaml.storage import AccessDenied, MemoryStore, Metered, ObjectInfo, Retrying, StoreTimeout, StoreUnavailable
from lambdaml.storage.backend import Page
from lambdaml.storage.patience import LONGEST_PAUSE_S, Patience, Patient, hasten


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr("lambdaml.storage.patience.time.sleep", self.sleep)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Down(MemoryStore):
    """Refuses requests until the clock stands at `until`; some of them after they have taken effect."""

    def __init__(self, name: str, clock: Clock, until: float, error: type[Exception] = StoreUnavailable) -> None:
        super().__init__(name)
        self.clock, self.until, self.error = clock, until, error
        self.loses_answers = False

    def _meet(self) -> None:
        if self.clock() < self.until:
            raise self.error("the network is unreachable")

    def get(self, key: str) -> Any:
        self._meet()
        return super().get(key)

    def try_create(self, key: str, data: Any) -> bool:
        written = super().try_create(key, data) if self.loses_answers else None
        self._meet()
        return super().try_create(key, data) if written is None else written

    def page(self, prefix: str, after: str) -> Page:
        if after:
            self._meet()
        infos, _ = super().page(prefix, after)
        return Page(infos[:1], infos[0].key if infos else None)


def patient(store: MemoryStore, clock: Clock, seconds: float = 600.0, **options: Any) -> tuple[Patient, list[Any]]:
    heard: list[Any] = []
    patience = Patience(seconds, clock, lambda low, high: high, lambda *told: heard.append(told), **options)
    return Patient(Retrying(Metered(store), attempts=1), patience), heard


def test_a_call_is_repeated_after_growing_pauses_until_the_store_answers(clock: Clock) -> None:
    down = Down("patient-1", clock, clock() + 60)
    down.put("a", b"1")
    store, heard = patient(down, clock)
    assert store.get("a") == b"1"
    assert clock.slept[:5] == [0.5, 1.0, 2.0, 4.0, LONGEST_PAUSE_S]
    assert set(clock.slept[5:]) == {LONGEST_PAUSE_S}
    assert {patience_s for error, patience_s in heard[:-1] if "the network is unreachable" in str(error)} == {600.0}
    assert len(heard) > 2 and all(error is not None for error, _ in heard[:-1])
    assert heard[-1] == (None, sum(clock.slept))
    assert store.patience.recovered_at == clock() and not store.patience.failing


def test_when_the_patience_is_over_the_stores_last_error_is_named_and_no_other_call_waits(clock: Clock) -> None:
    store, _ = patient(Down("patient-2", clock, float("inf"), StoreTimeout), clock, 100.0)
    with pytest.raises(StoreTimeout, match=r"the network is unreachable.* tried for 10\d s in vain: resume the run"):
        store.get("a")
    waited = sum(clock.slept)
    with pytest.raises(StoreTimeout):
        store.get("b")
    assert sum(clock.slept) == waited


def test_a_create_whose_first_answer_was_lost_in_the_outage_is_known_as_ones_own(clock: Clock) -> None:
    down = Down("patient-3", clock, clock() + 30)
    down.loses_answers = True
    store, _ = patient(down, clock)
    assert store.create("a", b"by me") is None
    assert clock.slept
    assert store.create("a", b"by another") == b"by me"


def test_a_list_goes_on_where_it_was_cut_off(clock: Clock) -> None:
    down = Down("patient-4", clock, 0.0)
    for key in "abcd":
        down.put(key, b"")
    store, _ = patient(down, clock)

    def first_then_down() -> Iterator[ObjectInfo]:
        for number, info in enumerate(store.list()):
            down.until = clock() + 20 if number == 0 else down.until
            yield info

    assert [info.key for info in first_then_down()] == ["a", "b", "c", "d"]
    assert clock.slept


@pytest.mark.parametrize("seconds", [0.0, 600.0])
def test_who_has_no_patience_or_no_time_waits_for_nothing(seconds: float, clock: Clock) -> None:
    store, heard = patient(Down("patient-5", clock, float("inf")), clock, seconds, hurried=lambda: True)
    with pytest.raises(StoreUnavailable, match=r"unreachable; gave up after 1 attempt in 0\.0 s$"):
        store.get("a")
    assert (clock.slept, heard) == ([], [])


def test_other_errors_pass_at_once(clock: Clock) -> None:
    store, heard = patient(Down("patient-6", clock, float("inf"), AccessDenied), clock)
    with pytest.raises(AccessDenied):
        store.get("a")
    assert (clock.slept, heard) == ([], [])


def test_an_outage_is_over_when_the_last_call_that_failed_is_answered() -> None:
    """Two awaited calls fail; the first is answered at its second attempt, the other at its third."""
    events: list[str] = []
    patience = Patience(600.0, tell=lambda error, seconds: events.append("recovered" if error is None else "outage"))

    async def call_that_fails(times: int) -> int:
        async def call() -> int:
            nonlocal times
            times -= 1
            if times >= 0:
                raise StoreUnavailable("no")
            events.append("answer")
            return times

        return await patience.keep(call, lambda seconds: asyncio.sleep(0))

    async def both() -> None:
        await asyncio.gather(call_that_fails(1), call_that_fails(2), call_that_fails(0))

    asyncio.run(both())
    assert events == ["outage", "outage", "answer", "answer", "outage", "answer", "recovered"]


def test_a_server_that_never_answers_is_given_up_after_one_attempt_where_somebody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that it can be told of: eight silences of 10 s would be more than a minute."""
    moments = iter([0.0, 10.0])
    monkeypatch.setattr("lambdaml.storage.retry.time.monotonic", lambda: next(moments))

    class Silent(MemoryStore):
        def head(self, key: str) -> Any:
            raise StoreTimeout("head: no answer in time")

    with pytest.raises(StoreTimeout, match=r"no answer in time; gave up after 1 attempt in 10\.0 s"):
        store = Retrying(Metered(Silent("patient-7")), sleep=lambda seconds: pytest.fail("slept"))
        hasten(store)
        store.head("a")

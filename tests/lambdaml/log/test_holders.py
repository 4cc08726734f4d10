"""Who works on a run, as the store's dates tell: whatever the reader's clock says, and for few requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lambdaml
from lambdaml.errors import AccessDenied, SettingsError
from lambdaml.log import holders, keys
from lambdaml.log.holders import MAX_SKEW_S, last_of
from lambdaml.log.lease import Lease
from lambdaml.log.records import Commit, Entry
from lambdaml.log.usage import Usage
from lambdaml.run import Run
from lambdaml.settings import JobSettings, Settings
from lambdaml.storage import MemoryStore, Metered, MeterReading, ObjectInfo, Retrying
from lambdaml.storage.probe import store_time
from tests.lambdaml.lab import Tiny, memory

LEASE_S = 30.0


class Place:
    """A run whose store has a clock that only the tests move, and a reader whose clock is off by `skew_s`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, workers: int = 2) -> None:
        self.now = 1_000_000.0
        self.skew_s = 0.0
        self.writes = 0
        place = self

        class Watched(MemoryStore):
            def put(self, key: str, data: Any) -> None:
                place.writes += 1
                super().put(key, data)

        self.store = Watched(memory().name, clock=lambda: self.now)
        settings = Settings(
            job=JobSettings(spec="x"), workers=workers, steps=9, batch_size=1, samples=10, steps_per_epoch=2,
            parameters=1, snapshot_every=1, token="t",
        )  # fmt: skip
        self.store.create(keys.RUN, settings.dump())
        self.run = Run(self.store)
        monkeypatch.setattr("lambdaml.log.status.time.time", lambda: self.now + self.skew_s)

    def lease(self, worker: int, function: str, generation: int = 1, released: bool = False) -> None:
        self.store.create(keys.lease(worker, generation), Lease(worker, generation, function, LEASE_S, released).pack())

    def publish(self, worker: int, *seqs: int) -> None:
        for seq in seqs:
            self.store.create(keys.update(worker, seq), b"x")

    def commit(self, number: int, *fates: tuple[int, int]) -> None:
        entries = tuple(Entry(worker, seq, 0, 1, 1, 0.5, 0, 1.0 / len(fates)) for worker, seq in fates)
        self.store.create(keys.log(number), Commit(number, number, (entries,)).pack())

    def ended(self, function: str) -> None:
        self.store.create(keys.usage(function), Usage(function, 1.0, 0, MeterReading(), complete=True).dump())

    @property
    def functions(self) -> tuple[str, ...]:
        return self.run.status().functions

    def gc(self) -> str:
        try:
            self.run.gc()
        except SettingsError as error:
            return str(error)
        return ""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(monkeypatch)


@pytest.mark.parametrize("skew_s", [-MAX_SKEW_S, -45.0, 0.0, 45.0, 600.0, MAX_SKEW_S])
def test_a_lease_holds_by_the_stores_clock_whatever_the_readers_says(place: Place, skew_s: float) -> None:
    place.lease(0, "f0")
    place.skew_s = skew_s
    assert (place.run.status().state, place.functions) == ("running", ("f0",))
    assert "is being trained by f0" in place.gc()
    place.now += LEASE_S + 2
    assert place.gc() == ""
    if skew_s >= 0:
        assert place.run.status().state == "stopped"


def test_a_clock_that_is_late_makes_nobody_work_longer_than_the_store_shows(place: Place) -> None:
    place.lease(0, "f0")
    place.now += 2 * LEASE_S
    place.commit(0, (1, 0))  # its date is a lower bound of the store's time
    place.skew_s = -2 * LEASE_S
    assert place.run.status().state == "stopped"


def test_status_writes_only_where_clocks_may_decide(place: Place) -> None:
    place.lease(0, "f0")
    assert place.run.status().state == "running"
    assert place.writes == 0
    place.now += LEASE_S + MAX_SKEW_S + 10
    assert place.run.status().state == "stopped"
    assert place.writes == 0
    place.now -= MAX_SKEW_S
    assert place.run.status().state == "stopped"
    assert place.writes == 1
    assert not [info.key for info in place.store.list() if info.key.startswith("probe/")]


def test_who_may_not_write_believes_his_own_clock(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: MemoryStore, key: str, data: Any) -> None:
        raise AccessDenied("read only")

    monkeypatch.setattr(type(place.store), "put", refuse)
    place.lease(0, "f0")
    assert place.run.status().state == "running"
    place.skew_s = 45
    assert place.run.status().state == "stopped"
    with pytest.raises(AccessDenied):
        place.run.gc()


def test_a_lease_is_as_young_as_the_workers_newest_update(place: Place) -> None:
    place.lease(0, "f0")
    place.now += 100
    assert place.functions == ()
    place.publish(0, *range(40))
    assert place.functions == ("f0",)
    place.now += LEASE_S + 2
    place.commit(0, *[(0, seq) for seq in range(39)])
    assert place.functions == ()
    place.publish(0, 40, 41)
    assert place.functions == ("f0",)


def test_the_newest_update_is_found_where_gc_has_deleted_those_before(place: Place) -> None:
    place.lease(0, "f0")
    place.publish(0, *range(40))
    place.commit(0, *[(0, seq) for seq in range(40)])
    place.store.delete([keys.update(0, seq) for seq in range(40)])
    place.now += 100
    assert place.functions == ()
    place.publish(0, 40, 41, 42)
    assert place.functions == ("f0",)


def test_a_function_that_is_known_to_have_ended_holds_nothing(place: Place) -> None:
    place.lease(0, "f0")
    place.lease(1, "f1")
    place.ended("f0")
    assert place.functions == ("f1",)
    place.ended("f1")
    assert place.run.status().state == "stopped"
    assert place.gc() == ""


def test_released_and_superseded_leases_count_for_nothing(place: Place) -> None:
    place.lease(0, "f0")
    place.lease(0, "f1", 2)
    place.lease(1, "f2")
    place.lease(1, "f2", 2, released=True)
    assert place.functions == ("f1",)


def test_gc_right_after_a_run_that_ended_waits_for_nobody() -> None:
    url = memory().url
    lambdaml.train(Tiny, url, workers=2, steps=6, snapshot_every=2)
    assert Run(url).gc() > 0


def spent(store: MemoryStore, ask: Callable[[Run], object]) -> Mapping[str, int]:
    metered = Retrying(Metered(store))
    run = Run(metered)
    before = metered.meter.snapshot()
    ask(run)
    return (metered.meter.snapshot() - before).requests


@pytest.mark.parametrize("in_log", [True, False])
def test_a_status_costs_hardly_more_for_a_run_that_is_twenty_times_as_long(
    monkeypatch: pytest.MonkeyPatch, in_log: bool
) -> None:
    """With S3's pages; leases are so old that updates decide."""
    monkeypatch.setattr("lambdaml.storage.memory.LOCAL_PAGE", 1000)
    costs = []
    for length in (500, 10_000):
        place = Place(monkeypatch, workers=4)
        for worker in range(4):
            place.lease(worker, f"f{worker}")
        place.now += 100
        for worker in range(4):
            place.publish(worker, *range(length))
        if in_log:
            for number in range(length):
                place.commit(number, *[(worker, number) for worker in range(4)])
        requests = spent(place.store, lambda run: run.status())
        assert place.functions == ("f0", "f1", "f2", "f3")
        costs.append((requests.get("list", 0), sum(requests.values())))
    (lists, few), (lists_of_long, many) = costs
    assert lists == lists_of_long <= 5 + 4 * (not in_log), "two tell where the history begins, one what was changed"
    assert few <= many <= few + (12 if in_log else 50)
    assert many < (60 if in_log else 180)


def test_leases_on_many_pages_are_found_by_bisection(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    monkeypatch.setattr(holders, "BATCH", 10)
    for generation in range(1, 30):
        place.lease(0, "f0", generation)
    for generation in range(1, 8):
        place.lease(1, f"f{generation}", generation)
    assert place.functions == ("f0", "f7")


def test_a_run_of_more_workers_than_the_log_shows_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(monkeypatch, workers=40)
    for worker in range(40):
        place.lease(worker, f"f{worker}")
        place.publish(worker, *range(3))
    place.now += 100
    for number in range(100):
        place.commit(number, (number % 20, number // 20))
    for worker in range(20):
        place.publish(worker, 3, 4, 5)
    place.publish(39, 3)
    assert set(place.functions) == {*(f"f{worker}" for worker in range(20)), "f39"}


@given(st.integers(0, 300), st.integers(0, 40))
def test_the_last_of_what_has_no_gap_is_found(count: int, first: int) -> None:
    looks = []

    def look(number: int) -> ObjectInfo | None:
        looks.append(number)
        return ObjectInfo(str(number), 0, float(number)) if first <= number < first + count else None

    found = last_of(look, first)
    assert (found is None) == (count == 0)
    if found is not None:
        assert (found[0], found[1].key) == (first + count - 1, str(first + count - 1))
    assert len(looks) <= 2 * count.bit_length() + 2
    assert len(set(looks)) == len(looks)


def test_the_stores_time_leaves_nothing_behind() -> None:
    store = MemoryStore(memory().name, clock=lambda: 12345.0)
    assert store_time(store) == 12345.0
    assert list(store.list()) == []

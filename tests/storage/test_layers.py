"""What stands around a backend: the meter's sums, the waits between attempts, modelled time, faults on purpose."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.storage import (
    Faulty,
    MemoryStore,
    Metered,
    MeterReading,
    Retrying,
    Slow,
    StoreTimeout,
    StoreUnavailable,
    StoreUnfit,
    Throttled,
    check,
    open_store,
)
from lambdaml.storage.latency import PRESETS, parse_model
from lambdaml.storage.meter import Meter

COUNTS = st.dictionaries(st.sampled_from(["get", "put", "create_lost"]), st.integers(1, 10**9), max_size=3)
READINGS = st.builds(
    MeterReading,
    COUNTS,
    COUNTS,
    st.integers(0, 2**50),
    st.integers(0, 2**50),
    st.dictionaries(
        st.sampled_from(["get", "put"]),
        st.dictionaries(st.integers(0, 300), st.integers(1, 1000), min_size=1, max_size=5),
        max_size=2,
    ),
)


@given(READINGS, READINGS, READINGS)
def test_readings_add_and_subtract_like_numbers(a: MeterReading, b: MeterReading, c: MeterReading) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert (a + b) - b == a
    assert a + MeterReading() == a
    assert (a + b).total == a.total + b.total


@given(READINGS)
def test_a_reading_survives_json(reading: MeterReading) -> None:
    assert MeterReading.from_dict(json.loads(json.dumps(reading.to_dict()))) == reading


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=200), st.floats(0.01, 1))
def test_percentiles_are_true_to_the_width_of_a_bin(times: list[float], q: float) -> None:
    meter = Meter()
    for seconds in times:
        meter.answered("get", seconds)
    exact = sorted(times)[max(0, math.ceil(q * len(times) - 1e-9) - 1)]
    assert meter.snapshot().percentile_s("get", q) == pytest.approx(exact, rel=0.046)


def test_percentiles_of_nothing_are_nan() -> None:
    assert math.isnan(MeterReading().percentile_s("get", 0.5))


def test_each_request_is_counted_by_its_kind() -> None:
    store = open_store("memory://counted")
    store.create("a", b"123")
    store.create("a", b"4567")
    store.get("a")
    store.get("none")
    store.put("b", b"12345")
    store.get_range("b", 1, 2)
    store.get_range("none", 1, 2)
    store.head("b")
    before = store.meter.snapshot()
    list(store.list())
    store.get_many(["a", "b", "c"])
    store.delete(f"k{n}" for n in range(1500))
    assert before.requests == {
        "create": 1,
        "create_lost": 1,
        "get": 2,  # one of them settles the lost create
        "get_miss": 2,
        "put": 1,
        "get_range": 1,
        "head": 1,
    }
    assert before.bytes_sent == 3 + 4 + 5 and before.bytes_received == 3 + 3 + 2
    assert (store.meter.snapshot() - before).requests == {"list": 1, "get": 2, "get_miss": 1, "delete": 2}
    assert before.total == 9 and before.errors == {}
    assert sum(before.latency["get_miss"].values()) == 2 and sum(before.latency["get_range"].values()) == 1
    assert 0 < before.percentile_s("create", 0.99) < 0.1


class Failing(MemoryStore):
    """Fails so many times before it answers."""

    def __init__(self, name: str, *errors: Exception) -> None:
        super().__init__(name)
        self.errors = list(errors)

    def get(self, key: str):  # type: ignore[no-untyped-def]
        if self.errors:
            raise self.errors.pop(0)
        return super().get(key)


def test_waits_double_with_full_jitter_up_to_a_cap() -> None:
    asked: list[tuple[float, float]] = []
    slept: list[float] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high / 2

    errors = [Throttled("slow down")] * 12
    store = Retrying(Metered(Failing("w", *errors)), attempts=12, sleep=slept.append, uniform=uniform)
    with pytest.raises(Throttled, match=r"slow down; gave up after 12 attempts in \d"):
        store.get("k")
    assert [high for _, high in asked] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]
    assert slept == [high / 2 for _, high in asked]
    assert store.meter.snapshot().errors == {"get/Throttled": 12}


def test_it_tries_again_until_it_works() -> None:
    slept: list[float] = []
    store = Retrying(Metered(Failing("w2", StoreTimeout("t"), StoreUnavailable("u"))), sleep=slept.append)
    assert store.get("k") is None
    assert len(slept) == 2
    assert store.meter.snapshot().errors == {"get/StoreTimeout": 1, "get/StoreUnavailable": 1}


def test_errors_that_will_not_pass_are_raised_at_once() -> None:
    store = Retrying(Metered(Failing("w3", ValueError("no"))), sleep=lambda s: pytest.fail("slept"))
    with pytest.raises(ValueError, match="no"):
        store.get("k")


class Clock:
    """Stands in for `time` in the latency layer: sleeping takes no time, and all of it is known."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Watched(MemoryStore):
    """Notes when a request takes effect, and takes 2 ms for each."""

    def __init__(self, name: str, clock: Clock) -> None:
        super().__init__(name)
        self.clock = clock
        self.moments: list[float] = []

    def put(self, key: str, data) -> None:  # type: ignore[no-untyped-def]
        self._note()
        super().put(key, data)

    def get(self, key: str):  # type: ignore[no-untyped-def]
        self._note()
        return super().get(key)

    def _note(self) -> None:
        self.moments.append(self.clock.now - 100.0)
        self.clock.now += 0.002


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("lambdaml.storage.latency.time", clock)
    return clock


def test_a_request_takes_effect_halfway_and_takes_its_latency_and_transfer_in_all(clock: Clock) -> None:
    inner = Watched("effect", clock)
    store = Slow(inner, "40ms", "10MB/s")
    store.put("k", bytes(300_000))
    assert clock.now == pytest.approx(100.070)
    assert len(store.get("k") or b"") == 300_000
    assert clock.now == pytest.approx(100.140)
    assert store.get("none") is None
    assert clock.now == pytest.approx(100.180)
    assert list(store.list("k/")) == []
    assert clock.now == pytest.approx(100.220)
    assert inner.moments == pytest.approx([0.030 + 0.020, 0.070 + 0.020, 0.140 + 0.020])


def test_a_store_slower_than_the_model_is_not_slowed_further(clock: Clock) -> None:
    Slow(Watched("slower", clock), "1ms").get("k")
    assert clock.now == pytest.approx(100.0025)


def test_latency_is_real_time_in_the_calling_thread() -> None:
    store = open_store("memory://real?latency=30ms")
    begin = time.perf_counter()
    store.get("k")
    assert time.perf_counter() - begin >= 0.03
    assert store.meter.snapshot().percentile_s("get_miss", 0.5) >= 0.0285


def test_a_lognormal_latency_has_the_spread_it_says() -> None:
    store, model = Slow(MemoryStore("spread"), "s3-standard"), parse_model("s3-standard")
    drawn = sorted(model.latency_s("get", store._draws.unit("get", f"k{n}")) for n in range(4000))
    assert drawn[2000] == pytest.approx(model.read_s[0], rel=0.05)
    assert drawn[3960] == pytest.approx(model.read_s[1], rel=0.15)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_their_median_and_99th_percentile(name: str) -> None:
    model = parse_model(name)
    for op, (median, p99) in {"get": model.read_s, "create": model.write_s}.items():
        assert model.latency_s(op, 0.5) == pytest.approx(median)  # type: ignore[arg-type]
        assert model.latency_s(op, 0.99) == pytest.approx(p99)  # type: ignore[arg-type]
    assert parse_model(name, "1MB/s").transfer_s(500_000) == 0.5


def test_draws_follow_the_seed_and_the_key_not_the_order_of_threads() -> None:
    def failures(seed: int, keys: list[str]) -> set[str]:
        store = Faulty(MemoryStore("draws"), {"lost": 0.3}, seed)
        failed = set()
        for key in keys:
            try:
                store.get(key)
            except StoreUnavailable:
                failed.add(key)
        return failed

    keys = [f"k{n}" for n in range(300)]
    once = failures(1, keys)
    assert failures(1, keys[::-1]) == once != failures(2, keys)
    assert 50 < len(once) < 130


def test_faults_have_the_effect_they_are_named_for() -> None:
    for name, error, written in [
        ("slowdown", Throttled, False),
        ("timeout", StoreTimeout, True),
        ("lost", StoreUnavailable, True),
    ]:
        inner = MemoryStore(f"fault-{name}")
        store = Faulty(inner, {name: 1.0})
        for write in (store.put, store.try_create):
            with pytest.raises(error):
                write(write.__name__, b"x")
            assert (inner.get(write.__name__) is not None) is written
        with pytest.raises(error):
            store.get("put")
    begin = time.perf_counter()
    Faulty(MemoryStore("fault-slow"), {"slow": 1.0}).put("k", b"")
    assert time.perf_counter() - begin >= 0.2


def test_damage_strikes_what_is_read_and_leaves_what_is_stored() -> None:
    inner, data = MemoryStore("fault-damage"), bytes(range(200))
    store = Faulty(inner, {"damage": 1.0})
    store.put("k", data)
    found = [bytes(store.get("k") or b"") for _ in range(200)]
    assert data not in found
    cut = [each for each in found if len(each) < len(data)]
    assert 25 < len(cut) < 75
    assert all(data.startswith(each) for each in cut)
    for each in found:
        if len(each) == len(data):
            assert sum((a ^ b).bit_count() for a, b in zip(data, each, strict=True)) == 1
    assert bytes(store.get_range("k", 0, 50) or b"") != data[:50]
    assert inner.get("k") == data
    assert store.get("none") is None
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert [info.size_bytes for info in store.list()] == [0, 200]
    assert store.try_create("k", b"") is False


def test_a_store_that_damages_a_read_now_and_then_is_not_blamed_for_its_creates() -> None:
    for seed in range(60):
        store = Retrying(Metered(Faulty(MemoryStore(f"fit-{seed}"), {"damage": 0.1}, seed)))
        check(store)
    with pytest.raises(StoreUnfit, match="changed the object"):
        check(Retrying(Metered(Faulty(MemoryStore("unfit"), {"damage": 1.0}))))


def test_creates_that_lost_their_answer_settle_without_sending_the_bytes_again() -> None:
    store = Retrying(Metered(Faulty(MemoryStore("settle"), {"lost": 0.5}, seed=5)), sleep=lambda s: None)
    results = [store.create(f"k{n}", b"mine %d" % n) for n in range(50)]
    assert results == [None] * 50
    assert all(bytes(store.get(f"k{n}") or b"") == b"mine %d" % n for n in range(50))
    reading = store.meter.snapshot()
    assert reading.errors["create/StoreUnavailable"] > 10 and reading.errors["get/StoreUnavailable"] > 0


def test_lists_go_on_where_they_broke_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambdaml.storage.memory.LOCAL_PAGE", 10)
    inner = MemoryStore("broken-list")
    for n in range(200):
        inner.put(f"{n:03d}", b"")
    store = Retrying(Metered(Faulty(inner, {"lost": 0.4}, seed=1)), sleep=lambda s: None)
    assert [info.key for info in store.list()] == [f"{n:03d}" for n in range(200)]
    assert store.meter.snapshot().errors["list/StoreUnavailable"] > 2


def test_all_parameters_stand_in_the_url() -> None:
    url = "memory://p?latency=s3-express&bandwidth=65MB/s&latency_seed=3&faults=lost:0.01,slow:0.002&faults_seed=7"
    store = open_store(url)
    assert store.url == url
    assert (store.shared, store.ephemeral, store.near) == (False, True, False)

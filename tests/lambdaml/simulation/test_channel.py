"""Stores as the virtual world sees them."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.errors import SettingsError
from lambdaml.simulation.channel import CHANNELS, Channel, Pipe, TokenBucket
from lambdaml.storage import Meter
from lambdaml.storage.latency import PRESETS, LatencyModel
from lambdaml.storage.meter import BINS_PER_OCTAVE, MeterReading

BIN = 2 ** (1 / BINS_PER_OCTAVE)


def metered(seconds: dict[str, list[float]]) -> MeterReading:
    meter = Meter()
    for kind, latencies in seconds.items():
        for latency in latencies:
            meter.answered(kind, latency)
    return meter.snapshot()


@pytest.mark.parametrize("name", CHANNELS)
def test_drawn_latencies_have_the_median_and_tail_of_their_preset(name: str) -> None:
    channel, uniform = Channel.parse(name), Random(1).random
    model = PRESETS[name]
    for kind, (median, p99) in {
        "get": model.read_s,
        "get_miss": model.read_s,
        "list": model.read_s,
        "put": model.write_s,
        "create_lost": model.write_s,
    }.items():
        drawn = sorted(channel.latency_s(kind, uniform()) for _ in range(4000))
        assert drawn[2000] == pytest.approx(median, rel=0.1)
        assert drawn[3960] == pytest.approx(p99, rel=0.25)


def test_a_generator_that_gives_zero_or_one_gives_a_finite_latency() -> None:
    for channel in (Channel.parse("s3-standard"), Channel.measured(metered({"get": [0.01, 0.02]}))):
        assert 0 < channel.latency_s("get", 0.0) < channel.latency_s("get", 1.0) < math.inf


def test_presets_of_channels_and_of_store_urls_are_the_same() -> None:
    assert CHANNELS.keys() == PRESETS.keys()


def test_published_constants() -> None:
    lambdaml, cache = Channel.parse("lambdaml-s3"), Channel.parse("lambdaml-elasticache")
    assert [lambdaml.latency_s("get", 0.3), lambdaml.transfer_s(65_000_000)] == [0.08, 1.0]
    assert [cache.latency_s("put", 0.9), cache.transfer_s(630_000_000)] == [0.01, 1.0]
    s3, redis = Channel.parse("fmi-s3"), Channel.parse("fmi-redis")
    assert [s3.latency_s("put", 0.5), s3.transfer_s(50_000_000)] == [0.0404, 1.0]
    assert [redis.latency_s("get", 0.5), redis.transfer_s(100_000_000)] == [0.0052, 1.0]


def test_s3_is_limited_by_the_direction_of_a_request() -> None:
    s3 = Channel.parse("s3-standard")
    assert [s3.limit_per_s(kind) for kind in ("get", "head", "list", "put", "create_lost")] == [5500] * 3 + [3500] * 2


def test_a_measured_channel_has_the_percentiles_of_its_meter_within_a_bin() -> None:
    random = Random(3)
    reading = metered({kind: [random.lognormvariate(-4, 1) for _ in range(2000)] for kind in ("get", "create")})
    channel = Channel.measured(reading, bandwidth_bytes_per_s=80e6)
    for kind in ("get", "create"):
        drawn = sorted(channel.latency_s(kind, random.random()) for _ in range(20_000))
        for q in (0.05, 0.25, 0.5, 0.9, 0.99):
            assert 1 / BIN <= channel.latency_s(kind, q) / reading.percentile_s(kind, q) <= BIN
            assert drawn[int(q * 20_000)] == pytest.approx(channel.latency_s(kind, q), rel=0.2)
    assert channel.transfer_s(8_000_000) == 0.1


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_measured_latencies_rise_with_the_quantile_and_stay_where_the_meter_saw_some(
    seen: list[float], low: float, high: float
) -> None:
    channel = Channel.measured(metered({"get": seen}))
    latencies = [channel.latency_s("get", unit) for unit in sorted((low, high))]
    assert latencies == sorted(latencies)
    assert min(seen) / BIN - 1e-9 <= latencies[0]
    assert latencies[1] <= max(seen) * BIN + 1e-9


def test_a_kind_that_the_meter_did_not_see_is_as_slow_as_its_direction() -> None:
    channel = Channel.measured(metered({"get": [0.01], "put": [1.0]}))
    assert channel.latency_s("get_miss", 0.5) == channel.latency_s("get", 0.5) == pytest.approx(0.01, rel=0.1)
    assert channel.latency_s("create_lost", 0.5) == channel.latency_s("put", 0.5) == pytest.approx(1.0, rel=0.1)
    only_reads = Channel.measured(metered({"get": [0.01]}))
    assert only_reads.latency_s("create", 0.5) == only_reads.latency_s("get", 0.5)
    with pytest.raises(ValueError, match="no answered request"):
        Channel.measured(MeterReading())


def test_a_measured_channel_takes_the_limits_of_another() -> None:
    reading = metered({"get": [0.01]})
    assert Channel.measured(reading, like=Channel.parse("s3-standard")).limit_per_s("put") == 3500
    assert Channel.measured(reading).limit_per_s("get") is None


def test_options_change_a_preset_and_a_time_is_a_channel() -> None:
    s3 = Channel.parse("s3-standard:bandwidth=40MB/s,writes_per_s=10")
    assert (s3.bandwidth_bytes_per_s, s3.writes_per_s, s3.reads_per_s) == (40e6, 10, 5500)
    plain = Channel.parse("40ms")
    assert plain == Channel("40ms", LatencyModel((0.04, 0.04), (0.04, 0.04)))
    assert plain.transfer_s(10**9) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3-standrad", r"did you mean s3-standard"),
        ("lambdaml", r"did you mean lambdaml-s3"),
        ("40", r"time like 40ms"),
        ("", r"time like 40ms"),
        ("s3-standard:bandwidth=fast", r"like 65MB/s"),
        ("s3-standard:speed=1", r"no option 'speed'.*bandwidth"),
        ("s3-standard:40MB/s", r"no option '40MB/s'"),
        ("s3-standard:reads_per_s=many", r"reads_per_s must be a number"),
        ("s3-standard:reads_per_s=0", r"no request at all"),
    ],
)
def test_a_mistake_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        Channel.parse(text)
    assert "\n" not in str(caught.value)


@given(
    rate=st.floats(0.5, 5000),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_no_window_passes_more_than_the_burst_and_the_rate(rate: float, burst: int, gaps: list[float]) -> None:
    bucket = TokenBucket(rate, burst)
    now, passed = 0.0, []
    for gap in gaps:
        now += gap
        if bucket.take(now):
            passed.append(now)
    for first, begin in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + rate * (passed[last] - begin) + 1e-3


def test_a_full_bucket_passes_its_burst_at_once_and_then_the_rate() -> None:
    bucket = TokenBucket(10, burst=5)
    assert [bucket.take(0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [bucket.take(0.1 * n) for n in range(1, 30)] == [True] * 29
    assert not bucket.take(2.9)
    assert [bucket.take(60.0) for _ in range(6)] == [True] * 5 + [False]


def test_the_default_burst_is_one_second() -> None:
    bucket = TokenBucket(100)
    assert sum(bucket.take(5.0) for _ in range(300)) == 100


@given(
    transfers=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 10**7)), min_size=1, max_size=50),
    connection=st.sampled_from([1e6, 5e7, math.inf]),
)
def test_a_pipe_moves_no_more_than_its_bandwidth_and_is_not_idle_while_bytes_wait(
    transfers: list[tuple[float, int]], connection: float
) -> None:
    bandwidth = 1e7
    pipe = Pipe(bandwidth)
    now, busy_until = 0.0, 0.0
    for gap, size in transfers:
        now += gap
        busy_until = max(now, busy_until) + size / bandwidth
        end = pipe.finish(now, size, connection)
        assert end == pytest.approx(max(busy_until, now + size / connection), abs=1e-8)
    assert pipe.free_at == pytest.approx(busy_until)


def test_one_connection_is_as_fast_as_it_is_alone_and_many_share() -> None:
    assert Pipe(80e6).finish(1.0, 40_000_000, 40e6) == 2.0
    shared = Pipe(80e6)
    assert [shared.finish(0.0, 40_000_000, 40e6) for _ in range(4)] == [1.0, 1.0, 1.5, 2.0]
    assert Pipe().finish(3.0, 10**9) == 3.0

"""Functions as the virtual world sees them."""

from __future__ import annotations

import math
from random import Random
from statistics import fmean, pstdev

import pytest

from lambdaml.errors import SettingsError
from lambdaml.simulation.platform import PLATFORMS, Platform


@pytest.mark.parametrize("name", PLATFORMS.factories)
@pytest.mark.parametrize("warm", [False, True])
def test_drawn_starts_have_the_median_and_tail_of_their_platform(name: str, warm: bool) -> None:
    platform, uniform = Platform.parse(name), Random(1).random
    assert platform.name == name
    median, p99 = platform.warm_start_s if warm else platform.cold_start_s
    drawn = sorted(platform.start_s(uniform, warm=warm) for _ in range(4000))
    assert drawn[2000] == pytest.approx(median, rel=0.05)
    assert drawn[3960] == pytest.approx(p99, rel=0.15)


def test_lambdaml_published_when_so_many_functions_had_started() -> None:
    published = Platform.parse("lambdaml-2021")
    assert [published.start_delay_s(w - 1) for w in (10, 50, 100, 200)] == [1.2, 11.0, 18.0, 35.0]
    assert [published.start_delay_s(w - 1) for w in (1, 30, 75, 300)] == [1.2, 6.1, 14.5, 52.0]
    assert published.start_s(Random(1).random) == 0


def test_lambda_starts_a_thousand_at_once_and_then_a_hundred_a_second() -> None:
    today = Platform.parse("lambda-arm")
    assert [today.start_delay_s(index) for index in (0, 999, 1000, 1999, 4999)] == [0, 0, 0.01, 10, 40]


def test_managed_instances_are_three_and_double_every_five_minutes() -> None:
    managed = Platform.parse("managed")
    assert [managed.start_delay_s(n - 1) for n in (1, 3, 6, 12, 24, 96)] == [0, 0, 300, 600, 900, 1500]
    assert managed.start_delay_s(17) == 750  # half way from 12 to 24


def test_a_ramp_never_falls() -> None:
    for name in PLATFORMS.factories:
        delays = [Platform.parse(name).start_delay_s(index) for index in range(3000)]
        assert delays == sorted(delays)
        assert delays[0] >= 0


@pytest.mark.parametrize(
    ("memory_mb", "one", "four"), [(884, 0.4997, 0.4997), (1769, 1, 1), (3538, 1, 2), (10_240, 1, 4)]
)
def test_memory_buys_speed_up_to_what_the_threads_can_use(memory_mb: int, one: float, four: float) -> None:
    function = Platform.parse(f"lambda-x86:{memory_mb}")
    assert function.speed() == pytest.approx(one, abs=1e-4)
    assert function.speed(4) == pytest.approx(four, abs=1e-4)
    assert function.speed(64) <= 6


def test_other_platforms_run_one_thread_at_full_speed() -> None:
    assert [Platform.parse(name).speed() for name in ("local", "spot", "lambdaml-2021")] == [1, 1, 1]
    assert Platform.parse("spot").speed(8) == 2


def test_preemptions_are_exponential_and_where_there_are_none_never_come() -> None:
    random = Random(2)
    lives = [Platform.parse("spot:3600").preemption_s(random.random) for _ in range(20_000)]
    assert fmean(lives) == pytest.approx(3600, rel=0.03)
    assert pstdev(lives) == pytest.approx(3600, rel=0.05)
    for name in ("local", "lambda-arm"):
        assert Platform.parse(name).preemption_s(random.random) == math.inf
        assert Platform.parse(name).preemption_s(lambda: 0.0) == math.inf


def test_limits_can_be_given() -> None:
    local = Platform.parse("local:60,preemption_mean_s=300,notice_s=5")
    assert (local.lifetime_s, local.preemption_mean_s, local.notice_s) == (60, 300, 5)
    assert Platform.parse("lambda-arm:3008,lifetime_s=120").lifetime_s == 120
    assert [Platform.parse(name).lifetime_s for name in ("microvm", "managed", "durable")] == [28_800, 5400, 900]
    assert [Platform.parse(name).vcpus for name in ("microvm:512", "fargate:8192", "cloud-run", "managed")] == [
        0.25,
        4,
        1,
        2,
    ]
    assert (Platform.parse("spot").notice_s, Platform.parse("lambda-x86").lifetime_s) == (120, 900)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lambda-amr", r"no platform 'lambda-amr'.*'lambda-arm'"),
        ("lambda-arm:64", r"128 to 10240 MB, not 64"),
        ("lambdaml-2021:0", r"128 to 10240 MB, not 0"),
        ("lambda-arm:big", r"memory_mb must be of type int"),
        ("lambda-arm:lifetime_s=901", r"after 900 s"),
        ("lambda-arm:lifetime_s=0", r"lifetime_s must be positive"),
        ("spot:0", r"preemption_mean_s must be positive"),
        ("spot:nan", r"preemption_mean_s must be positive"),
        ("spot:notice_s=-1", r"notice_s must not be negative"),
    ],
)
def test_a_mistaken_platform_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        Platform.parse(text)
    assert "\n" not in str(caught.value)

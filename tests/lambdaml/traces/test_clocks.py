"""Clock differences: bounded by what must have come before what."""

from __future__ import annotations

import math
import random

import pytest

from lambdaml.traces.clocks import DATE_S, Clocks, Offset

CLOSE = {"abs": 1e-5}


def test_a_clock_is_itself() -> None:
    assert Clocks(["a"]).offset("a", "a") == Offset(0.0, 0.0)


def test_traffic_in_both_directions_bounds_a_pair_by_its_round_trip() -> None:
    """b's clock shows 100 s more than a's; messages take 1 s there and 3 s back."""
    clocks = Clocks("ab")
    clocks.order("a", 10.0, "b", 111.0)
    clocks.order("b", 120.0, "a", 23.0)
    found = clocks.offset("a", "b")
    assert found is not None
    assert (found.seconds, found.uncertainty_s) == (pytest.approx(99.0, **CLOSE), pytest.approx(2.0, **CLOSE))
    back = clocks.offset("b", "a")
    assert back is not None and (back.seconds, back.uncertainty_s) == (-found.seconds, found.uncertainty_s)


def test_one_direction_alone_gives_an_estimate_without_a_bound() -> None:
    clocks = Clocks("abc")
    clocks.order("a", 10.0, "b", 111.0)
    assert clocks.offset("a", "b") == Offset(pytest.approx(101.0, **CLOSE), math.inf)
    assert clocks.offset("a", "c") is clocks.offset("a", "nobody") is None


def test_dates_of_the_store_bound_clocks_that_never_met() -> None:
    clocks = Clocks("ab")
    clocks.dated("a", 5.0, 5.2, 1000.15)
    clocks.dated("b", 70.0, 70.1, 1000.05)
    found = clocks.offset("a", "b")  # a's 5.0 ... 5.2 is b's 70.1 ... 70.2, give or take the dates' lag
    assert found is not None
    assert found.uncertainty_s == pytest.approx((0.3 + 2 * DATE_S) / 2, **CLOSE)
    assert abs(found.seconds - 65.0) <= found.uncertainty_s


def test_a_date_in_whole_seconds_may_lag_by_one() -> None:
    clocks = Clocks("ab")
    clocks.dated("a", 0.0, 0.0, 1000.0)
    clocks.dated("b", 0.0, 0.0, 1000.5)
    found = clocks.offset("a", "b")
    assert found is not None and found.uncertainty_s == pytest.approx((1.0 + DATE_S) / 2, **CLOSE)


@pytest.mark.parametrize("seed", range(20))
def test_the_truth_lies_within_the_bounds_however_events_fall(seed: int) -> None:
    chance = random.Random(seed)
    names = [f"f{number}" for number in range(5)]
    offset = {name: chance.uniform(-1e4, 1e4) for name in names}
    clocks = Clocks(names)
    for _ in range(60):
        first, second = chance.sample(names, 2)
        moment = chance.uniform(0, 100)
        clocks.order(first, moment + offset[first], second, moment + chance.expovariate(10) + offset[second])
    pairs = [(a, b) for a in names for b in names if a != b]
    for a, b in pairs:
        found = clocks.offset(a, b)
        assert found is not None and found.uncertainty_s < 1.0
        assert abs(found.seconds - (offset[b] - offset[a])) <= found.uncertainty_s


def test_clocks_that_drift_apart_are_given_the_room_they_need() -> None:
    clocks = Clocks("ab")
    clocks.order("a", 0.0, "b", 0.001)
    clocks.order("b", 1000.0, "a", 999.96)  # a has lost 40 ms meanwhile
    found = clocks.offset("a", "b")
    assert found is not None
    assert found.seconds == pytest.approx(0.02, abs=0.001)
    assert found.uncertainty_s < 0.05

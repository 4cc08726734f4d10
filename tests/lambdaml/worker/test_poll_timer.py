"""When to look: few looks that miss, and never long pauses."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.worker.poll_timer import FLOATS, Backoff, PollTimer

LATENCY = 0.04


def test_nothing_is_expected_before_anything_was_said() -> None:
    pace = PollTimer(FLOATS)
    assert pace.delay_s() is None
    pace.looked(0.3, LATENCY)
    assert pace.delay_s() is None


def test_one_slow_object_does_not_delay_the_next_looks() -> None:
    pace = PollTimer(FLOATS)
    for duration in (0.1, 0.1, 9.0, 0.1, 0.1):
        pace.said(duration)
    assert pace.delay_s() == 0.1


def test_a_writer_that_became_slower_is_believed_within_three_objects() -> None:
    pace = PollTimer(FLOATS)
    for duration in (0.1,) * 5 + (0.4,) * 3:
        pace.said(duration)
    assert pace.delay_s() == 0.4


@given(st.lists(st.tuples(st.just(0.0) | st.floats(0, 10), st.floats(0, 10)), max_size=60))
def test_a_look_is_never_in_the_past_nor_much_later_than_writers_were_ever_late(
    seen: list[tuple[float, float]],
) -> None:
    pace = PollTimer(FLOATS)
    for late_s, duration in seen:
        pace.said(duration)
        pace.looked(late_s, LATENCY)
        delay = pace.delay_s()
        assert delay is not None
        worst = max([LATENCY, *[late for late, _ in seen]])
        assert 0 <= delay <= max(d for _, d in seen) + 4 * worst


def test_misses_make_looks_later_and_hits_make_them_earlier() -> None:
    late, early = PollTimer(FLOATS), PollTimer(FLOATS)
    for pace, late_s in ((late, 0.01), (early, 0.0)):
        pace.said(1.0)
        pace.looked(late_s, LATENCY)
    assert (late.delay_s() or 0) > 1.0 > (early.delay_s() or 0)


@pytest.mark.parametrize("jitter_s", [0.1 * LATENCY, LATENCY])
def test_among_writers_of_an_even_pace_about_one_first_look_in_seven_misses(jitter_s: float) -> None:
    pace, source = PollTimer(FLOATS), random.Random(3)
    pace.said(1.0)
    misses = 0
    for _ in range(4000):
        duration = 1.0 + source.gauss(0, jitter_s)
        late_s = duration - (pace.delay_s() or 0)
        misses += late_s > 0
        pace.looked(max(0.0, late_s), LATENCY)
        pace.said(duration)
    assert 0.05 < misses / 4000 < 0.25


def test_what_a_guess_is_wrong_by_is_at_least_a_look_and_forgets_a_single_delay() -> None:
    pace = PollTimer(FLOATS)
    assert pace.scale_s(LATENCY) == LATENCY
    pace.said(1.0)
    pace.looked(1.0, LATENCY)
    assert pace.scale_s(LATENCY) > LATENCY
    for _ in range(60):
        pace.looked(0.0, LATENCY)
    assert pace.scale_s(LATENCY) == LATENCY


def test_a_writer_that_was_restarted_does_not_count_as_late() -> None:
    pace = PollTimer(FLOATS)
    pace.said(0.1)
    pace.looked(1000.0, LATENCY)
    assert pace.scale_s(LATENCY) < 0.1


@given(st.floats(0, 100), st.lists(st.floats(0, 1, exclude_max=True), min_size=30, max_size=60))
def test_pauses_grow_and_are_capped(latency: float, draws: list[float]) -> None:
    backoff = Backoff(FLOATS, latency, cap_s=5.0)
    pauses = [backoff.next_s(draw) for draw in draws]
    assert all(0 < pause <= 5.0 * 1.25 for pause in pauses[1:])
    assert pauses[0] <= max(0.001, latency / 4) * 1.25
    assert pauses[-1] >= 5.0 * 0.75


def test_the_first_pause_is_capped_too() -> None:
    assert Backoff(FLOATS, 1000.0, cap_s=5.0).next_s(0.0) <= 5.0 * 1.25


def test_pauses_are_jittered() -> None:
    assert len({Backoff(FLOATS, 0.04).next_s(draw / 10) for draw in range(10)}) == 10

"""Effective staleness against closed forms, and against the roots of the mean recursion."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lambdaml.traces.effective import effective_staleness


@pytest.mark.parametrize("delay", [0, 1, 3, 7, 20, 63])
def test_a_constant_delay_is_itself(delay: int) -> None:
    assert effective_staleness([[delay]] * 50) == pytest.approx(delay, rel=0.02, abs=0.02)


@pytest.mark.parametrize("size", [2, 4, 7, 16])
def test_a_burst_from_one_version_is_one_long_step(size: int) -> None:
    breaks_at = 2 / size
    same = (math.pi / math.asin(breaks_at / 2) - 2) / 4
    assert effective_staleness([[late] for late in range(size)] * 20) == pytest.approx(same, rel=0.03)


def test_scattered_delays_weigh_less_than_their_mean() -> None:
    """Delays drawn anew for every step: the mean of x follows z - 1 + a E z^-delay = 0, whose roots must lie within
    the unit circle."""
    delays = np.arange(13)
    steps = np.random.default_rng(0).choice(delays, 4000)
    found = effective_staleness([[int(late)] for late in steps])
    angle = np.linspace(1e-3, math.pi / 2, 100_000)
    a = (1 - np.exp(1j * angle)) / np.exp(-1j * np.outer(angle, delays)).mean(1)
    crossings = np.flatnonzero(np.diff(np.sign(a.imag)))
    least = min(a.real[place] for place in crossings if a.real[place] > 0)
    assert found == pytest.approx((math.pi / math.asin(least / 2) - 2) / 4, rel=0.1)
    assert found < 0.9 * steps.mean()


def test_updates_of_one_step_are_averaged() -> None:
    """Of delays 2 and 4 side by side: that of 3, times a cosine of its frequency."""
    breaks_at = 2 * math.sin(math.pi / 14) / math.cos(math.pi / 7)
    same = (math.pi / math.asin(breaks_at / 2) - 2) / 4
    assert effective_staleness([[2, 4]] * 40) == pytest.approx(same, rel=0.02)
    assert effective_staleness([[3, 3, 3]] * 40) == pytest.approx(3, rel=0.02)


def test_nothing_stale_is_zero() -> None:
    assert effective_staleness([]) == effective_staleness([[0], [0, 0]]) == effective_staleness([[], [0]]) == 0.0

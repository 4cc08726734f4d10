"""SkewScout climbs down its objective, which weighs the accuracy lost against the bytes sent."""

from __future__ import annotations

from typing import Any

import pytest

from lambdaml.errors import SettingsError
from lambdaml.tuners import TUNERS, Knob, Observation

KNOB = Knob("threshold", 0.4)


def values(spec: str, seen: list[tuple[float, float]]) -> list[float]:
    """The values after each observation, of an accuracy loss and of what was sent."""
    tuner, state, found = TUNERS.make(spec), dict[str, Any](), []
    for loss, sent in seen:
        state, value = tuner.turn(KNOB, state, Observation(loss, sent))
        found.append(round(value, 6))
    return found


def test_less_is_sent_as_long_as_the_accuracy_loss_costs_nothing_and_no_further_than_the_span() -> None:
    assert values("skewscout:factor=2,span=8", [(0.05, 0.5), (0.0, 0.3), (0.0, 0.1), (0.0, 0.05)]) == [
        0.8,
        1.6,
        3.2,
        3.2,
    ]


def test_more_is_sent_until_the_accuracy_loss_costs_less_than_the_bytes() -> None:
    assert values("skewscout:factor=2", [(0.5, 0.01), (0.2, 0.05), (0.06, 0.5), (0.04, 0.9)]) == [0.2, 0.1, 0.05, 0.05]


def test_a_value_that_was_worse_is_not_tried_again_until_it_is_forgotten() -> None:
    good, bad = (0.0, 0.2), (0.5, 0.1)
    assert values("skewscout:factor=2,memory=4", [good, bad, *[good] * 5]) == [0.8, 0.4, 0.4, 0.4, 0.4, 0.8, 1.6]


def test_a_value_at_which_more_was_sent_for_nothing_is_left_again() -> None:
    """One accuracy point beyond the loss that is free costs half of the whole model's bytes."""
    assert values("skewscout:factor=2", [(0.052, 0.1), (0.0, 0.5)]) == [0.2, 0.4]


def test_a_span_of_one_leaves_the_knob_alone() -> None:
    assert values("skewscout:span=1", [(0.0, 0.5), (0.9, 0.5), (0.0, 0.1)]) == [0.4] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("every=1", "every must be 2 or more"),
        ("loss=2", "loss must lie between 0 and 1"),
        ("factor=1", "factor must be greater than 1"),
        ("span=0.5", "span at least 1"),
        ("samples=0", "samples must be 1 or more"),
        ("threshold=3", "not 'threshold=3'"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(options: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        TUNERS.make(f"skewscout:{options}")
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)

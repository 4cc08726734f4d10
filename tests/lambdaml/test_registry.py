"""Names with parameters."""

from __future__ import annotations

from typing import Any

import pytest

from lambdaml.errors import SettingsError
from lambdaml.log.state import LogState
from lambdaml.registry import Registry
from lambdaml.schedules import SCHEDULES
from lambdaml.schedules.quorum import Quorum
from lambdaml.staleness import RULES


def thing(k: int, rate: float = 0.5, mode: str = "fast") -> tuple[int, float, str]:
    if k > 100:
        raise ValueError("k is beyond all reason")
    return k, rate, mode


def plain() -> str:
    return "plain"


def wrapped(steps: int, outer: str = "average", inner: str = "anew", rate: float = 0.5) -> tuple[int, str, str, float]:
    return steps, outer, inner, rate


THINGS: Registry[Any] = Registry("thing", {"thing": f"{__name__}:thing", "plain": f"{__name__}:plain"})
WRAPPED: Registry[Any] = Registry("wrapped thing", {"wrapped": f"{__name__}:wrapped"})


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("plain", "plain"),
        ("thing:3", (3, 0.5, "fast")),
        ("thing:3,0.25", (3, 0.25, "fast")),
        ("thing:3,mode=slow", (3, 0.5, "slow")),
        ("thing:k=3,rate=1e-3", (3, 0.001, "fast")),
        ("thing:-3", (-3, 0.5, "fast")),
    ],
)
def test_a_name_and_its_parameters_make_the_thing(spec: str, expected: Any) -> None:
    assert THINGS.make(spec) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("20,outer=nesterov:0.7,0.9,inner=keep", (20, "nesterov:0.7,0.9", "keep", 0.5)),
        ("20,outer=nesterov:lr=0.7,momentum=0.9", (20, "nesterov:lr=0.7,momentum=0.9", "anew", 0.5)),
        ("20,outer=nesterov:0.7,inner=keep:2,3,rate=0.25", (20, "nesterov:0.7", "keep:2,3", 0.25)),
        ("outer=nesterov:0.7,0.9,steps=20", (20, "nesterov:0.7,0.9", "anew", 0.5)),
        ("20,outer=sum:of=mean:1,2,rate=0.25", (20, "sum:of=mean:1,2", "anew", 0.25)),
        ("20,outer=average,keep", (20, "average", "keep", 0.5)),
        ("20,outer=a=b", (20, "a=b", "anew", 0.5)),
    ],
)
def test_a_value_with_a_colon_is_a_spec_itself_and_ends_where_a_parameter_of_the_outer_one_is_named(
    spec: str, expected: Any
) -> None:
    assert WRAPPED.make(f"wrapped:{spec}") == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("20,outer=nesterov:0.7,0.9,outer=average", r"outer is given twice"),
        ("20,rate=fast:1,2", r"rate must be of type float, not 'fast:1,2'"),
        ("20,nesterov:lr=0.7,0.9", r"takes steps, outer, inner, rate, not 'nesterov:lr=0.7'"),
        ("20,outer=nesterov:0.7,0.9,inner=", r"takes steps, outer, inner, rate, not 'inner='"),
        ("20,=keep", r"takes steps, outer, inner, rate, not '=keep'"),
    ],
)
def test_a_mistake_beside_a_spec_in_a_spec_is_refused_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        WRAPPED.make(f"wrapped:{spec}")
    assert "\n" not in str(caught.value)


def test_options_are_values_for_more_parameters() -> None:
    assert THINGS.make("thing:3", {"rate": 0.25, "mode": "slow"}) == (3, 0.25, "slow")
    with pytest.raises(SettingsError, match=r"thing 'plain' takes no option 'rate'"):
        THINGS.make("plain", {"rate": 0.25})


def test_what_options_give_the_name_does_not() -> None:
    assert THINGS.make("thing:0.25", {"k": 3}) == (3, 0.25, "fast")
    with pytest.raises(SettingsError, match=r"thing takes rate, mode, not 'k=4'"):
        THINGS.make("thing:k=4", {"k": 3})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("think:3", r"no thing 'think'.*'thing'"),
        ("", r"no thing ''.*plain, thing"),
        ("zebra", r"there is: plain, thing"),
        ("thing", r"'thing' needs k"),
        ("thing:", r"needs k"),
        ("thing:mode=slow", r"needs k"),
        ("thing:three", r"k must be of type int, not 'three'"),
        ("thing:2.5", r"k must be of type int"),
        ("thing:3,0.5,slow,more", r"takes k, rate, mode, not 'more'"),
        ("thing:3,speed=4", r"takes k, rate, mode, not 'speed=4'"),
        ("thing:3,k=4", r"'thing:3,k=4'.*k"),
        ("plain:1", r"takes no parameters, not '1'"),
        ("thing:101", r"beyond all reason"),
        ("thing:3,", r"thing:3,"),
    ],
)
def test_a_mistake_is_refused_in_one_line_that_names_it(spec: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        THINGS.make(spec)
    assert "\n" not in str(caught.value)


def test_the_real_registries_make_what_they_list() -> None:
    parameters = {"ssp": ":2", "cohort": ":2", "groups": ":2", "pipeline": ":1", "quorum": ":2", "discard": ":3"}
    for name in SCHEDULES.factories:
        assert SCHEDULES.make(name + parameters.get(name, "")).deterministic in (True, False)
    for name in RULES.factories:
        assert RULES.make(name + parameters.get(name, "")).weight(0, LogState(4, 10)) == 1.0


def test_a_quorum_with_an_option() -> None:
    made = SCHEDULES.make("quorum:3,late=weight")
    assert isinstance(made, Quorum)
    assert (made.k, made.late) == (3, "weight")


def test_an_unknown_schedule_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(SettingsError, match=r"no schedule 'bps'.*'bsp'"):
        SCHEDULES.make("bps")

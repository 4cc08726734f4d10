"""Slow functions in the virtual world."""

from __future__ import annotations

import math
from random import Random
from statistics import fmean, pstdev

import pytest

from lambdaml.errors import SettingsError
from lambdaml.simulation.stragglers import STRAGGLERS


@pytest.mark.parametrize("spec", ["none", "lognormal:0", "lognormal:0.5", "pareto:3", "spread:0.4"])
def test_stragglers_take_as_long_on_average_as_functions_without(spec: str) -> None:
    stragglers, random = STRAGGLERS.make(spec), Random(7)
    assert fmean(stragglers.factor(n, random.random) for n in range(20_000)) == pytest.approx(1, rel=0.02)


def test_lognormal_steps_have_the_spread_that_is_asked_for() -> None:
    stragglers, random = STRAGGLERS.make("lognormal:0.5"), Random(7)
    logs = [math.log(stragglers.factor(0, random.random)) for _ in range(20_000)]
    assert pstdev(logs) == pytest.approx(0.5, rel=0.03)


def test_pareto_steps_have_a_heavy_tail() -> None:
    stragglers, random = STRAGGLERS.make("pareto:1.5"), Random(7)
    drawn = [stragglers.factor(0, random.random) for _ in range(50_000)]
    least = 1 / 3
    for times in (4, 16, 64):
        assert sum(x > times * least for x in drawn) / 50_000 == pytest.approx(times**-1.5, rel=0.15)
    assert min(drawn) >= least - 1e-9


def test_one_slow_function_leaves_the_others_alone() -> None:
    stragglers, random = STRAGGLERS.make("slow:2,4"), Random(7)
    assert [stragglers.factor(index, random.random) for index in range(4)] == [1, 1, 4, 1]


def test_a_spread_is_fixed_per_function_and_takes_nothing_from_the_generator() -> None:
    def refuse() -> float:
        raise AssertionError

    stragglers = STRAGGLERS.make("spread:0.4")
    factors = [stragglers.factor(index, refuse) for index in range(500)]
    assert factors == [stragglers.factor(index, refuse) for index in range(500)]
    assert factors != [STRAGGLERS.make("spread:0.4,seed=1").factor(index, refuse) for index in range(500)]
    assert pstdev(map(math.log, factors)) == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lognorm:1", r"no straggler model 'lognorm'.*'lognormal'"),
        ("lognormal", r"needs sigma"),
        ("lognormal:-1", r"sigma must be"),
        ("spread:inf", r"sigma must be"),
        ("pareto:1", r"alpha > 1"),
        ("slow:2", r"needs times"),
        ("slow:2,0", r"must be positive"),
    ],
)
def test_a_mistaken_straggler_model_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        STRAGGLERS.make(text)

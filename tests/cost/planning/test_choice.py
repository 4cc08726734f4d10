"""What is chosen among candidates that are as good as equal."""

from __future__ import annotations

import pytest

from lambdaml.cost.planning.candidates import Candidate
from lambdaml.cost.planning.choice import TIE, by_a_tie, keeps, ranked
from lambdaml.cost.planning.estimate import Estimate
from lambdaml.cost.planning.explain import reason
from lambdaml.cost.planning.objective import Aim, Objective
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.platform import Platform


def one(codec: str, seconds: float, usd: float = 1.0, schedule: str = "bsp", obstacle: str = "") -> Estimate:
    candidate = Candidate(schedule, 4, 32, codec, Channel.parse("disk"), Platform.parse("local"))
    return Estimate(candidate, 10, 10, seconds, seconds, usd, usd, obstacle=obstacle)


AIMS: tuple[Aim, ...] = ("cost", "time", "balanced")


@pytest.mark.parametrize("aim", AIMS)
def test_the_exact_codec_is_chosen_on_a_tie(aim: Aim) -> None:
    objective = Objective("x>=1", minimise=aim)
    exact, coarse = one("fp32", 100.0), one("bf16", 100.0)
    for found in ([exact, coarse], [coarse, exact]):
        assert ranked(found, objective) == [exact, coarse]


@pytest.mark.parametrize("aim", AIMS)
@pytest.mark.parametrize(("times", "first"), [(1 + 0.9 * TIE, "fp32"), (1 + 1.1 * TIE, "bf16"), (0.9, "fp32")])
def test_a_tie_is_one_percent(aim: Aim, times: float, first: str) -> None:
    objective = Objective("x>=1", minimise=aim)
    by_time = aim == "time"
    exact = one("fp32", 100.0 * (times if by_time else 1), 1.0 if by_time else times)
    found = ranked([exact, one("bf16", 100.0, 1.0)], objective)
    assert found[0].candidate.codec == first
    assert by_a_tie(found, objective) == (first == "fp32" and times > 1)
    assert ("exact" in reason(found, 0, 0, objective)) == (first == "fp32" and times > 1)


def test_the_best_of_several_exact_ones_is_chosen_and_the_order_of_the_rest_stays() -> None:
    objective = Objective("x>=1", minimise="time")
    found = [one("bf16", 100.0), one("fp32", 100.8, schedule="asp"), one("fp32", 100.5), one("bf16", 100.2)]
    assert [(o.candidate.codec, o.seconds) for o in ranked(found, objective)] == [
        ("fp32", 100.5),
        ("bf16", 100.0),
        ("bf16", 100.2),
        ("fp32", 100.8),
    ]


def test_a_tie_never_chooses_what_misses_the_deadline_or_gets_nowhere() -> None:
    objective = Objective("x>=1", minimise="time", deadline_s=100.2)
    late, stuck = one("fp32", 100.5), one("fp32", 99.0, schedule="asp", obstacle="too stale")
    found = ranked([late, stuck, one("bf16", 100.0)], objective)
    assert [o.candidate.codec for o in found] == ["bf16", "fp32", "fp32"]
    assert keeps(found[0], objective) and found[1] is late and found[2] is stuck
    assert ranked([late, stuck], objective)[0] is late

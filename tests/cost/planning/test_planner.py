"""The planner: which candidates share a simulation, and that what they share tells the truth about each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.planning import planner as planning
from lambdaml.cost.planning.candidates import SearchSpace
from lambdaml.cost.planning.estimate import Estimate
from lambdaml.cost.planning.objective import Objective
from lambdaml.cost.planning.planner import Planner
from lambdaml.cost.planning.step_cost import Shape, StepCost, simulate_step_cost
from lambdaml.cost.profiling.facts import CodecFacts
from lambdaml.cost.profiling.profile import Profile
from lambdaml.cost.profiling.startup import Startup
from lambdaml.errors import SettingsError
from tests.cost.profiles import digits

KNOWN = replace(digits(), startup=Startup(2.0, 10.0))
SPACE = SearchSpace(workers=(2, 2), schedules=("bsp",), channels=("40ms",))


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """The shapes that are simulated."""
    shapes: list[Shape] = []

    def watched(shape: Shape, seed: int, updates: int) -> StepCost:
        shapes.append(shape)
        return simulate_step_cost(shape, seed, updates)

    monkeypatch.setattr(planning, "simulate_step_cost", watched)
    return shapes


def estimates(profile: Profile, space: SearchSpace) -> list[Estimate]:
    planner = Planner(profile, Objective(epochs=1.0, space=space), PriceBook.load(), None, 1)
    return planner.estimates(space.candidates(profile, to_target=False), lambda share: None)


def test_platforms_of_all_sizes_and_names_share_two_simulations(simulated: list[Shape]) -> None:
    found = estimates(KNOWN, replace(SPACE, platforms=("lambda-arm", "lambda-x86"), codecs=("fp32",)))
    assert len(found) == 8 and len(simulated) == 2


def test_a_slower_platform_starts_later_by_what_the_job_takes_to_start_on_it() -> None:
    space = replace(SPACE, batch_sizes=(32,), codecs=("fp32",))
    half, whole = estimates(KNOWN, replace(space, platforms=("lambda-arm:884", "lambda-arm:1769")))
    alone = [estimates(KNOWN, replace(space, platforms=(name,)))[0] for name in ("lambda-arm:884", "lambda-arm:1769")]
    assert half.seconds - whole.seconds > 10.0
    assert [half.seconds, whole.seconds] == pytest.approx([one.seconds for one in alone], abs=0.3)
    assert half.function_seconds == pytest.approx(alone[0].function_seconds, abs=0.6)


def test_codecs_that_differ_by_little_share_a_simulation_and_keep_their_own_bytes(simulated: list[Shape]) -> None:
    facts = {"fp32": 38_440_000, "bf16": 38_400_000, "fp16": 4_000, "int8": 2_000}
    known = replace(KNOWN, codecs={name: CodecFacts(size, 0.0, 0.0, 0.0) for name, size in facts.items()})
    space = replace(SPACE, batch_sizes=(32,), codecs=tuple(facts), platforms=("lambda-arm:1769",))
    space = replace(space, patterns=("gather",))
    found = {one.candidate.codec: one for one in estimates(known, space)}
    assert sorted(shape.costs.update_bytes for shape in simulated) == [4_000, 38_440_000]
    assert found["fp16"].seconds == found["int8"].seconds < found["bf16"].seconds == found["fp32"].seconds
    updates = found["fp16"].steps * 2
    assert found["fp16"].bytes_sent - found["int8"].bytes_sent == pytest.approx(2_000 * updates, rel=0.4)


def test_a_pattern_is_tried_where_it_is_markedly_quicker_and_only_where_it_fits() -> None:
    wide = replace(SPACE, workers=(32, 32), schedules=("bsp", "asp"), codecs=("fp32",), channels=("s3-standard",))
    job = replace(KNOWN.job, parameters=10_000_000)
    large = replace(KNOWN, job=job, codecs={"fp32": CodecFacts(40_000_000, 0.0, 0.0, 0.0)})
    tried = {(one.schedule, one.pattern) for one in wide.candidates(large, to_target=False)}
    assert tried == {("bsp", "gather"), ("bsp", "scatter"), ("asp", "gather")}
    assert {one.pattern for one in SPACE.candidates(KNOWN, to_target=False)} == {"gather"}
    asked = replace(wide, patterns=("tree:8", "fold")).candidates(KNOWN, to_target=False)
    assert {(one.schedule, one.pattern) for one in asked} == {("bsp", "tree:8"), ("asp", "fold")}
    with pytest.raises(SettingsError, match=r"pattern 'tree:8' .+"):
        replace(wide, schedules=("asp",), patterns=("tree:8",)).candidates(KNOWN, to_target=False)


def test_the_pattern_is_simulated_and_told(simulated: list[Shape]) -> None:
    space = replace(SPACE, workers=(16, 16), codecs=("fp32",), batch_sizes=(32,), platforms=("lambda-arm:1769",))
    plain, tree = (estimates(KNOWN, replace(space, patterns=(name,)))[0] for name in ("gather", "tree:4"))
    assert [shape.pattern for shape in simulated] == ["gather", "tree:4"]
    assert tree.requests < plain.requests / 2 and tree.candidate.to_dict()["pattern"] == "tree:4"
    assert "tree:4" in str(tree.candidate) and "pattern" not in plain.candidate.to_dict()

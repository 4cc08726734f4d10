"""What every schedule must do. A new one takes one file and one line in `SCHEDULES`: see `tests/parts/turns.py`.

pytest -p gulp --schedule gulp:2 tests/lambdaml/schedules/test_conformance.py    # one of your own, in gulp.py
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lambdaml
from lambdaml.log.records import Stop
from lambdaml.schedules import SCHEDULES, delay_of
from lambdaml.simulation.faults import FaultScenario, try_seeds
from tests.lambdaml.lab import broken_off
from tests.lambdaml.schedules.play import SPECS, Play, choices, faults, few, workers


@pytest.fixture(scope="module", params=[*SPECS, "turns"])
def schedule(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCHEDULES.factories, "turns", "tests.parts.turns:Turns")
        yield request.param


@few
@given(choices=choices, workers=workers, faults=faults, fences=st.sampled_from([0, 4]))
def test_a_run_ends_and_every_update_gets_exactly_one_fate(
    schedule: str, choices: list[int], workers: int, faults: frozenset[tuple[int, int]], fences: int
) -> None:
    play = Play(schedule, workers, 5, faults, fences=fences).run(choices)
    fated = [(entry.worker, entry.seq) for entry in play.entries]
    pending = {update.id for update in play.pending}
    assert len(set(fated)) == len(fated)
    assert pending.isdisjoint(fated)
    assert pending | set(fated) == set(play.published)
    assert play.log_state.stop == Stop("steps")
    for entry in play.entries:
        assert not (entry.fate == "applied" and play.published[entry.worker, entry.seq].fault)


@few
@given(choices=choices, workers=workers)
def test_staleness_is_the_number_of_steps_between_the_base_and_the_step(
    schedule: str, choices: list[int], workers: int
) -> None:
    play = Play(schedule, workers, 5, frozenset()).run(choices)
    version = 0
    for commit in play.commits:
        assert commit.version == version
        for step in commit.steps:
            for entry in step:
                assert entry.staleness == version - play.published[entry.worker, entry.seq].base >= 0
            version += 1


@few
@given(choices=choices, limit=st.integers(1, 6))
def test_a_run_of_faulty_updates_ends_as_diverged(schedule: str, choices: list[int], limit: int) -> None:
    every = frozenset((w, s) for w in range(3) for s in range(400))
    play = Play(schedule, 3, 100, every, max_rejected=limit).run(choices)
    assert play.log_state.stop == Stop("diverged")
    assert play.log_state.version == 0
    assert limit <= play.log_state.rejected < limit + 3


def test_functions_that_die_and_requests_that_fail_break_no_promise(schedule: str) -> None:
    needs = SCHEDULES.make(schedule).needs
    fitting = [seed for seed in range(50) if needs(count := FaultScenario.draw(seed, schedule).workers) <= count]
    assert len(fitting) >= 10
    assert try_seeds(fitting[:10], schedule) == []


def test_a_run_that_broke_off_ends_and_verifies_under_any_schedule(schedule: str) -> None:
    run = broken_off(workers=4, steps=6, functions=2, schedule=schedule, snapshot_every=1)
    assert lambdaml.resume(run.store).stop == "steps"
    assert run.verify().faults == []


@pytest.mark.parametrize("exact", [True, False])
def test_it_can_be_simulated_exactly_and_in_closed_form(schedule: str, exact: bool) -> None:
    if delay_of(SCHEDULES.make(schedule)) and not exact:
        pytest.skip("rounds that overlap are simulated request by request")
    result = lambdaml.simulate(workers=4, schedule=schedule, updates=40, platform="local", exact=exact)
    assert result.exact == exact
    assert result.run.fates["applied"] > 0 and result.run.seconds > 0

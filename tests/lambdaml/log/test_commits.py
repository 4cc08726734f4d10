"""Fates, weights, staleness and the end of a run: `build_commit` without any input or output."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.log.commits import build_commit, shares, summed
from lambdaml.log.records import Commit, Entry, Stop, Update
from lambdaml.log.state import LogState
from lambdaml.schedules import SCHEDULES, Decision
from lambdaml.staleness import RULES
from tests.lambdaml.lab import light


def make(
    log_state: LogState,
    arrived: Sequence[Update],
    schedule: str = "bsp",
    rule: str = "constant",
    max_rejected: int = 1000,
    wish: Stop | None = None,
) -> Commit | None:
    return build_commit(
        log_state, SCHEDULES.make(schedule), RULES.make(rule), arrived, max_rejected=max_rejected, wish=wish
    )


def made(*arguments: object, **options: object) -> Commit:
    commit = make(*arguments, **options)  # type: ignore[arg-type]
    assert commit is not None
    return commit


def view_at(version: int, workers: int = 4, steps: int = 10, seq: int | None = None) -> LogState:
    log_state = LogState(workers, steps)
    log_state.version = log_state.commit = version
    log_state.next_seq = [version if seq is None else seq] * workers
    return log_state


def round_at(log_state: LogState, **changes: object) -> list[Update]:
    return [light(w, log_state.next_seq[w], log_state.version, **changes) for w in range(log_state.workers)]  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=8))
def test_weights_of_a_synchronous_step_follow_the_samples_and_sum_to_one(samples: list[int]) -> None:
    log_state = LogState(len(samples), 10)
    commit = made(log_state, [light(w, 0, samples=n) for w, n in enumerate(samples)])
    (step,) = commit.steps
    assert [entry.weight for entry in step] == [1.0] * len(samples)
    assert shares(step) == [n / sum(samples) for n in samples]
    assert sum(shares(step)) == pytest.approx(1.0, abs=1e-12)
    assert [entry.worker for entry in step] == list(range(len(samples)))
    factors, divisor = summed(step, 32)
    assert [factor / divisor for factor in factors] == pytest.approx(shares(step), rel=1e-12)
    assert len(samples) > 1 or (factors, divisor) == ([1.0], 1.0), "the sum of one update is that update"


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=8), st.integers(1, 7))
def test_partial_sums_add_up_to_the_sum_whoever_takes_them(values: list[float], split: int) -> None:
    """Of equal workers, whose factors are 1: a sum that is bracketed in two is divided once, by the one who ends it."""
    step = tuple(Entry(w, 0, 0, 1, 8, 0.5, 0, 1.0) for w in range(len(values)))
    factors, divisor = summed(step, 8)
    assert factors == [1.0] * len(values) and divisor == len(values)
    left, right = sum(values[:split]), sum(values[split:])
    assert (left + right) / divisor == pytest.approx(sum(values) / len(values), abs=1e-9)


def test_weights_of_a_step_sum_to_one_although_some_of_its_updates_are_rejected() -> None:
    log_state = LogState(3, 10)
    commit = made(log_state, [light(0, 0, samples=6), light(1, 0, samples=5, fault="bad"), light(2, 0, samples=2)])
    assert [(e.worker, e.weight) for e in commit.applied] == [(0, 1.0), (2, 1.0)]
    assert shares(commit.steps[0]) == [0.75, 0.25]
    assert [(e.worker, e.fate, e.reason, e.weight) for e in commit.refused] == [(1, "rejected", "bad", 0.0)]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_staleness_counts_the_steps_of_the_same_group_commit_too(ages: list[int]) -> None:
    log_state = view_at(10, workers=len(ages))
    arrived = [light(w, 10, 10 - age) for w, age in enumerate(ages)]
    commit = made(log_state, arrived, "asp")
    assert [len(step) for step in commit.steps] == [1] * len(ages)
    assert [entry.staleness for entry in commit.applied] == [age + nth for nth, age in enumerate(ages)]
    assert commit.last_version == 10 + len(ages)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_the_inverse_rule_divides_by_one_more_than_the_staleness(ages: list[int]) -> None:
    log_state = view_at(10, workers=len(ages))
    commit = made(log_state, [light(w, 10, 10 - age) for w, age in enumerate(ages)], "asp", "inverse")
    assert [entry.weight for entry in commit.applied] == [1 / (entry.staleness + 1) for entry in commit.applied]


def test_the_inverse_rule_and_the_samples_multiply() -> None:
    log_state = view_at(3, workers=2)
    arrived = [light(0, 3, 3, samples=6), light(1, 3, 1, samples=2)]
    commit = made(log_state, arrived, "quorum:2,late=weight", "inverse")
    assert [entry.weight for entry in commit.applied] == [1.0, 1 / 3]
    assert shares(commit.steps[0]) == [0.75, 0.25 / 3]


def test_a_rejected_update_takes_no_step_and_ages_nobody() -> None:
    log_state = view_at(5, workers=3)
    arrived = [light(0, 5, 5), light(1, 5, 5, fault="gradient is not finite"), light(2, 5, 4)]
    commit = made(log_state, arrived, "asp")
    assert [(e.worker, e.staleness) for e in commit.applied] == [(0, 0), (2, 2)]
    assert [(e.worker, e.fate, e.reason) for e in commit.refused] == [(1, "rejected", "gradient is not finite")]


@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:1", "quorum:2", "quorum:2,late=weight"])
def test_a_generation_that_goes_back_is_rejected_as_fenced(schedule: str) -> None:
    log_state = view_at(5, workers=2)
    log_state.generation = [3, 1]
    commit = made(log_state, [light(0, 5, 5, generation=2), light(1, 5, 5, generation=1)], schedule)
    assert [(e.worker, e.weight) for e in commit.applied] == [(1, 1.0)]
    (entry,) = commit.refused
    assert (entry.worker, entry.fate, entry.reason) == (0, "rejected", "fenced: generation 2 after 3")
    log_state.advance(commit)
    assert log_state.generation == [3, 1]


def test_a_generation_that_goes_back_within_one_commit_is_rejected_as_fenced() -> None:
    """A function that lost its lease and the one that took over both published; the commit takes both at once."""
    log_state = view_at(5, workers=2)
    arrived = [light(0, 5, 5, generation=3), light(0, 6, 5, generation=2), light(1, 5, 5)]
    commit = made(log_state, arrived, "asp")
    assert [(e.worker, e.seq) for e in commit.applied] == [(0, 5), (1, 5)]
    assert [(e.seq, e.fate) for e in commit.refused] == [(6, "rejected")]


@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:1", "quorum:2", "quorum:2,late=weight"])
def test_an_update_computed_from_a_version_that_does_not_exist_is_rejected(schedule: str) -> None:
    log_state = view_at(5, workers=2)
    commit = made(log_state, [light(0, 5, 6), light(1, 5, 5)], schedule)
    assert [e.worker for e in commit.applied] == [1]
    (entry,) = commit.refused
    assert (entry.worker, entry.fate) == (0, "rejected")
    assert "version 6" in entry.reason


def test_an_update_may_not_be_computed_from_a_version_that_its_own_commit_makes() -> None:
    log_state = view_at(5, workers=2)
    commit = made(log_state, [light(0, 5, 5), light(1, 5, 6)], "asp")
    assert [e.worker for e in commit.applied] == [0]


def test_a_round_in_which_all_are_rejected_takes_no_step_and_the_run_goes_on() -> None:
    log_state = LogState(2, 10)
    commit = made(log_state, round_at(log_state, fault="bad"))
    assert (commit.steps, commit.last_version, commit.stop) == ((), 0, None)
    assert len(commit.refused) == 2
    log_state.advance(commit)
    assert (log_state.commit, log_state.version, log_state.next_seq, log_state.rejected) == (1, 0, [1, 1], 2)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_run_diverges_when_that_many_updates_were_rejected(limit: int) -> None:
    log_state = LogState(1, 10)
    stops = []
    for seq in range(limit):
        commit = made(log_state, [light(0, seq, fault="bad")], max_rejected=limit)
        log_state.advance(commit)
        stops.append(commit.stop)
    assert stops == [None] * (limit - 1) + [Stop("diverged")]


def test_discarded_updates_do_not_make_a_run_diverge() -> None:
    log_state = view_at(5, workers=3)
    arrived = [light(0, 5, 4), light(1, 5, 4), light(2, 5, 5)]
    commit = made(log_state, arrived, "quorum:1", max_rejected=1)
    assert [e.fate for e in commit.refused] == ["discarded", "discarded"]
    assert commit.stop is None


@pytest.mark.parametrize("schedule", ["bsp", "quorum:2", "asp"])
def test_the_last_commit_says_that_the_run_ends_and_the_one_before_does_not(schedule: str) -> None:
    log_state = view_at(8, workers=2)
    for expected in (None, Stop("steps")):
        commit = made(log_state, round_at(log_state), schedule)
        assert commit.stop == expected
        log_state.advance(commit)
    assert log_state.stop == Stop("steps")


def test_a_wish_to_stop_ends_an_asynchronous_run_at_once_even_when_nothing_is_pending() -> None:
    wish = Stop("cancelled")
    commit = made(view_at(5), [], "asp", wish=wish)
    assert (commit.steps, commit.refused, commit.stop) == ((), (), wish)
    commit = made(view_at(5), [light(1, 5, 5)], "asp", wish=Stop("target", 3))
    assert (len(commit.steps), commit.stop) == (1, Stop("target", 3))


def test_a_wish_to_stop_a_synchronous_run_travels_in_an_update() -> None:
    log_state = LogState(2, 10)
    assert make(log_state, [], "bsp", wish=Stop("cancelled")) is None
    arrived = round_at(log_state)
    assert made(log_state, arrived, "bsp", wish=Stop("cancelled")).stop is None
    arrived[0].stop = Stop("target", 0)
    assert made(log_state, arrived, "bsp").stop == Stop("target", 0)


def test_a_wish_comes_before_the_end_that_the_same_commit_reaches() -> None:
    log_state = view_at(9, workers=2)
    arrived = round_at(log_state)
    arrived[0].stop = Stop("target", 5)
    assert made(log_state, arrived, "bsp").stop == Stop("target", 5)


def test_a_wish_is_heeded_although_the_update_that_carries_it_is_rejected() -> None:
    log_state = LogState(2, 10)
    arrived = round_at(log_state)
    arrived[0].stop, arrived[0].fault = Stop("cancelled"), "bad"
    assert made(log_state, arrived, "bsp").stop == Stop("cancelled")


def test_drafting_leaves_the_view_and_the_updates_alone() -> None:
    log_state = view_at(5, workers=2)
    arrived = round_at(log_state)
    before = log_state.dump()
    assert made(log_state, arrived) == made(log_state, arrived)
    assert log_state.dump() == before
    assert [u.fault for u in arrived] == ["", ""]


def test_a_decision_to_discard_a_faulty_update_rejects_it() -> None:
    class Fixed:
        deterministic = False

        def decide(self, log_state: LogState, arrived: Sequence[Update]) -> Decision:
            return Decision([], arrived)

        def progress(self, log_state: LogState) -> float:
            return 0.0

    arrived = [light(0, 0, fault="bad"), light(1, 0)]
    commit = build_commit(LogState(2, 5), Fixed(), RULES.make("constant"), arrived, max_rejected=9)  # type: ignore[arg-type]
    assert commit is not None
    assert [(e.fate, e.reason) for e in commit.refused] == [("rejected", "bad"), ("discarded", "late")]

"""Fates, weights, staleness and the end of a run: `draft` without any input or output."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.log.commits import draft
from lambdaml.log.records import Commit, Stop, Update
from lambdaml.log.view import View
from lambdaml.schedules import SCHEDULES, Decision
from lambdaml.staleness import RULES
from tests.lambdaml.lab import light


def make(
    view: View,
    arrived: Sequence[Update],
    schedule: str = "bsp",
    rule: str = "constant",
    max_rejected: int = 1000,
    wish: Stop | None = None,
) -> Commit | None:
    return draft(view, SCHEDULES.make(schedule), RULES.make(rule), arrived, max_rejected=max_rejected, wish=wish)


def made(*arguments: object, **options: object) -> Commit:
    commit = make(*arguments, **options)  # type: ignore[arg-type]
    assert commit is not None
    return commit


def view_at(version: int, workers: int = 4, steps: int = 10, seq: int | None = None) -> View:
    view = View(workers, steps)
    view.version = view.commit = version
    view.fated = [version if seq is None else seq] * workers
    return view


def round_at(view: View, **changes: object) -> list[Update]:
    return [light(w, view.fated[w], view.version, **changes) for w in range(view.workers)]  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=8))
def test_weights_of_a_synchronous_step_follow_the_samples_and_sum_to_one(samples: list[int]) -> None:
    view = View(len(samples), 10)
    commit = made(view, [light(w, 0, samples=n) for w, n in enumerate(samples)])
    (step,) = commit.steps
    assert [entry.weight for entry in step] == [n / sum(samples) for n in samples]
    assert sum(entry.weight for entry in step) == pytest.approx(1.0, abs=1e-12)
    assert [entry.worker for entry in step] == list(range(len(samples)))


def test_weights_of_a_step_sum_to_one_although_some_of_its_updates_are_rejected() -> None:
    view = View(3, 10)
    commit = made(view, [light(0, 0, samples=6), light(1, 0, samples=5, fault="bad"), light(2, 0, samples=2)])
    assert [(e.worker, e.weight) for e in commit.applied] == [(0, 0.75), (2, 0.25)]
    assert [(e.worker, e.fate, e.reason, e.weight) for e in commit.refused] == [(1, "rejected", "bad", 0.0)]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_staleness_counts_the_steps_of_the_same_group_commit_too(ages: list[int]) -> None:
    view = view_at(10, workers=len(ages))
    arrived = [light(w, 10, 10 - age) for w, age in enumerate(ages)]
    commit = made(view, arrived, "asp")
    assert [len(step) for step in commit.steps] == [1] * len(ages)
    assert [entry.staleness for entry in commit.applied] == [age + nth for nth, age in enumerate(ages)]
    assert commit.last_version == 10 + len(ages)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_the_inverse_rule_divides_by_one_more_than_the_staleness(ages: list[int]) -> None:
    view = view_at(10, workers=len(ages))
    commit = made(view, [light(w, 10, 10 - age) for w, age in enumerate(ages)], "asp", "inverse")
    assert [entry.weight for entry in commit.applied] == [1 / (entry.staleness + 1) for entry in commit.applied]


def test_the_inverse_rule_and_the_samples_multiply() -> None:
    view = view_at(3, workers=2)
    arrived = [light(0, 3, 3, samples=6), light(1, 3, 1, samples=2)]
    commit = made(view, arrived, "quorum:2,late=weight", "inverse")
    assert [entry.weight for entry in commit.applied] == [0.75, 0.25 / 3]


def test_a_rejected_update_takes_no_step_and_ages_nobody() -> None:
    view = view_at(5, workers=3)
    arrived = [light(0, 5, 5), light(1, 5, 5, fault="gradient is not finite"), light(2, 5, 4)]
    commit = made(view, arrived, "asp")
    assert [(e.worker, e.staleness) for e in commit.applied] == [(0, 0), (2, 2)]
    assert [(e.worker, e.fate, e.reason) for e in commit.refused] == [(1, "rejected", "gradient is not finite")]


@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:1", "quorum:2", "quorum:2,late=weight"])
def test_a_generation_that_goes_back_is_rejected_as_fenced(schedule: str) -> None:
    view = view_at(5, workers=2)
    view.generation = [3, 1]
    commit = made(view, [light(0, 5, 5, generation=2), light(1, 5, 5, generation=1)], schedule)
    assert [(e.worker, e.weight) for e in commit.applied] == [(1, 1.0)]
    (entry,) = commit.refused
    assert (entry.worker, entry.fate, entry.reason) == (0, "rejected", "fenced: generation 2 after 3")
    view.advance(commit)
    assert view.generation == [3, 1]


def test_a_generation_that_goes_back_within_one_commit_is_rejected_as_fenced() -> None:
    """A function that lost its lease and the one that took over both published; the commit takes both at once."""
    view = view_at(5, workers=2)
    arrived = [light(0, 5, 5, generation=3), light(0, 6, 5, generation=2), light(1, 5, 5)]
    commit = made(view, arrived, "asp")
    assert [(e.worker, e.seq) for e in commit.applied] == [(0, 5), (1, 5)]
    assert [(e.seq, e.fate) for e in commit.refused] == [(6, "rejected")]


@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:1", "quorum:2", "quorum:2,late=weight"])
def test_an_update_computed_from_a_version_that_does_not_exist_is_rejected(schedule: str) -> None:
    view = view_at(5, workers=2)
    commit = made(view, [light(0, 5, 6), light(1, 5, 5)], schedule)
    assert [e.worker for e in commit.applied] == [1]
    (entry,) = commit.refused
    assert (entry.worker, entry.fate) == (0, "rejected")
    assert "version 6" in entry.reason


def test_an_update_may_not_be_computed_from_a_version_that_its_own_commit_makes() -> None:
    view = view_at(5, workers=2)
    commit = made(view, [light(0, 5, 5), light(1, 5, 6)], "asp")
    assert [e.worker for e in commit.applied] == [0]


def test_a_round_in_which_all_are_rejected_takes_no_step_and_the_run_goes_on() -> None:
    view = View(2, 10)
    commit = made(view, round_at(view, fault="bad"))
    assert (commit.steps, commit.last_version, commit.stop) == ((), 0, None)
    assert len(commit.refused) == 2
    view.advance(commit)
    assert (view.commit, view.version, view.fated, view.rejected) == (1, 0, [1, 1], 2)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_run_diverges_when_that_many_updates_were_rejected(limit: int) -> None:
    view = View(1, 10)
    stops = []
    for seq in range(limit):
        commit = made(view, [light(0, seq, fault="bad")], max_rejected=limit)
        view.advance(commit)
        stops.append(commit.stop)
    assert stops == [None] * (limit - 1) + [Stop("diverged")]


def test_discarded_updates_do_not_make_a_run_diverge() -> None:
    view = view_at(5, workers=3)
    arrived = [light(0, 5, 4), light(1, 5, 4), light(2, 5, 5)]
    commit = made(view, arrived, "quorum:1", max_rejected=1)
    assert [e.fate for e in commit.refused] == ["discarded", "discarded"]
    assert commit.stop is None


@pytest.mark.parametrize("schedule", ["bsp", "quorum:2", "asp"])
def test_the_last_commit_says_that_the_run_ends_and_the_one_before_does_not(schedule: str) -> None:
    view = view_at(8, workers=2)
    for expected in (None, Stop("steps")):
        commit = made(view, round_at(view), schedule)
        assert commit.stop == expected
        view.advance(commit)
    assert view.stop == Stop("steps")


def test_a_wish_to_stop_ends_an_asynchronous_run_at_once_even_when_nothing_is_pending() -> None:
    wish = Stop("cancelled")
    commit = made(view_at(5), [], "asp", wish=wish)
    assert (commit.steps, commit.refused, commit.stop) == ((), (), wish)
    commit = made(view_at(5), [light(1, 5, 5)], "asp", wish=Stop("target", 3))
    assert (len(commit.steps), commit.stop) == (1, Stop("target", 3))


def test_a_wish_to_stop_a_synchronous_run_travels_in_an_update() -> None:
    view = View(2, 10)
    assert make(view, [], "bsp", wish=Stop("cancelled")) is None
    arrived = round_at(view)
    assert made(view, arrived, "bsp", wish=Stop("cancelled")).stop is None
    arrived[0].stop = Stop("target", 0)
    assert made(view, arrived, "bsp").stop == Stop("target", 0)


def test_a_wish_comes_before_the_end_that_the_same_commit_reaches() -> None:
    view = view_at(9, workers=2)
    arrived = round_at(view)
    arrived[0].stop = Stop("target", 5)
    assert made(view, arrived, "bsp").stop == Stop("target", 5)


def test_a_wish_is_heeded_although_the_update_that_carries_it_is_rejected() -> None:
    view = View(2, 10)
    arrived = round_at(view)
    arrived[0].stop, arrived[0].fault = Stop("cancelled"), "bad"
    assert made(view, arrived, "bsp").stop == Stop("cancelled")


def test_drafting_leaves_the_view_and_the_updates_alone() -> None:
    view = view_at(5, workers=2)
    arrived = round_at(view)
    before = view.dump()
    assert made(view, arrived) == made(view, arrived)
    assert view.dump() == before
    assert [u.fault for u in arrived] == ["", ""]


def test_a_decision_to_discard_a_faulty_update_rejects_it() -> None:
    class Fixed:
        agreed = False

        def decide(self, view: View, arrived: Sequence[Update]) -> Decision:
            return Decision([], arrived)

        def progress(self, view: View) -> float:
            return 0.0

    arrived = [light(0, 0, fault="bad"), light(1, 0)]
    commit = draft(View(2, 5), Fixed(), RULES.make("constant"), arrived, max_rejected=9)  # type: ignore[arg-type]
    assert commit is not None
    assert [(e.fate, e.reason) for e in commit.refused] == [("rejected", "bad"), ("discarded", "late")]

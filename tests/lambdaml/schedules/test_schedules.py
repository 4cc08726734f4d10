"""Schedules, driven without any input or output: random workers, orders of arrival, faults and fences."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.errors import SettingsError
from lambdaml.log.records import Commit
from lambdaml.schedules import SCHEDULES
from lambdaml.schedules.bsp import Bsp
from tests.lambdaml.lab import model_bytes, train
from tests.lambdaml.schedules.play import SPECS, Play, choices, faults, few, workers


def content(commits: list[Commit]) -> list[Any]:
    """What must not depend on the order of arrival."""
    return [(c.commit, c.version, c.steps, sorted(c.refused, key=lambda e: (e.worker, e.seq)), c.stop) for c in commits]


@pytest.mark.parametrize("schedule", [spec for spec in SPECS if not spec.startswith("quorum")])
@few
@given(choices=choices, workers=workers, faults=faults, fences=st.sampled_from([0, 4]))
def test_nothing_is_left_undecided_by_a_schedule_that_uses_all(
    schedule: str, choices: list[int], workers: int, faults: frozenset[tuple[int, int]], fences: int
) -> None:
    play = Play(schedule, workers, 5, faults, fences=fences).run(choices)
    assert not play.pending
    assert sorted((e.worker, e.seq) for e in play.entries) == [(w, s) for w in range(workers) for s in range(5)]


@pytest.mark.parametrize("schedule", ["bsp", "quorum:{n}", "quorum:{n},late=weight"])
@few
@given(one=choices, two=choices, workers=workers, faults=faults)
def test_when_all_are_waited_for_commits_do_not_depend_on_the_order_of_arrival(
    schedule: str, one: list[int], two: list[int], workers: int, faults: frozenset[tuple[int, int]]
) -> None:
    spec = schedule.format(n=workers)
    first, second = (Play(spec, workers, 5, faults).run(chosen) for chosen in (one, two))
    assert content(first.commits) == content(second.commits)


@pytest.mark.parametrize("schedule", ["quorum:{n}", "quorum:{n},late=weight", "ssp:0"])
@few
@given(choices=choices, workers=workers)
def test_waiting_for_all_is_bsp(schedule: str, choices: list[int], workers: int) -> None:
    play = Play(schedule.format(n=workers), workers, 5, frozenset()).run(choices)
    assert content(play.commits) == content(Play("bsp", workers, 5, frozenset()).run([]).commits)


@few
@given(choices=choices, workers=workers, faults=faults)
def test_bsp_takes_one_step_a_commit_on_one_update_of_each_worker_in_their_order(
    choices: list[int], workers: int, faults: frozenset[tuple[int, int]]
) -> None:
    for number, commit in enumerate(Play("bsp", workers, 5, faults).run(choices).commits):
        assert len(commit.steps) <= 1
        assert [e.worker for e in commit.applied] == [w for w in range(workers) if (w, number) not in faults]
        assert {e.seq for e in commit.entries} == {number}
        assert all(entry.staleness == 0 for entry in commit.applied)
        if commit.steps:
            assert {entry.weight for entry in commit.applied} == {1.0}


@few
@given(choices=choices, workers=st.integers(2, 5), s=st.integers(1, 4), faults=faults)
def test_ssp_never_lets_a_worker_lead_by_more_than_s(
    choices: list[int], workers: int, s: int, faults: frozenset[tuple[int, int]]
) -> None:
    class Watched(Play):
        led = 0

        def start(self, worker: int) -> None:
            self.led = max(self.led, self.next[worker] - min(self.next))
            assert self.led <= s
            super().start(worker)

    Watched(f"ssp:{s}", workers, 6, faults).run(choices)


@pytest.mark.parametrize("s", [1, 2, 4])
def test_ssp_lets_a_worker_lead_by_s_while_another_sleeps(s: int) -> None:
    play = Play(f"ssp:{s}", 2, 9, frozenset())
    while ("start", 0) in play.actions():
        play.start(0)
        play.publish(0)
        play.decide(-1)
    assert play.next == [s + 1, 0]


def test_ssp_with_no_lead_is_bsp() -> None:
    assert type(SCHEDULES.make("ssp:0")) is Bsp


@few
@given(choices=choices, workers=workers, faults=faults)
def test_asp_takes_one_step_per_update_in_the_order_of_arrival(
    choices: list[int], workers: int, faults: frozenset[tuple[int, int]]
) -> None:
    play = Play("asp", workers, 5, faults).run(choices)
    applied = [(e.worker, e.seq) for commit in play.commits for e in commit.applied]
    assert applied == [id for id, update in play.published.items() if not update.fault]
    assert all(len(step) == 1 for commit in play.commits for step in commit.steps)


def test_asp_commits_all_that_is_pending_at_once() -> None:
    play = Play("asp", 4, 2, frozenset())
    for worker in (2, 0, 3):
        play.start(worker)
    for worker in (3, 0, 2):
        play.publish(worker)
    play.decide(-1)
    assert [[e.worker for e in step] for step in play.commits[0].steps] == [[3], [0], [2]]
    assert [e.staleness for e in play.commits[0].applied] == [0, 1, 2]


def test_asp_keeps_one_update_of_a_worker_in_flight() -> None:
    play = Play("asp", 2, 5, frozenset())
    play.start(0)
    play.publish(0)
    assert ("start", 0) not in play.actions()
    play.decide(-1)
    assert ("start", 0) in play.actions()


def test_equal_asynchronous_workers_see_a_staleness_of_n_minus_one() -> None:
    play = Play("asp", 4, 50, frozenset())
    for worker in range(4):
        play.start(worker)
    while not play.log_state.stop:
        worker = next(w for w in sorted(play.started, key=lambda w: (play.next[w], w)))
        play.publish(worker)
        play.decide(-1)
        if ("start", worker) in play.actions():
            play.start(worker)
    middle = [e.staleness for e in play.entries][20:-20]
    assert set(middle) == {3}


@few
@given(choices=choices, workers=workers, k=st.integers(1, 5), faults=faults)
def test_a_quorum_that_discards_uses_fresh_updates_of_k_workers_alone(
    choices: list[int], workers: int, k: int, faults: frozenset[tuple[int, int]]
) -> None:
    k = min(k, workers)
    play = Play(f"quorum:{k}", workers, 5, faults).run(choices)
    for commit in play.commits:
        assert len(commit.steps) <= 1
        assert all(entry.staleness == 0 for entry in commit.applied)
        assert len({entry.worker for entry in commit.applied}) == len(commit.applied) <= k
        rejected = sum(entry.fate == "rejected" for entry in commit.refused)
        assert len(commit.applied) == k or len(commit.applied) + rejected >= workers
    assert play.log_state.version == 5


@few
@given(choices=choices, workers=workers, k=st.integers(1, 5), faults=faults)
def test_a_quorum_that_weighs_discards_nothing(
    choices: list[int], workers: int, k: int, faults: frozenset[tuple[int, int]]
) -> None:
    k = min(k, workers)
    play = Play(f"quorum:{k},late=weight", workers, 5, faults).run(choices)
    assert all(entry.fate != "discarded" for entry in play.entries)
    assert all(len(commit.applied) <= k for commit in play.commits)
    assert play.log_state.version == 5


def test_the_late_of_a_quorum_are_discarded_or_weighed() -> None:
    for spec, fates in (("quorum:1", ["discarded", "applied"]), ("quorum:1,late=weight", ["applied", "pending"])):
        play = Play(spec, 2, 9, frozenset())
        play.start(0)
        play.start(1)
        play.publish(1)
        play.decide(-1)
        play.publish(0)
        play.start(1)
        play.publish(1)
        play.decide(-1)
        last = {(e.worker, e.seq): e.fate for e in play.commits[-1].entries}
        assert [last.get(id, "pending") for id in ((0, 0), (1, 1))] == fates


@pytest.mark.parametrize("spec", ["ssp:-1", "quorum:0", "quorum:-2", "quorum:2,late=maybe"])
def test_parameters_that_make_no_sense_are_refused(spec: str) -> None:
    with pytest.raises(SettingsError, match=spec.partition(":")[0]):
        SCHEDULES.make(spec)


@pytest.mark.parametrize("schedule", ["quorum:4", "quorum:4,late=weight", "ssp:0"])
def test_waiting_for_all_gives_the_bits_of_bsp(schedule: str) -> None:
    assert model_bytes(train(workers=4, steps=8, schedule=schedule)) == model_bytes(train(workers=4, steps=8))


@pytest.mark.parametrize("schedule", ["asp", "ssp:3", "quorum:1", "quorum:1,late=weight"])
def test_with_one_worker_every_schedule_gives_the_bits_of_bsp(schedule: str) -> None:
    assert model_bytes(train(workers=1, steps=8, schedule=schedule)) == model_bytes(train(workers=1, steps=8))

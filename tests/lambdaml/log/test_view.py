"""The log in numbers: what may follow, and that every update gets one fate."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.errors import BadObject
from lambdaml.log.records import Commit, Entry, Stop
from lambdaml.log.view import View


def entry(worker: int, seq: int, **changes: object) -> Entry:
    return replace(Entry(worker, seq, 0, 1, 8, 0.5, 0, 1.0), **changes)  # type: ignore[arg-type]


def test_a_commit_moves_everything_on() -> None:
    view = View(3, 10)
    refused = (entry(1, 0, fate="rejected", generation=4), entry(2, 0, fate="discarded"))
    view.advance(Commit(0, 0, ((entry(0, 0),), (entry(0, 1),)), refused))
    assert (view.commit, view.version, view.fated, view.rejected) == (1, 2, [2, 1, 1], 1)
    assert view.generation == [1, 4, 1]
    assert (view.progress, view.stop) == (4, None)


BAD = {
    "a gap in the log": Commit(1, 0, ((entry(0, 0),),)),
    "another version": Commit(0, 1, ((entry(0, 0),),)),
    "an update out of turn": Commit(0, 0, ((entry(0, 1),),)),
    "an update twice in one step": Commit(0, 0, ((entry(0, 0), entry(0, 0)),)),
    "an update applied and refused": Commit(0, 0, ((entry(0, 0),),), (entry(0, 0, fate="discarded"),)),
    "a worker that does not exist": Commit(0, 0, ((entry(3, 0),),)),
    "a worker with a negative number": Commit(0, 0, ((entry(-1, 0),),)),
    "a negative sequence number": Commit(0, 0, ((entry(0, -1),),)),
}


@pytest.mark.parametrize("commit", BAD.values(), ids=BAD)
def test_a_commit_that_does_not_follow_is_refused(commit: Commit) -> None:
    with pytest.raises(BadObject):
        View(3, 10).advance(commit)


def test_a_commit_that_is_refused_changes_nothing() -> None:
    view = View(3, 10)
    before = view.dump()
    with pytest.raises(BadObject):
        view.advance(Commit(0, 0, ((entry(0, 0), entry(1, 0), entry(2, 5)),)))
    assert view.dump() == before


def test_nothing_follows_the_end() -> None:
    view = View(1, 10)
    view.advance(Commit(0, 0, ((entry(0, 0),),), stop=Stop("target", 0)))
    with pytest.raises(BadObject):
        view.advance(Commit(1, 1, ((entry(0, 1),),)))


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=8), st.integers(0, 7))
def test_a_view_from_a_snapshot_goes_on_like_the_one_it_was_taken_from(rounds: list[list[int]], cut: int) -> None:
    whole = View(3, 100)
    resumed = View(3, 100)
    counts = [0, 0, 0]
    for number, workers in enumerate(rounds):
        if number == cut:
            resumed = View.load(json.loads(json.dumps(whole.dump())), 3, 100)
        entries = []
        for worker in workers:
            entries.append((entry(worker, counts[worker]),))
            counts[worker] += 1
        commit = Commit(number, whole.version, tuple(entries))
        whole.advance(commit)
        if number >= cut:
            resumed.advance(commit)
    if len(rounds) > cut:
        assert resumed.dump() == whole.dump()
    assert whole.fated == counts


def test_a_view_from_a_snapshot_knows_that_the_run_has_ended() -> None:
    """The last snapshot is taken after the last commit: a function that starts from it must not go on."""
    view = View(1, 10)
    view.advance(Commit(0, 0, ((entry(0, 0),),), stop=Stop("target", 0)))
    again = View.load(json.loads(json.dumps(view.dump())), 1, 10)
    assert again.stop == Stop("target", 0)

"""The log in numbers: what may follow, and that every update gets one fate."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.errors import BadObject
from lambdaml.log.records import Commit, Entry, Stop
from lambdaml.log.state import LogState


def entry(worker: int, seq: int, **changes: object) -> Entry:
    return replace(Entry(worker, seq, 0, 1, 8, 0.5, 0, 1.0), **changes)  # type: ignore[arg-type]


def test_a_commit_moves_everything_on() -> None:
    log_state = LogState(3, 10)
    refused = (entry(1, 0, fate="rejected", generation=4), entry(2, 0, fate="discarded"))
    log_state.advance(Commit(0, 0, ((entry(0, 0),), (entry(0, 1),)), refused))
    assert (log_state.commit, log_state.version, log_state.next_seq, log_state.rejected) == (1, 2, [2, 1, 1], 1)
    assert log_state.generation == [1, 4, 1]
    assert (log_state.progress, log_state.stop) == (4, None)


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
        LogState(3, 10).advance(commit)


def test_a_commit_that_is_refused_changes_nothing() -> None:
    log_state = LogState(3, 10)
    before = log_state.dump()
    with pytest.raises(BadObject):
        log_state.advance(Commit(0, 0, ((entry(0, 0), entry(1, 0), entry(2, 5)),)))
    assert log_state.dump() == before


def test_nothing_follows_the_end() -> None:
    log_state = LogState(1, 10)
    log_state.advance(Commit(0, 0, ((entry(0, 0),),), stop=Stop("target", 0)))
    with pytest.raises(BadObject):
        log_state.advance(Commit(1, 1, ((entry(0, 1),),)))


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=8), st.integers(0, 7))
def test_a_view_from_a_snapshot_goes_on_like_the_one_it_was_taken_from(rounds: list[list[int]], cut: int) -> None:
    whole = LogState(3, 100)
    resumed = LogState(3, 100)
    counts = [0, 0, 0]
    for number, workers in enumerate(rounds):
        if number == cut:
            resumed = LogState.load(json.loads(json.dumps(whole.dump())), 3, 100)
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
    assert whole.next_seq == counts


def test_a_view_from_a_snapshot_knows_that_the_run_has_ended() -> None:
    """The last snapshot is taken after the last commit: a function that starts from it must not go on."""
    log_state = LogState(1, 10)
    log_state.advance(Commit(0, 0, ((entry(0, 0),),), stop=Stop("target", 0)))
    again = LogState.load(json.loads(json.dumps(log_state.dump())), 1, 10)
    assert again.stop == Stop("target", 0)

"""A run that keeps its promises verifies; one that was tampered with does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import lambdaml
from lambdaml.log import keys
from lambdaml.log.records import Commit, Digest, Entry, Stop, Update
from lambdaml.log.snapshot import State
from lambdaml.storage import copy
from tests.lambdaml.lab import Tiny, memory, train

STEPS = 12
SCHEDULES = [
    "bsp",
    "pipeline:1",
    "pipeline:2",
    "ssp:0",
    "ssp:2",
    "asp",
    "quorum:1",
    "quorum:2",
    "quorum:3",
    "quorum:2,late=weight",
]


@pytest.fixture(scope="module")
def bsp() -> lambdaml.Run:
    return train(Tiny, workers=3, steps=STEPS, snapshot_every=4)


@pytest.fixture(scope="module")
def asp() -> lambdaml.Run:
    return train(Tiny, workers=3, steps=STEPS, schedule="asp", snapshot_every=4, functions=1)


@pytest.fixture(scope="module")
def quorum() -> lambdaml.Run:
    return train(Tiny, workers=3, steps=STEPS, schedule="quorum:1", snapshot_every=4, functions=1)


@pytest.fixture(params=["bsp", "asp"])
def run(request: pytest.FixtureRequest) -> lambdaml.Run:
    return duplicate(request.getfixturevalue(request.param))


def duplicate(run: lambdaml.Run) -> lambdaml.Run:
    target = memory()
    copy(run.store, target)
    return lambdaml.Run(target)


def faults(run: lambdaml.Run) -> list[str]:
    return lambdaml.Run(run.store).verify().faults


def log(run: lambdaml.Run) -> list[Commit]:
    return list(run.log())


def rewrite(run: lambdaml.Run, commit: Commit, **changes: Any) -> None:
    run.store.put(keys.log(commit.commit), replace(commit, **changes).pack())


def read_update(run: lambdaml.Run, worker: int, seq: int) -> Update:
    data = run.store.get(keys.update(worker, seq))
    assert data is not None
    return Update.unpack(data, worker, seq)


def middle(run: lambdaml.Run) -> Commit:
    commits = [commit for commit in log(run) if commit.steps and commit.stop is None]
    return commits[len(commits) // 2]


def change_entry(run: lambdaml.Run, **changes: Any) -> None:
    commit = middle(run)
    first, *others = commit.steps[0]
    rewrite(run, commit, steps=((replace(first, **changes), *others), *commit.steps[1:]))


def flip(run: lambdaml.Run, key: str, at: float) -> None:
    data = bytearray(run.store.get(key) or b"")
    data[min(len(data) - 1, int(at * len(data)))] ^= 0x10
    run.store.put(key, data)


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_of_any_schedule_and_codec_ends_and_verifies(schedule: str, codec: str) -> None:
    run = train(Tiny, workers=3, steps=STEPS, schedule=schedule, codec=codec, staleness="inverse", snapshot_every=4)
    report = run.verify()
    assert report.faults == []
    summary = run.summary()
    published = len(list(run.store.list(keys.UPDATES)))
    assert (report.commits, report.version, report.updates) == (summary.commits, summary.version, summary.updates)
    assert report.updates + report.pending == published
    assert report.model
    assert report.digests > 0
    assert report.snapshots == len(list(run.store.list(keys.SNAPSHOTS)))
    if not schedule.startswith("quorum"):
        assert report.pending == 0
        assert report.updates == 3 * STEPS


def test_every_update_of_an_untampered_run_has_one_fate(bsp: lambdaml.Run, asp: lambdaml.Run) -> None:
    for run in (bsp, asp):
        fated = [(entry.worker, entry.seq) for commit in run.log() for entry in commit.entries]
        published = [keys.update_id(info.key) for info in run.store.list(keys.UPDATES)]
        assert sorted(fated) == sorted(published) == [(w, s) for w in range(3) for s in range(STEPS)]


@pytest.mark.parametrize("which", [0, STEPS // 2, STEPS - 1])
def test_a_log_entry_that_is_missing_is_found(run: lambdaml.Run, which: int) -> None:
    run.store.delete([keys.log(len(log(run)) - 1 if which == STEPS - 1 else which)])
    assert faults(run)


@pytest.mark.parametrize("seq", [0, STEPS // 2, STEPS - 1])
def test_an_update_that_is_missing_is_found(run: lambdaml.Run, seq: int) -> None:
    run.store.delete([keys.update(1, seq)])
    assert any(keys.update(1, seq) in fault for fault in faults(run))


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize(
    "key", [keys.update(1, 5), keys.log(3), keys.snapshot(0), keys.MODEL, "last snapshot"], ids=lambda key: key
)
def test_a_flipped_byte_is_found(run: lambdaml.Run, key: str, at: float) -> None:
    if key == "last snapshot":
        key = [info.key for info in run.store.list(keys.SNAPSHOTS)][-1]
    flip(run, key, at)
    assert faults(run)


@pytest.mark.parametrize("key", [keys.update(1, 5), keys.log(3), keys.snapshot(0), keys.MODEL])
@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_object_is_found(run: lambdaml.Run, key: str, keep: int) -> None:
    run.store.put(key, bytes(run.store.get(key) or b"")[:keep])
    assert faults(run)


def test_a_second_fate_is_found(run: lambdaml.Run) -> None:
    commits = log(run)
    again = replace(commits[1].applied[0], fate="discarded", reason="late", weight=0.0)
    rewrite(run, commits[-1], refused=(again,))
    assert faults(run)


def test_the_same_update_twice_in_one_commit_is_found(run: lambdaml.Run) -> None:
    commit = middle(run)
    rewrite(run, commit, steps=(*commit.steps, (commit.applied[0],)))
    assert faults(run)


def test_a_fate_for_an_update_that_was_never_published_is_found(run: lambdaml.Run) -> None:
    last = log(run)[-1]
    ghost = Entry(0, STEPS, last.version, 1, 8, 0.5, 0, 0.0, "discarded", "late")
    rewrite(run, last, refused=(ghost,))
    assert any(keys.update(0, STEPS) in fault for fault in faults(run))


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 0.25},
        {"weight": 0.0},
        {"samples": 9},
        {"loss": 0.123},
        {"staleness": 7},
        {"base": 0},
        {"generation": 2},
    ],
    ids=str,
)
def test_a_log_entry_that_says_something_else_than_its_update_is_found(
    run: lambdaml.Run, changes: dict[str, Any]
) -> None:
    change_entry(run, **changes)
    assert faults(run)


def test_another_order_within_a_synchronous_step_is_found(bsp: lambdaml.Run) -> None:
    run = duplicate(bsp)
    commit = middle(run)
    rewrite(run, commit, steps=(tuple(reversed(commit.steps[0])),))
    assert faults(run)


def test_another_order_of_log_entries_is_found(run: lambdaml.Run) -> None:
    one, two = log(run)[3:5]
    rewrite(run, one, steps=two.steps)
    rewrite(run, two, steps=one.steps)
    assert faults(run)


def test_an_update_replaced_by_another_valid_one_is_found(run: lambdaml.Run) -> None:
    update = read_update(run, 1, 5)
    update.body = {"gradient": update.body["gradient"] * np.float32(1.0001)}
    run.store.put(keys.update(1, 5), update.pack())
    assert faults(run)


def test_the_last_update_replaced_by_another_valid_one_is_found(run: lambdaml.Run) -> None:
    update = read_update(run, 2, STEPS - 1)
    update.body = {"gradient": -update.body["gradient"]}
    run.store.put(keys.update(2, STEPS - 1), update.pack())
    assert faults(run)


def test_an_update_moved_to_another_key_is_found(run: lambdaml.Run) -> None:
    run.store.put(keys.update(1, 5), bytes(run.store.get(keys.update(2, 5)) or b""))
    assert faults(run)


def test_an_applied_update_that_had_to_be_rejected_is_found(run: lambdaml.Run) -> None:
    update = read_update(run, 1, 5)
    broken = update.body["gradient"].copy()
    broken[0] = np.nan
    update.body = {"gradient": broken}
    run.store.put(keys.update(1, 5), update.pack())
    assert any("must be rejected" in fault for fault in faults(run))


@pytest.mark.parametrize("version", [3, 100_000])
def test_a_snapshot_of_a_state_that_the_log_does_not_make_is_found(run: lambdaml.Run, version: int) -> None:
    run.store.put(keys.snapshot(version), bytes(run.store.get(keys.snapshot(0)) or b""))
    assert faults(run)


def test_a_valid_snapshot_of_another_state_is_found(run: lambdaml.Run) -> None:
    key = [info.key for info in run.store.list(keys.SNAPSHOTS)][1]
    state = State.load(run.store.get(key) or b"", key)
    tensors = {name: tensor + 1 for name, tensor in state.tensors.items()}
    run.store.put(key, State(tensors, state.meta).dump())
    assert faults(run)


def test_another_initial_state_is_found(run: lambdaml.Run) -> None:
    key = keys.snapshot(0)
    state = State.load(run.store.get(key) or b"", key)
    tensors = {name: tensor * 1.001 for name, tensor in state.tensors.items()}
    run.store.put(key, State(tensors, state.meta).dump())
    assert faults(run)


def test_a_missing_first_snapshot_does_not_hide_a_tampered_tail(run: lambdaml.Run) -> None:
    run.store.delete([keys.snapshot(0)])
    assert faults(run) == []
    flip(run, keys.update(2, STEPS - 1), 1.0)
    assert faults(run)


def test_the_model_of_another_version_is_found(run: lambdaml.Run) -> None:
    run.store.put(keys.MODEL, run.replay(5).dump_model())
    assert faults(run)


def test_a_wrong_digest_is_found(run: lambdaml.Run) -> None:
    last = log(run)[-1]
    key = [info.key for info in run.store.list(keys.SNAPSHOTS)][1]
    commits = State.load(run.store.get(key) or b"", key).meta["log_state"]["commit"]
    rewrite(run, last, digest=Digest(commits, "0" * 64))
    assert faults(run)


def test_a_log_that_goes_on_after_its_end_is_found(run: lambdaml.Run) -> None:
    last = log(run)[-1]
    more = Commit(last.commit + 1, last.last_version, (), stop=Stop("cancelled"))
    run.store.put(keys.log(more.commit), more.pack())
    assert faults(run)


def test_a_result_of_a_log_that_has_no_end_is_found(run: lambdaml.Run) -> None:
    rewrite(run, log(run)[-1], stop=None)
    assert faults(run)


def test_an_end_before_the_run_was_finished_is_found(run: lambdaml.Run) -> None:
    """Cut off whole, with the result of that version put in its place: only the number of steps tells."""
    cut = 6
    commits = log(run)
    version = commits[cut].version
    state = run.replay(version)
    run.store.delete([keys.log(commit.commit) for commit in commits[cut:]])
    run.store.delete([i.key for i in run.store.list(keys.SNAPSHOTS) if keys.number(i.key) > version])
    rewrite(run, commits[cut - 1], stop=Stop("steps"))
    run.store.put(keys.snapshot(version), state.dump())
    run.store.put(keys.MODEL, state.dump_model())
    assert faults(run)


def refused(run: lambdaml.Run) -> tuple[Commit, Entry]:
    return next((commit, entry) for commit in log(run) for entry in commit.refused)


def put_flipped(run: lambdaml.Run, entry: Entry) -> None:
    flip(run, keys.update(entry.worker, entry.seq), 0.9)


def rewrite_refused(run: lambdaml.Run, **changes: Any) -> None:
    commit, entry = refused(run)
    rewrite(run, commit, refused=tuple(replace(e, **changes) if e == entry else e for e in commit.refused))


TAMPER_REFUSED: dict[str, Callable[[lambdaml.Run], None]] = {
    "deleted": lambda run: run.store.delete([keys.update(refused(run)[1].worker, refused(run)[1].seq)]),
    "flipped": lambda run: put_flipped(run, refused(run)[1]),
    "called rejected": lambda run: rewrite_refused(run, fate="rejected", reason="gradient is not finite"),
    "other loss": lambda run: rewrite_refused(run, loss=0.123),
    "other samples": lambda run: rewrite_refused(run, samples=1),
}


@pytest.mark.parametrize("tamper", TAMPER_REFUSED.values(), ids=TAMPER_REFUSED)
def test_a_refused_update_is_checked_too(quorum: lambdaml.Run, tamper: Callable[[lambdaml.Run], None]) -> None:
    run = duplicate(quorum)
    assert faults(run) == []
    tamper(run)
    assert faults(run)


def test_verifying_reports_how_far_it_is(bsp: lambdaml.Run) -> None:
    from lambdaml.training.verify import verify

    seen: list[tuple[int, int]] = []
    verify(bsp, lambda done, total: seen.append((done, total)))
    assert seen == [(done, STEPS) for done in range(1, STEPS + 1)]

"""Clients left out: their slots are empty, all else is as if they took part, and a rerun without any has the same bits."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.records import Update
from lambdaml.schedules.cohort import Cohorts
from lambdaml.traces import Trace
from lambdaml.worker import stop_watcher
from tests.lambdaml.algorithms.plain import federated
from tests.lambdaml.algorithms.test_local_steps import JOBS, UNEVEN, job
from tests.lambdaml.lab import ClassMeans, Tiny, broken_off, equal, model_bytes, replica_of, train, update_of
from tests.lambdaml.worker.test_kills import Killer
from tests.lambdaml.worker.test_kills import train as train_killed

FEDAVG: dict[str, Any] = {
    "workers": 7,
    "steps": 8,
    "algorithm": "local:2",
    "partition": "dirichlet:1",
    "schedule": "cohort:3",
    "snapshot_every": 2,
    "functions": 2,
    "engine": "inline",
}
LEFT_OUT = ("discarded", "left out")


def again(run: lambdaml.Run, *without: int, since: int = 0, **options: Any) -> lambdaml.Run:
    place = f"memory://{secrets.token_hex(6)}"
    given = {"functions": 2, "engine": "inline", **options}
    return lambdaml.Run(run.rerun(place, without, since, **given).run, run._job)


@pytest.mark.parametrize(
    "options",
    [
        FEDAVG,
        {**FEDAVG, "codec": "topk:0.3"},
        {**FEDAVG, "algorithm": "local:2,inner=keep", "schedule": "bsp"},
        {"workers": 3, "steps": 6, "schedule": "pipeline:1", "pattern": "tree:2"},
        {"workers": 4, "steps": 6, "schedule": "groups:2"},
    ],
)
def test_a_rerun_of_all_clients_has_the_bits_of_the_run(options: dict[str, Any]) -> None:
    run = train(Tiny, **options)
    repeated = again(run)
    assert model_bytes(repeated) == model_bytes(run)
    kept = run.settings.model_copy(update={"token": "", "extra": None})
    assert repeated.settings.model_copy(update={"token": ""}) == kept
    assert repeated.verify().faults == []


def test_a_rerun_measures_nothing_and_has_the_bits_of_a_run_that_did() -> None:
    run = train(Tiny, extra="per-sample:3", **FEDAVG)
    repeated = again(run)
    assert model_bytes(repeated) == model_bytes(run)
    assert not list(repeated.store.list(keys.EXTRA_OBJECTS)) and not list(repeated.store.list(keys.PINS))


@pytest.mark.parametrize(
    "what", ["uneven shares by samples", "uneven shares that count alike", "a schedule of steps", "clipped gradients"]
)
def test_rounds_without_a_client_are_those_of_a_plain_loop_without_it_bit_for_bit(what: str) -> None:
    made, options = JOBS[what]
    spec = "local:3,inner=anew" + (",weights=equal" if options.get("equal") else "")
    run = lambdaml.Run(train(made, workers=4, steps=4, algorithm=spec, keep="all").store, made)
    left = again(run, 2)
    for version, expected in enumerate(federated(made, 4, 12, 3, without=[2], **options)):
        assert equal(dict(left.model(version + 1).state_dict()), dict(expected.state_dict())), version


def test_two_workers_of_which_one_is_left_out_are_the_other_one() -> None:
    made = job(UNEVEN)
    run = lambdaml.Run(train(made, workers=2, steps=5, algorithm="local:3", keep="all").store, made)
    left = again(run, 0)
    for version, expected in enumerate(federated(made, 2, 15, 3, without=[0])):
        assert equal(dict(left.model(version + 1).state_dict()), dict(expected.state_dict()))


def test_the_slots_of_a_client_are_empty_and_those_of_others_are_not() -> None:
    run = train(Tiny, **FEDAVG)
    left, cohorts = again(run, 3, 5), Cohorts(7, 3, run.settings.seed)
    drawn = {(slot, turn): client for turn in range(8) for slot, client in enumerate(cohorts.members(turn))}
    for commit in left.log():
        for entry in commit.entries:
            empty = drawn[entry.worker, entry.seq] in (3, 5)
            assert ((entry.fate, entry.reason) == LEFT_OUT) == empty
            key = keys.update(entry.worker, entry.seq)
            update = Update.read(left.store.get(key) or b"", key)
            assert (update.left_out, not update.body, update.compute_s == 0) == (empty, empty, empty)
    summary = left.summary()
    assert summary.fates["discarded"] == sum(client in (3, 5) for client in drawn.values()) > 2
    assert summary.samples < run.summary().samples
    report = left.verify(deep=1)
    assert report.faults == [] and report.recomputed == 24
    trace = Trace.of(left)
    assert lambdaml.replay_trace(trace, left.job()).state.dump_model() == model_bytes(left)


def test_clients_are_left_out_from_a_version_on() -> None:
    run = train(Tiny, **{**FEDAVG, "keep": "all"})
    left = again(run, 3, 5, since=4)
    same = [run.replay(version).dump_model() == left.replay(version).dump_model() for version in range(9)]
    assert same[:5] == [True] * 5 and not any(same[6:])
    assert all(entry.seq >= 4 for commit in left.log() for entry in commit.refused)


def test_a_round_in_which_all_are_left_out_takes_no_step() -> None:
    run = train(Tiny, **{**FEDAVG, "workers": 4, "schedule": "cohort:2"})
    left, cohorts = again(run, 0, 1, 3), Cohorts(4, 2, run.settings.seed)
    steps = [2 in cohorts.members(turn) for turn in range(8)]
    assert [bool(commit.steps) for commit in left.log()] == steps
    assert 0 < left.summary().version == sum(steps) < 8
    assert left.verify(deep=1).faults == []


def test_history_goes_as_in_any_run() -> None:
    run = train(Tiny, **{**FEDAVG, "steps": 40, "keep": 8})
    left = again(run, 3)
    assert len(list(left.store.list(keys.UPDATES))) < 3 * 25
    assert left.verify(deep=1).faults == [] and left.gc() > 0
    assert left.replay(40).dump_model() == model_bytes(left)


def test_a_claim_to_be_left_out_that_nobody_asked_for_is_found() -> None:
    run = again(train(Tiny, **FEDAVG), 3)
    honest = next(entry for commit in run.log() for entry in commit.refused)
    settings = run.settings.model_copy(update={"without": [6]})
    run.store.put(keys.RUN, settings.dump())
    faults = lambdaml.Run(run.store).verify().faults
    assert (
        f"{keys.update(honest.worker, honest.seq)} leaves out client 3, which the settings and the log do not" in faults
    )
    assert any("holds the update of client 6" in fault for fault in faults)


def test_functions_are_killed_and_the_bits_without_a_client_are_the_same(tmp_path: Path) -> None:
    options: dict[str, Any] = {**FEDAVG, "steps": 20, "workers": 9, "schedule": "cohort:4", "engine": "local"}
    original = train_killed(f"file://{tmp_path}/original", **options)
    killer, place = Killer(6, seed=4), f"file://{tmp_path}/run?latency=5ms"
    killed = lambdaml.rerun(original.run, place, [2, 7], engine="local", functions=2, on_event=killer)
    alone = lambdaml.rerun(original.run, f"memory://{tmp_path.name}", [2, 7])
    assert killer.done == 6 and killed.model_sha256 == alone.model_sha256 != original.model_sha256
    assert killed.fates == alone.fates and killed.fates["discarded"] > 0
    assert lambdaml.Run(f"file://{tmp_path}/run").verify(deep=1).faults == []


def trained_with_changes(monkeypatch: pytest.MonkeyPatch, *changes: list[int]) -> lambdaml.Run:
    """Return a run in which each of these lists of clients is asked for after a few rounds with the one before."""
    monkeypatch.setattr(stop_watcher, "STOP_POLL_S", 0.002)
    url, todo, due = f"memory://{secrets.token_hex(6)}", list(changes), [3]

    def on_event(event: Any) -> None:
        if event.event != "commit":
            return
        run = lambdaml.Run(url)
        heeded = [commit.commit for commit in run.log() for _ in commit.controls]
        if len(heeded) == len(changes) - len(todo) and event.commit >= max([*heeded, 0]) + due[0]:
            run.change("without", todo.pop(0)) if todo else run.cancel()

    lambdaml.train(Tiny, url, on_event=on_event, **{**FEDAVG, "steps": 5000})
    return lambdaml.Run(url)


def test_clients_are_left_out_in_mid_run_from_one_commit_on_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained_with_changes(monkeypatch, [5, 3], [])
    first, second = (commit.commit for commit in run.log() for _ in commit.controls)
    assert run.status().changes == ("without = 3,5", "without = nobody")
    cohorts = Cohorts(7, 3, run.settings.seed)
    for commit in run.log():
        for entry in commit.entries:
            due = first < commit.commit <= second and cohorts.members(entry.seq)[entry.worker] in (3, 5)
            assert ((entry.fate, entry.reason) == LEFT_OUT) == due, commit.commit
    report = run.verify(deep=1)
    assert report.faults == [] and report.recomputed == 3 * len(list(run.log()))
    assert lambdaml.replay_trace(Trace.of(run), run.job()).state.dump_model() == run.replay().dump_model()
    with pytest.raises(SettingsError, match=r"was changed while it went on \(without = 3,5, without = nobody\)"):
        again(run)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([7], "there is no client 7: the run has 7, from 0 to 6"),
        ([-1], "there is no client -1"),
        (list(range(7)), "all 7 clients"),
        (3.0, "a list of clients"),
        (["3"], "a list of clients"),
    ],
)
def test_clients_that_do_not_exist_are_refused_in_mid_run(value: Any, words: str) -> None:
    run = broken_off(Tiny, **{**FEDAVG, "functions": 1})
    with pytest.raises(SettingsError, match=words) as caught:
        run.change("without", value)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert not list(run.store.list(keys.CONTROLS))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"schedule": "pipeline:1"}, "'pipeline:1'"),
    ({"schedule": "groups:2", "workers": 4}, "'groups:2'"),
    ({"pattern": "tree:2"}, "pattern 'tree:2'"),
    ({"aggregate": "median"}, "aggregate 'median'"),
    ({"algorithm": "local:2,inner=keep"}, "'local:2,inner=keep' has workers that remember"),
    ({"algorithm": "presum:2"}, "'presum:2' adds up"),
    ({"algorithm": "admm:1"}, "'admm:1'"),
    ({"codec": "topk:0.5"}, "codec 'topk:0.5'"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_what_does_not_go_with_an_empty_slot_is_refused_in_a_line(options: dict[str, Any], words: str) -> None:
    run = train(Tiny, **{"workers": 3, "steps": 2, **options})
    with pytest.raises(SettingsError, match=words) as caught:
        again(run, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schedule", "algorithm"), [("asp", "gradient"), ("quorum:2", "gradient"), ("bsp", "local:auto")]
)
def test_a_run_that_rests_on_clocks_cannot_be_repeated(schedule: str, algorithm: str) -> None:
    run = train(Tiny, workers=3, steps=2, schedule=schedule, algorithm=algorithm)
    with pytest.raises(SettingsError, match=schedule if schedule != "bsp" else algorithm):
        again(run)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: again(run, 9), "there is no client 9"),
        (lambda run: again(run, *range(7)), "all 7 clients"),
        (lambda run: again(run, since=3), "since"),
        (lambda run: again(run, 1, since=-1), "since"),
        (lambda run: again(again(run, 1), 2), "leaves out 1 already"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(call: Callable[[lambdaml.Run], Any], words: str) -> None:
    run = train(Tiny, **FEDAVG)
    with pytest.raises(SettingsError, match=words) as caught:
        call(run)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_statistics_are_means_over_those_who_are_left() -> None:
    options: dict[str, Any] = {"algorithm": "statistics", "workers": 3, "steps": 4, "partition": "shards:1"}
    left = again(train(ClassMeans, **options), 1)
    assert left.summary().fates == {"applied": 8, "discarded": 4, "rejected": 0} and left.verify(deep=1).faults == []


def test_an_update_that_is_left_out_and_holds_something_is_rejected() -> None:
    replica = replica_of(Tiny(), workers=2)
    full = update_of(replica, 0, 0)
    assert replica.check(full) == ""
    empty = replace(full, left_out=True, body={}, loss=float("nan"))
    assert replica.check(empty) == ""
    assert "holds something" in replica.check(replace(empty, body=full.body))
    assert "claims 3 samples" in replica.check(replace(empty, samples=3))

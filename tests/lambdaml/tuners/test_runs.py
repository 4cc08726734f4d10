"""Tuned runs: models travel, are judged without a trace, and the log turns the knob."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.cost.billing.travels import travel_cost
from lambdaml.errors import JobError, SettingsError, UserError
from lambdaml.events import Event
from lambdaml.log import keys, wire
from lambdaml.log.records import Commit, Control, Update
from lambdaml.log.travel import read_travel
from lambdaml.log.tuned import DERIVED
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.settings import Settings
from lambdaml.traces import Trace
from lambdaml.training.own_state import own_state
from lambdaml.worker import stop_watcher
from tests.lambdaml.lab import Tiny, TinyWide, memory, model_bytes, train

GAIA: dict[str, Any] = {
    "workers": 4,
    "steps": 24,
    "algorithm": "local:1,ahead=yes,outer=sum",
    "codec": "significant:0.05,decay=none",
    "partition": "skew:1",
    "functions": 2,
    "keep": "all",
    "snapshot_every": 6,
}
TUNE = "skewscout:every=6"


class Sensitive(Tiny):
    """What a judgement must leave as it was: random streams, running statistics, counters, and modules that do not train."""

    def model(self) -> nn.Module:
        still = nn.BatchNorm1d(8)
        model = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 8), still, nn.Linear(8, 3)
        )
        train = model.train

        def keep_still(mode: bool = True) -> nn.Module:
            train(mode)
            still.eval()
            return model

        model.train = keep_still  # type: ignore[method-assign]
        return model


def bodies(run: lambdaml.Run) -> dict[str, bytes]:
    """The bodies of all updates."""
    found = {}
    for info in run.store.list(keys.UPDATES):
        update = Update.read(run.store.get(info.key) or b"", info.key)
        found[info.key] = b"".join(np.ascontiguousarray(update.body[name]).tobytes() for name in sorted(update.body))
    return found


def rewritten(run: lambdaml.Run, key: str, old: bytes, new: bytes) -> None:
    """Put another text into a log entry, with its checksum right."""
    data = bytes(run.store.get(key) or b"")
    assert data.count(old) == 1, data
    record = json.loads(data.replace(old, new))
    run.store.put(key, wire.dump_json({name: record[name] for name in record if name not in ("schema", "crc32")}))


@pytest.mark.parametrize("job", [Sensitive, TinyWide])
def test_a_tuner_that_may_not_move_changes_no_bit_of_the_run(job: type[Tiny]) -> None:
    still = train(job, tune=f"{TUNE},span=1", **GAIA)
    plain = train(job, **GAIA)
    assert model_bytes(still) == model_bytes(plain)
    assert bodies(still) == bodies(plain)
    assert [commit.commit for commit in still.log() if commit.tuned and commit.tuned.state] == [6, 12, 18]
    assert not any(commit.controls for commit in still.log())


def test_each_worker_in_turn_lets_its_own_model_travel_and_all_judge_it() -> None:
    run = train(TinyWide, tune=TUNE, **GAIA)
    assert [info.key for info in run.store.list(keys.TRAVEL)] == [
        keys.travel(0, 5),
        keys.travel(1, 11),
        keys.travel(2, 17),
        keys.travel(3, 23),
    ]
    for info in run.store.list(keys.UPDATES):
        update = Update.read(run.store.get(info.key) or b"", info.key)
        assert (update.judged is not None) == (update.seq in (6, 12, 18))
        assert update.judged is None or update.judged[1] == 16, "as many samples as a worker has"


def test_what_travels_is_the_own_model_in_a_quarter_of_its_bytes() -> None:
    run = train(TinyWide, tune=TUNE, **GAIA)
    key = keys.travel(1, 11)
    data = run.store.get(key) or b""
    assert len(data) < 0.26 * 4 * run.settings.parameters + 400
    scales = read_travel(data, key)["blocks"][:, :4].copy().view("<f4")
    own = own_state(run, 1, 12).model()
    largest = max(float(tensor.abs().max()) for tensor in own.values())
    assert float(scales.max()) * 127 == pytest.approx(largest, rel=0.2)


def test_the_log_says_what_was_seen_and_the_knob_changes_what_is_sent() -> None:
    run = train(TinyWide, tune="skewscout:every=6,factor=4,loss=1", **GAIA)
    turns = [(commit.commit, c.what, c.value) for commit in run.log() for c in commit.controls if c.number == DERIVED]
    assert turns == [(6, "threshold", 0.2), (12, "threshold", 0.8)], "and then the span ends"
    sent = [commit.tuned.sent_bytes for commit in run.log() if commit.tuned]
    assert len(sent) == GAIA["steps"] and sum(sent[13:19]) < 0.7 * sum(sent[1:7])
    bytes_of = {info.key: info.size_bytes for info in run.store.list(keys.UPDATES)}
    assert sum(bytes_of.values()) > sum(sent) > 0
    assert run.verify().controls == ["the tuner set threshold = 0.8 after 2 changes"]
    assert [change["value"] for change in Trace.of(run).meta["controls"]] == [0.2, 0.8]
    assert run.status().changes == ("the tuner set threshold = 0.8",)


FEDAVG: dict[str, Any] = {"workers": 4, "steps": 24, "algorithm": "local:8", "partition": "skew:1", "keep": "all"}


def test_the_number_of_local_steps_is_a_knob_and_no_batch_is_left_out_or_taken_twice() -> None:
    run = train(TinyWide, tune="skewscout:every=6,factor=2,loss=1", **FEDAVG)
    turns = [(commit.commit, c.what, c.value) for commit in run.log() for c in commit.controls]
    assert turns[0] == (6, "steps", 16) and all(isinstance(value, int) and value >= 1 for _, _, value in turns)
    due = 0
    for seq in range(24):
        steps = next((value for commit, _, value in reversed(turns) if commit < seq), 8)
        update = Update.read(run.store.get(keys.update(2, seq)) or b"", keys.update(2, seq))
        assert update.batches == (due, steps)
        due += steps
    report = run.verify(deep=1)
    assert report.faults == [] and report.recomputed == 4 * 24
    rewritten(run, keys.log(6), b'"value":16}', b'"value":17}')
    assert any("other batches than the log has decided" in fault for fault in run.verify().faults)


def test_the_pace_of_a_warm_up_is_a_knob() -> None:
    options = GAIA | {"algorithm": "local:1,ahead=yes", "codec": "topk:0.1,warmup=0.8/0.7/0.6/0.5/0.4/0.3/0.2"}
    run, plain = (train(TinyWide, **options, **more) for more in ({"tune": "skewscout:every=6,loss=1,factor=4"}, {}))
    turns = [(commit.commit, c.what, c.value) for commit in run.log() for c in commit.controls]
    assert turns[0] == (6, "warmup", 4.0)
    sent, due = (sum(len(body) for body in bodies(one).values()) for one in (run, plain))
    assert sent < 0.8 * due and run.verify(deep=1).faults == []


def test_a_number_of_local_steps_that_may_not_change_changes_no_bit_of_the_run() -> None:
    still, plain = (train(TinyWide, **FEDAVG, **more) for more in ({"tune": f"{TUNE},span=1"}, {}))
    assert model_bytes(still) == model_bytes(plain)
    assert bodies(still) == bodies(plain)


def test_a_tuned_number_of_local_steps_needs_a_number_of_updates() -> None:
    with pytest.raises(SettingsError, match="give the number of updates"):
        train(TinyWide, tune=TUNE, epochs=3, **{name: value for name, value in FEDAVG.items() if name != "steps"})


def test_a_learning_rate_that_somebody_asks_for_changes_beside_the_knob(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_watcher, "STOP_POLL_S", 0.002)
    store = memory()
    asked = [False]

    def on_event(event: Event) -> None:
        if event.event == "commit" and event.commit >= 8 and not asked[0]:
            asked[0] = True
            lambdaml.Run(store).change("lr", 0.02)
        if event.event == "commit" and any(
            c.what == "lr" for commit in lambdaml.Run(store).log() for c in commit.controls
        ):
            lambdaml.Run(store).cancel()

    options = GAIA | {"steps": 5000, "tune": f"{TUNE},loss=1", "codec": "significant:0.01,decay=none"}
    lambdaml.train(Tiny, store, on_event=on_event, **options)
    run = lambdaml.Run(store, Tiny())
    numbers = [(c.number, c.what) for commit in run.log() for c in commit.controls]
    assert (0, "lr") in numbers and (DERIVED, "threshold") in numbers
    assert run.verify().faults == []


def test_verify_finds_a_decision_that_the_updates_do_not_tell_of() -> None:
    run = train(TinyWide, tune=f"{TUNE},loss=1,factor=4", **GAIA)
    assert run.verify().faults == []
    rewritten(run, keys.log(6), b'"value":0.2}', b'"value":0.3}')
    assert any("does not tune the run" in fault for fault in run.verify().faults)


def test_verify_finds_a_change_in_a_run_that_has_no_tuner() -> None:
    run = train(TinyWide, **GAIA)
    key = keys.log(6)
    commit = Commit.read(run.store.get(key) or b"", key)
    run.store.put(key, replace(commit, controls=(Control(DERIVED, "threshold", 0.5),)).pack())
    assert run.verify().faults != []


def test_travelling_models_are_deleted_with_the_updates_that_judged_them() -> None:
    run = train(TinyWide, tune=TUNE, **GAIA | {"keep": 20, "steps": 60})
    left = [keys.update_id(info.key)[1] for info in run.store.list(keys.TRAVEL)]
    first = min(keys.update_id(info.key)[1] for info in run.store.list(keys.UPDATES))
    assert first > 20 and min(left) >= first - 1
    assert run.verify().faults == []
    run.gc()
    assert [keys.update_id(info.key)[1] for info in run.store.list(keys.TRAVEL)] == [59]


def test_the_bill_counts_what_travelled() -> None:
    run = train(TinyWide, tune=TUNE, **GAIA)
    found = travel_cost(run, run.store.list(""))
    assert found is not None and dict(found.requests) == {"create": 3, "get": 12}
    assert found.bytes_received == 4 * found.bytes_sent > 3 * run.settings.parameters
    assert travel_cost(train(Tiny, workers=2, steps=2), []) is None
    assert lambdaml.bill(run).to_dict()["tuning"]["get"] == 12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": "asp"}, "'asp'"),
        ({"schedule": "ssp:2"}, "'ssp:2'"),
        ({"schedule": "quorum:2"}, "'quorum:2'"),
        ({"schedule": "cohort:2", "partition": None}, "'cohort:2'"),
        ({"schedule": "pipeline:1"}, "'pipeline:1'"),
        ({"schedule": "groups:2", "algorithm": "local:1,sends=models", "codec": "fp32"}, "'groups:2'"),
        ({"pattern": "tree:2"}, "'tree:2'"),
        ({"pattern": "scatter", "codec": "fp32"}, "'scatter'"),
        ({"codec": "fp32", "algorithm": "gradient"}, "codec 'fp32'"),
        ({"codec": "significant:0", "algorithm": "local:epochs=1"}, "codec 'significant:0'"),
        ({"workers": 1}, "there is 1"),
        ({"codec": "topk:0.1,warmup=0.5", "algorithm": "gradient"}, "algorithm 'gradient'"),
    ],
)
def test_what_does_not_go_with_a_tuner_is_refused_by_name(change: Mapping[str, Any], words: str) -> None:
    names = ("workers", "algorithm", "codec", "partition", "schedule", "pattern")
    asked = {name: value for name, value in (GAIA | {"tune": "skewscout"} | change).items() if name in (*names, "tune")}
    with pytest.raises(SettingsError, match="tuner 'skewscout'") as caught:
        Parts.of(RunOptions(**asked))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


class Regression(Tiny):
    def dataset(self) -> Any:
        x, y = super().dataset().tensors
        return torch.utils.data.TensorDataset(x, y.float())


class Pairs(Tiny):
    def accuracy(self, model: nn.Module, batch: Any) -> Any:
        return 0.5


@pytest.mark.parametrize(("job", "words"), [(Regression, "labels"), (Pairs, "Pairs.accuracy must return")])
def test_a_job_that_cannot_judge_a_model_is_refused_before_the_run_begins(job: type[Tiny], words: str) -> None:
    store = memory()
    with pytest.raises(JobError, match=words):
        train(job, url=store.url, tune=TUNE, **GAIA | {"partition": "iid"})
    assert [info.key for info in store.list("")] == []


class Own(Tiny):
    """It says what a right answer is: that the true class is not the last one of three."""

    def accuracy(self, model: nn.Module, batch: Any) -> tuple[int, int]:
        x, y = batch
        assert not model.training and not torch.is_grad_enabled()
        worst = model(x).argmin(1)
        return int((worst != y).sum()), 2 * len(y)


def test_a_job_may_say_itself_what_a_right_answer_is() -> None:
    run = train(Own, tune=f"{TUNE},samples=10", **GAIA)
    judged = [Update.read(run.store.get(key) or b"", key).judged for key in (keys.update(w, 6) for w in range(4))]
    assert all(each is not None and each[1] == 20 for each in judged)


def test_a_tuned_run_is_repeated_bit_for_bit_with_its_decisions() -> None:
    run = train(TinyWide, tune=TUNE, **GAIA)
    store = memory()
    lambdaml.rerun(run, store, job=TinyWide(), engine="inline")
    assert any(commit.controls for commit in run.log())
    assert model_bytes(lambdaml.Run(store, TinyWide())) == model_bytes(run)


def test_a_trace_of_a_tuned_run_is_not_replayed_without_its_models() -> None:
    run = train(Tiny, tune=TUNE, **GAIA)
    with pytest.raises(UserError, match="models do not travel along a trace"):
        lambdaml.replay_trace(Trace.of(run), Tiny())


def test_a_run_of_before_there_were_tuners_has_none() -> None:
    run = train(Tiny, workers=2, steps=2)
    known = run.settings.model_dump()
    assert known.pop("tune") is None
    assert Settings(**known) == run.settings and Parts.of(run.settings).tuner is None
    assert "tuned" not in run.replay().meta["log_state"]

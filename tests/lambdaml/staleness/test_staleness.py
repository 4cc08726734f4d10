"""Staleness rules: their formulas, what they reduce to, and that every replica comes to the same weight and state."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.commits import build_commit, decision_of
from lambdaml.log.records import Commit, Entry, Update
from lambdaml.log.snapshot import RULE_PREFIX, State
from lambdaml.log.state import LogState
from lambdaml.schedules import SCHEDULES
from lambdaml.schedules.fixed import Fixed
from lambdaml.staleness import RULES
from lambdaml.staleness.discard import step_size
from lambdaml.staleness.exponential import similarity
from lambdaml.traces import Trace
from lambdaml.traces.delays import Recorded, synthetic_trace
from tests.lambdaml.lab import Made, Tiny, light, model_bytes, table, train
from tests.lambdaml.worker.test_kills import Killer
from tests.lambdaml.worker.test_kills import train as train_processes

STEPS = 10

# One of each kind that decides or remembers more than staleness -> weight.
STATEFUL = ["dc:2.0", "dc-a:strength=0.5,window=3", "ringleader", "nesterov:beta=0.8,c=0.1"]
OBSERVING = ["exponential:percentile=80", "exponential:percentile=70,boost=all", "discard:2", "ringmaster:decay=0.1"]


def entry_of(staleness: int, base: int = 100, worker: int = 0, labels: tuple[int, ...] = (), **more: Any) -> Entry:
    return Entry(worker, 0, base, 1, 8, 0.5, staleness, labels=labels, **more)


def judged(spec: str, staleness: int, workers: int = 8, base: int = 100) -> float | None:
    return RULES.make(spec).judge(entry_of(staleness, base), LogState(workers, 10))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("constant", {0: 1, 7: 1}),
        ("inverse", {0: 1, 1: 1 / 2, 7: 1 / 8}),
        ("sqrt", {0: 1, 3: 1 / 2, 8: 1 / 3}),
        ("polynomial", {0: 1, 3: 1 / 2, 8: 1 / 3}),
        ("polynomial:2", {0: 1, 1: 1 / 4, 3: 1 / 16}),
        ("hinge", {0: 1, 4: 1, 5: 1 / 11, 14: 1 / 101}),
        ("hinge:a=1,b=2", {2: 1, 3: 1 / 2, 6: 1 / 5}),
        ("exponential", {0: 1, 1: 1 / 2, 7: 1 / 8}),  # nothing observed yet
        ("exponential:threshold=12", {0: 1, 6: 1 / 7, 12: 1 / 49, 48: 1 / 49, 1: math.exp(-0.32431835)}),
        ("exponential:threshold=24", {12: 1 / 13, 24: 1 / 169, 100: 1 / 169, 1: math.exp(-0.21374578)}),
        ("adaptive", {0: 1, 8: 1, 9: 8 / 9, 80: 1 / 10}),
        ("adaptive:m=2", {2: 1, 4: 1 / 2}),
        ("adaptive:m=2,smooth=0.025", {2: 1, 8: 1, 20: 1 / 2}),
        ("discard:3", {0: 1, 2: 1, 3: None, 50: None}),
        ("discard:noise=4.1,target=2", {0: 1, 2: 1, 3: None}),
        ("discard:noise=0.1,target=2", {0: 1, 1: None}),
        ("discard:noise=4,target=1,smooth=2,lr=0.125", {0: 1 / 4, 4: None}),
        ("ringmaster", {0: 101**-0.75, 9: 110**-0.75, 11: None}),
        ("ringmaster:decay=0", {9: 1, 10: None}),
    ],
)
def test_weights_are_those_of_the_formula(spec: str, expected: dict[int, float | None]) -> None:
    for staleness, weight in expected.items():
        found = judged(spec, staleness)
        assert (found is None) == (weight is None), staleness
        assert weight is None or found == pytest.approx(weight, rel=1e-7)


def test_ringmaster_tolerates_nothing_at_first_and_fresh_updates_always() -> None:
    assert judged("ringmaster", 0, base=0) == 1
    assert judged("ringmaster", 1, base=0) is None
    assert judged("ringmaster", 1, base=3) == pytest.approx(5**-0.75)


@pytest.mark.parametrize(
    ("noise", "target", "smooth", "step"),
    [(4, 1, 2, 1 / 32), (0.5, 1, 2, 1 / 4), (8, 2, 0.5, 1 / 8), (1.1, 1, 1, 1 / 4.4)],
)
def test_the_step_of_theory_for_discarding(noise: float, target: float, smooth: float, step: float) -> None:
    assert step_size(noise, target, smooth) == pytest.approx(step)


def observed(counts: dict[int, int], labels: list[int] | None = None) -> LogState:
    log_state = LogState(4, 10)
    log_state.staleness, log_state.labels = counts, labels or []
    return log_state


@pytest.mark.parametrize(
    ("percentile", "counts", "threshold"),
    [
        (90, {0: 5, 3: 4, 40: 1}, 3),
        (90, {0: 50, 3: 39, 40: 11}, 40),
        (90, {40: 10, 0: 50, 3: 40}, 3),
        (50, {2: 1, 4: 1}, 2),
        (99.7, {2: 332}, None),
        (99.7, {2: 334}, 2),
        (90, {0: 100}, None),
    ],
)
def test_the_threshold_is_the_percentile_of_what_the_log_applied(
    percentile: float, counts: dict[int, int], threshold: int | None
) -> None:
    rule, log_state = RULES.make(f"exponential:percentile={percentile}"), observed(counts)
    for staleness in (0, 1, 2, 5, 50):
        same = RULES.make(f"exponential:threshold={threshold}" if threshold else "inverse")
        assert rule.judge(entry_of(staleness), log_state) == same.judge(entry_of(staleness), log_state)


@pytest.mark.parametrize(
    ("mine", "others", "expected"),
    [
        ((4, 4), (40, 40), 1.0),
        ((4, 0), (0, 9), 0.0),
        ((0, 0, 3), (5,), 0.0),
        ((1,), (1, 3), 0.5),
        ((), (1, 2), 1.0),
        ((5, 5), (), 1.0),
        ((5, 5), (0, 0), 1.0),
    ],
)
def test_similarity_is_the_bhattacharyya_coefficient(
    mine: tuple[int, ...], others: tuple[int, ...], expected: float
) -> None:
    assert similarity(mine, others) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("boost", "staleness", "labels", "factor"),
    [
        ("none", 48, (8, 0), 1),
        ("outliers", 48, (8, 0), 10),  # nothing in common: the floor of 0.1
        ("outliers", 48, (0, 8), 1),
        ("outliers", 48, (8, 8), math.sqrt(2)),
        ("outliers", 18, (8, 0), 1),  # 1.5 times the threshold is no outlier yet
        ("outliers", 19, (8, 0), 10),
        ("all", 6, (8, 8), math.sqrt(2)),
        ("all", 1, (8, 0), math.exp(0.32431835)),  # no weight exceeds 1
        ("all", 0, (8, 0), 1),
    ],
)
def test_boosting_divides_by_similarity(boost: str, staleness: int, labels: tuple[int, ...], factor: float) -> None:
    rule = RULES.make(f"exponential:threshold=12,boost={boost}")
    log_state = observed({}, [0, 100])
    plain = RULES.make("exponential:threshold=12").judge(entry_of(staleness), log_state)
    assert plain is not None
    assert rule.judge(entry_of(staleness, labels=labels), log_state) == pytest.approx(plain * factor)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("polynomial:-1", "a must be 0 or more, not -1.0"),
        ("polynomial:nan", "a must be 0 or more, not nan"),
        ("hinge:b=-1", "b must be 0 or more, not -1.0"),
        ("hinge:a=inf", "a must be 0 or more, not inf"),
        ("exponential:percentile=100", "percentile must lie between 0 and 100, not 100.0"),
        ("exponential:threshold=-2", "threshold must be 0 or more"),
        ("exponential:boost=some", "boost must be none, outliers or all, not 'some'"),
        ("adaptive:m=-1", "m must be 0 or more"),
        ("adaptive:smooth=nan", "smooth must be 0 or more"),
        ("discard", "give r, 1 or more, or both noise and target"),
        ("discard:0", "give r, 1 or more, or both noise and target"),
        ("discard:2,noise=1,target=1", "give r, 1 or more, or both noise and target"),
        ("discard:noise=1", "give r, 1 or more, or both noise and target"),
        ("discard:noise=1,target=1,lr=1", "the step of theory takes smooth, lr, noise and target"),
        ("discard:2,smooth=1,lr=1", "the step of theory takes smooth, lr, noise and target"),
        ("discard:x", "r must be of type int, not 'x'"),
        ("ringmaster:-1", "decay must be 0 or more"),
        ("dc:-0.1", "strength must be 0 or more"),
        ("dc:window=-1", "window must be 0 or more"),
        ("dc-a:decay=1", "decay must lie between 0 and 1"),
        ("ringleader:2", "ringleader takes no parameters"),
        ("nesterov:beta=1", "beta must lie between 0 and 1"),
        ("nesterov:n=4,c=0.5", "c must lie between 0 and 1/n"),
        ("nesterov:n=-1", "n must be 0 or more"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        RULES.make(spec)
    assert message in str(caught.value) and spec in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- what they reduce to


@pytest.fixture(scope="module")
def asp() -> lambdaml.Run:
    return train(workers=3, steps=STEPS, schedule="asp", functions=3, snapshot_every=3)


@pytest.mark.parametrize(
    "spec",
    [
        *("constant", "inverse", "sqrt", "polynomial", "hinge", "exponential", "exponential:boost=all", "adaptive"),
        *("discard:1", "ringmaster:decay=0", "dc", "dc-a", "ringleader", "nesterov:beta=0"),
    ],
)
def test_without_staleness_every_rule_is_a_synchronous_run_bit_for_bit(spec: str) -> None:
    trace = synthetic_trace("categorical:0", 3, 9)
    plain, replay = (lambdaml.replay_trace(trace, Tiny, staleness=rule) for rule in ("constant", spec))
    assert replay.state.dump_model() == plain.state.dump_model()
    optimizer = {name: tensor for name, tensor in plain.state.tensors.items() if name.startswith("optimizer/")}
    assert optimizer
    assert all(torch.equal(replay.state.tensors[name], tensor) for name, tensor in optimizer.items())


@pytest.mark.parametrize(
    "spec",
    [
        *("polynomial:0", "hinge:a=0", "hinge:b=1000", "adaptive:1000", "discard:1000"),
        *("dc:0", "dc-a:0", "nesterov:beta=0,n=1"),
    ],
)
def test_at_its_trivial_setting_a_rule_is_constant_bit_for_bit(spec: str, asp: lambdaml.Run) -> None:
    assert lambdaml.replay_trace(Trace.of(asp), Tiny, staleness=spec).state.dump_model() == model_bytes(asp)


@pytest.mark.parametrize(
    "spec",
    ["inverse", "sqrt", "polynomial:0.2", "hinge:b=1", "adaptive:1", *STATEFUL, *OBSERVING, "exponential:threshold=6"],
)
def test_with_staleness_a_rule_matters(spec: str, asp: lambdaml.Run) -> None:
    assert lambdaml.replay_trace(Trace.of(asp), Tiny, staleness=spec).state.dump_model() != model_bytes(asp)


def test_momentum_that_is_not_delayed_is_nesterovs() -> None:
    trace = synthetic_trace("categorical:0", 3, 30)
    plain = Made(optimizer=lambda ps: torch.optim.SGD(ps, lr=0.05))
    torchs = Made(optimizer=lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, nesterov=True))
    ours = lambdaml.replay_trace(trace, plain, staleness="nesterov:0.9").state.model()
    theirs = lambdaml.replay_trace(trace, torchs).state.model()
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6) for name in ours)


# ---- discarding


def stale_arrivals() -> tuple[LogState, list[Update]]:
    log_state = LogState(3, 10)
    log_state.commit = log_state.version = 5
    log_state.next_seq = [5, 5, 5]
    return log_state, [light(0, 5, 5), light(1, 5, 3), light(2, 5, 4)]


def test_an_update_that_a_rule_discards_takes_no_step() -> None:
    log_state, arrived = stale_arrivals()
    commit = build_commit(log_state, SCHEDULES.make("asp"), RULES.make("discard:3"), arrived, max_rejected=1)
    assert commit is not None
    assert [(e.worker, e.staleness, e.weight) for e in commit.applied] == [(0, 0, 1.0), (2, 2, 1.0)]
    assert [(e.worker, e.staleness, e.fate, e.reason) for e in commit.refused] == [(1, 3, "discarded", "stale")]
    assert commit.last_version == 7 and commit.stop is None


def test_what_a_rule_discards_is_in_no_step() -> None:
    log_state, arrived = stale_arrivals()
    commit = build_commit(
        log_state, SCHEDULES.make("quorum:3,late=weight"), RULES.make("discard:2"), arrived, max_rejected=1
    )
    assert commit is not None
    assert [(e.worker, e.weight) for e in commit.applied] == [(0, 1.0), (2, 1.0)]
    assert [e.worker for e in commit.refused] == [1]


@pytest.mark.parametrize("r", [1, 2, 3, 4, 9])
def test_the_decision_behind_a_commit_can_be_told_from_it(r: int) -> None:
    log_state, arrived = stale_arrivals()
    rule = RULES.make(f"discard:{r}")
    commit = build_commit(log_state, SCHEDULES.make("asp"), rule, arrived, max_rejected=9)
    assert commit is not None
    fixed = Fixed(decision_of(commit, {update.id: update for update in arrived}))
    again = build_commit(log_state, fixed, rule, (), max_rejected=9)
    assert again is not None
    assert (again.steps, again.refused) == (commit.steps, commit.refused)


# ---- whole runs


@pytest.mark.parametrize("spec", ["ringleader", "exponential:percentile=70,boost=outliers"])
def test_a_run_whose_processes_are_killed_goes_on_with_the_bits_of_its_log(spec: str, tmp_path: Path) -> None:
    killer = Killer(3, seed=3)
    train_processes(f"file://{tmp_path}/run", killer, schedule="asp", staleness=spec, steps=20, snapshot_every=4)
    assert killer.done == 3
    assert lambdaml.Run(f"file://{tmp_path}/run").verify().faults == []


@pytest.mark.parametrize("spec", STATEFUL)
def test_what_a_rule_remembers_is_part_of_a_snapshot(spec: str) -> None:
    run = train(workers=3, steps=STEPS, schedule="asp", functions=3, staleness=spec, snapshot_every=3)
    for info in run.store.list(keys.SNAPSHOTS):  # the first that remembers something: no two rounds are this short
        state = State.load(run.store.get(info.key) or b"", key := info.key)
        names = [
            name for name in state.tensors if name.startswith(RULE_PREFIX) and state.tensors[name].is_floating_point()
        ]
        if names:
            break
    assert names
    state.tensors[names[0]] += 1
    run.store.put(key, state.dump())
    assert any(key in fault for fault in run.verify().faults)


def test_a_log_that_applies_what_the_rule_discards_is_found_out() -> None:
    run = train(workers=3, steps=STEPS, schedule="asp", functions=3, staleness="discard:2")
    assert "stale" in {entry.reason for commit in run.log() for entry in commit.refused}
    assert run.verify().faults == []
    for other in ("discard:1", "discard:3"):
        strict = run.settings.model_copy(update={"staleness": other})
        run.store.put(keys.RUN, strict.dump())
        assert lambdaml.Run(run.store).verify().faults


def test_label_counts_travel_in_updates_and_in_the_log_when_asked_for(asp: lambdaml.Run) -> None:
    run = train(workers=3, steps=STEPS, schedule="asp", functions=3, staleness="exponential:boost=all")
    sums = np.zeros(3, np.int64)
    for commit in run.log():
        for entry in commit.applied:
            data = run.store.get(keys.update(entry.worker, entry.seq)) or b""
            labels = Update.unpack(data, entry.worker, entry.seq).labels
            assert labels == entry.labels and sum(labels) == entry.samples
            sums[: len(labels)] += labels
    assert run.replay().meta["log_state"]["labels"] == sums.tolist()
    assert sums.sum() == sum(entry.samples for commit in run.log() for entry in commit.applied)
    assert not any(entry.labels for commit in asp.log() for entry in commit.entries)
    assert run.verify().faults == []


def test_a_job_whose_labels_are_not_where_they_are_looked_for_says_so() -> None:
    class Regression(Made):
        pass

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x), y.long())

    def floats() -> Any:
        x, y = table(64).tensors
        return torch.utils.data.TensorDataset(x, y.float())

    job = Regression(dataset=floats, loss=loss)
    with pytest.raises(lambdaml.UserError, match=r"write Regression\.labels\(batch\)"):
        train(job, workers=2, steps=2, staleness="exponential:boost=all")
    job.labels = lambda batch: batch[1].long()  # type: ignore[method-assign]
    run = lambdaml.Run(train(job, workers=2, steps=2, staleness="exponential:boost=all").store, job)
    assert sum(run.replay().meta["log_state"]["labels"]) == 2 * 2 * 8


def test_the_view_tallies_staleness_and_labels_of_applied_updates_alone() -> None:
    log_state = LogState(3, 10)
    steps = ((entry_of(0, 0, 0, (1, 2)),), (entry_of(1, 0, 1, (0, 0, 4)),))
    log_state.advance(Commit(0, 0, steps, (replace(entry_of(7, 0, 2), fate="discarded"),)))
    assert (log_state.staleness, log_state.labels) == ({0: 1, 1: 1}, [1, 2, 4])
    copy = log_state.copy()
    copy.advance(Commit(1, 2, ((replace(entry_of(1, 1, 0, (5,)), seq=1),),)))
    assert (log_state.staleness, log_state.labels) == ({0: 1, 1: 1}, [1, 2, 4])
    assert (copy.staleness, copy.labels) == ({0: 1, 1: 2}, [6, 2, 4])
    again = LogState.load(copy.dump(), 3, 10)
    assert again.dump() == copy.dump()


def test_discarding_along_a_trace_counts_versions_without_the_steps_that_are_not_taken() -> None:
    """Worker 1's update is 2 steps late; without it the next is computed from, and makes, one version less."""
    trace = synthetic_trace(Recorded([[[0]], [[0]], [[2]], [[0]]]), 1, 4)
    replay = lambdaml.replay_trace(trace, Tiny, staleness="discard:2")
    told = [(row["base"], row["version"], row["staleness"], row["fate"]) for row in replay.trace.rows]
    applied, refused = "applied", "discarded"
    assert told == [(0, 1, 0, applied), (1, 2, 0, applied), (0, None, 2, refused), (2, 3, 0, applied)]
    assert replay.version == 3
    again = lambdaml.replay_trace(replay.trace, Tiny)
    assert again.state.digest() == replay.state.digest()


@pytest.mark.parametrize("workers", [8, 40])
def test_simulations_use_the_rules_exact_ones_and_those_in_closed_form(workers: int) -> None:
    options: dict[str, Any] = {"workers": workers, "schedule": "asp", "updates": 20 * workers, "platform": "local"}
    strict = lambdaml.simulate(staleness=f"discard:{workers // 2}", **options)
    assert strict.run.fates.get("discarded", 0) > 0 and strict.run.staleness.max < workers // 2
    plain = lambdaml.simulate(staleness="exponential:percentile=90", **options)
    assert plain.run.fates.get("discarded", 0) == 0 and plain.run.staleness.max >= workers // 2

"""What a run says of itself from its bucket."""

from __future__ import annotations

import json
import math

import pytest

import lambdaml
from lambdaml.errors import BadObject, NewerSchema, RunNotFound
from lambdaml.log import keys, wire
from lambdaml.log.summary import Staleness
from lambdaml.storage import copy
from tests.lambdaml.lab import Tiny, broken_off, memory, train

STEPS = 8


@pytest.fixture(scope="module")
def bsp() -> lambdaml.Run:
    return train(workers=3, steps=STEPS, snapshot_every=4)


@pytest.fixture(scope="module")
def quorum() -> lambdaml.Run:
    return train(workers=3, steps=STEPS, schedule="quorum:1", functions=1)


@pytest.fixture(scope="module")
def asp() -> lambdaml.Run:
    return train(workers=3, steps=STEPS, schedule="asp", functions=1)


def test_where_there_is_no_run_it_says_so() -> None:
    with pytest.raises(RunNotFound, match="memory://"):
        lambdaml.Run(memory())


def test_a_run_opens_by_its_url(bsp: lambdaml.Run) -> None:
    assert lambdaml.Run(bsp.url).settings == bsp.settings


def test_a_run_json_of_a_newer_schema_or_a_damaged_one_is_refused(
    bsp: lambdaml.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = memory()
    with monkeypatch.context() as patch:
        patch.setattr("lambdaml.log.wire.SCHEMA", wire.SCHEMA + 1)
        store.put(keys.RUN, bsp.settings.dump())
    with pytest.raises(NewerSchema):
        lambdaml.Run(store)
    store.put(keys.RUN, bsp.settings.dump()[:-3])
    with pytest.raises(BadObject, match=keys.RUN):
        lambdaml.Run(store)


def test_the_log_is_read_in_order_from_anywhere_and_up_to_a_gap(bsp: lambdaml.Run) -> None:
    assert [commit.commit for commit in bsp.log(3)] == list(range(3, STEPS))
    assert list(bsp.log(STEPS)) == []
    target = memory()
    copy(bsp.store, target)
    target.delete([keys.log(5)])
    assert [commit.commit for commit in lambdaml.Run(target).log()] == list(range(5))


def test_the_summary_adds_up(bsp: lambdaml.Run, asp: lambdaml.Run, quorum: lambdaml.Run) -> None:
    summary = bsp.summary()
    assert (summary.commits, summary.version, summary.updates, summary.stop) == (STEPS, STEPS, 3 * STEPS, "steps")
    assert summary.stop_version == STEPS
    assert asp.summary().version == 3 * STEPS
    assert asp.summary().staleness.mean > 0
    fates = quorum.summary().fates
    assert fates["applied"] == STEPS
    assert fates["discarded"] > 0
    assert quorum.summary().staleness.max == 0


def test_the_trace_has_one_row_per_update_with_everything_about_it(asp: lambdaml.Run) -> None:
    rows = asp.trace()
    assert len({(row["worker"], row["seq"]) for row in rows}) == len(rows) == 3 * STEPS
    entries = [entry for commit in asp.log() for entry in commit.entries]
    assert [(r["worker"], r["seq"], r["base"], r["staleness"], r["weight"]) for r in rows] == [
        (e.worker, e.seq, e.base, e.staleness, e.weight) for e in entries
    ]
    assert [row["version"] for row in rows] == list(range(1, 3 * STEPS + 1))
    for row in rows:
        assert row["version"] - 1 - row["base"] == row["staleness"]
        phases = [row[name] for name in ("compute_s", "encode_s", "upload_s", "download_s", "wait_s", "apply_s")]
        assert all(phase >= 0 for phase in phases)
        assert row["age_s"] > 0
        assert row["bytes_sent"] > 84
        assert row["puts"] == 1
    json.dumps(rows)


def test_a_refused_update_has_a_row_without_a_version(quorum: lambdaml.Run) -> None:
    refused = [row for row in quorum.trace() if row["fate"] != "applied"]
    assert refused
    assert all(row["version"] is None and row["reason"] == "late" and row["weight"] == 0 for row in refused)


def test_the_phases_of_an_update_do_not_exceed_its_age(asp: lambdaml.Run) -> None:
    for row in asp.trace():
        assert row["compute_s"] + row["encode_s"] + row["upload_s"] <= row["age_s"] + 1e-3


def test_requests_are_counted_by_kind(bsp: lambdaml.Run) -> None:
    reading = bsp.requests()
    assert reading.requests["create"] >= 3 * STEPS + STEPS
    assert reading.bytes_sent > 3 * STEPS * 84
    assert "delete" not in reading.requests


def test_the_status_of_a_run_that_ended(bsp: lambdaml.Run, asp: lambdaml.Run) -> None:
    status = bsp.status()
    assert (status.state, status.version, status.commits, status.progress) == ("finished", STEPS, STEPS, 1.0)
    assert (status.model, status.metrics_version, status.schedule, status.workers) == (True, STEPS, "bsp", 3)
    assert status.metrics["accuracy"] == bsp.metrics()[STEPS]["accuracy"]
    assert asp.status().version == 3 * STEPS


def test_the_status_of_a_run_that_broke_off() -> None:
    run = broken_off(at=3, workers=3, steps=STEPS)
    status = run.status()
    assert (status.state, status.functions, status.model) == ("stopped", (), False)
    assert 0 < status.progress < 1
    assert status.commits in (3, 4)  # the log is written while the workers go on
    assert status.age_s is not None
    assert status.age_s > 3000


def test_the_status_of_a_run_that_has_not_begun(bsp: lambdaml.Run) -> None:
    store = memory()
    store.create(keys.RUN, bsp.settings.dump())
    status = lambdaml.Run(store).status()
    assert (status.state, status.version, status.commits, status.progress) == ("stopped", 0, 0, 0.0)


def test_a_status_costs_few_requests_however_long_the_log() -> None:
    url = train(workers=1, steps=600, snapshot_every=200).url
    run = lambdaml.Run(url)
    meter = run.store.meter  # type: ignore[attr-defined]
    before = meter.snapshot()
    run.status()
    after = meter.snapshot()
    spent = sum(after.requests.values()) - sum(before.requests.values())
    assert spent < 60


def test_the_evaluations_stand_under_their_versions(bsp: lambdaml.Run) -> None:
    metrics = bsp.metrics()
    assert sorted(metrics) == [4, STEPS]
    assert all(0 <= values["accuracy"] <= 1 for values in metrics.values())


def test_the_distribution_of_staleness() -> None:
    assert Staleness.of([]) == Staleness(0.0, 0.0, 0.0, 0)
    found = Staleness.of([3, 0, 1, 2])
    assert (found.mean, found.max) == (1.5, 3)
    assert found.p50 in (1.0, 1.5, 2.0)
    assert Staleness.of([0] * 96 + [9] * 4).p95 == 0.0
    assert not math.isnan(Staleness.of([7]).mean)


def test_two_runs_in_one_bucket_share_no_key() -> None:
    root = memory()
    base = f"memory://{root.name}"
    one, two = (train(Tiny, url=f"{base}-{name}", workers=2, steps=3) for name in ("one", "two"))
    assert one.settings.token != two.settings.token
    assert one.verify().faults == two.verify().faults == []

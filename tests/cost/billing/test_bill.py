"""Bills of runs: totals as metered, to the last request, and parts that add up to them."""

from __future__ import annotations

import math
import secrets
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import lambdaml
from lambdaml.cost.billing.attribution import COST_PHASES, SHARED, PhaseCost, _slices, attribute
from lambdaml.cost.billing.bill import RunBill, channel_of, quantities
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.usage import Usage
from lambdaml.storage import MeterReading, ObjectInfo
from tests.lambdaml.worker.test_kills import JOB as KILLED_JOB
from tests.lambdaml.worker.test_kills import Killer

BOOK = PriceBook.load()
JOB = "tests/lambdaml/lab.py:Tiny"


@pytest.fixture(scope="module", params=["bsp", "asp"])
def trained(request: pytest.FixtureRequest) -> tuple[lambdaml.Run, lambdaml.TrainResult]:
    url = f"memory://{secrets.token_hex(6)}"
    result = lambdaml.train(JOB, url, workers=3, functions=2, steps=8, schedule=request.param)
    return lambdaml.Run(url), result


@pytest.fixture
def run(trained: tuple[lambdaml.Run, lambdaml.TrainResult]) -> lambdaml.Run:
    return trained[0]


def bill(run: lambdaml.Run, platform: str = "lambda-arm:1769", channel: str = "s3-express") -> RunBill:
    return lambdaml.bill(run, platform=platform, channel=channel, prices=BOOK)


def summed(shares: list[PhaseCost], kind: str) -> int:
    return sum(share.requests.get(kind, 0) for share in shares)


def test_the_totals_are_those_of_the_meters(trained: tuple[lambdaml.Run, lambdaml.TrainResult]) -> None:
    run, result = trained
    used = bill(run).used
    assert dict(used.requests) == result.requests
    assert {"sent": used.bytes_sent, "received": used.bytes_received} == result.bytes
    assert len(used.lifetimes_s) == 2


@pytest.mark.parametrize("part", ["workers", "commits"])
def test_workers_and_commits_add_up_to_the_totals(part: str, run: lambdaml.Run) -> None:
    found = bill(run)
    items = getattr(found, part)
    shares = [item.share for item in items]
    assert items[-1].name == SHARED
    assert {kind: summed(shares, kind) for kind in found.used.requests} == dict(found.used.requests)
    assert sum(share.bytes_sent for share in shares) == found.used.bytes_sent
    assert sum(share.bytes_received for share in shares) == found.used.bytes_received
    assert math.fsum(share.seconds for share in shares) == pytest.approx(found.function_seconds)
    assert math.fsum(item.usd for item in items) == pytest.approx(found.bill.usd)
    assert all(count >= 0 for share in shares for count in share.requests.values())
    assert all(share.seconds > -1e-6 and item.usd > 0 for item, share in zip(items, shares))
    assert sum(share.updates for share in shares) == run.summary().updates


def test_the_phases_add_up_to_the_seconds_and_dollars_of_functions(run: lambdaml.Run) -> None:
    found = bill(run)
    assert [item.name for item in found.phases] == list(COST_PHASES)
    assert math.fsum(item.share.seconds for item in found.phases) == pytest.approx(found.function_seconds, rel=1e-4)
    assert math.fsum(item.usd for item in found.phases) == pytest.approx(found.bill.parts()["functions"], rel=1e-4)
    seconds = {item.name: item.share.seconds for item in found.phases}
    assert seconds["compute"] > 0 and seconds["start-up"] > 0 and seconds["unreported"] == 0


def test_every_worker_has_its_updates_and_every_commit_its_own(run: lambdaml.Run) -> None:
    found = bill(run)
    assert [(item.name, item.share.updates) for item in found.workers] == [(0, 8), (1, 8), (2, 8), (SHARED, 0)]
    assert [item.name for item in found.commits[:-1]] == [commit.commit for commit in run.log() if commit.entries]


def test_functions_that_were_killed_are_on_the_bill(tmp_path: Path) -> None:
    killer = Killer(3, seed=1)
    result = lambdaml.train(KILLED_JOB, f"file://{tmp_path}/run", workers=2, steps=20, functions=2, on_event=killer)
    run = lambdaml.Run(f"file://{tmp_path}/run")
    found = bill(run)
    assert found.functions == 2 + killer.done == 5
    assert dict(found.used.requests) == result.requests
    assert found.function_seconds == pytest.approx(sum(item.share.seconds for item in found.phases), rel=1e-6)
    for items in (found.workers, found.commits):
        assert sum(sum(item.share.requests.values()) for item in items) == sum(result.requests.values())
        assert math.fsum(item.usd for item in items) == pytest.approx(found.bill.usd)
        assert all(count >= 0 for item in items for count in item.share.requests.values())
    assert next(item for item in found.phases if item.name == "unreported").share.seconds > 0
    assert any("killed" in note for note in found.notes)


def test_storage_is_what_stands_there_for_as_long_as_it_has(run: lambdaml.Run) -> None:
    objects = [ObjectInfo("a", 100, 10.0), ObjectInfo("b", 7, 12.5), ObjectInfo("c", 1, 15.0)]
    assert quantities([], objects).stored_byte_s == 100 * 5 + 7 * 2.5
    assert quantities([], objects).wall_s == 5
    assert quantities([], []).stored_byte_s == 0
    assert bill(run).used.stored_byte_s > 0


def test_a_run_on_this_machine_costs_nothing_unless_it_is_billed_as_if(run: lambdaml.Run) -> None:
    here = lambdaml.bill(run.url, prices=BOOK)
    assert (here.bill.usd, here.platform, here.channel) == (0, "local", "disk")
    assert not any("machine it ran on" in note for note in here.notes)
    there = bill(run)
    assert (there.here, there.there, there.memory_mb) == ("local", "disk", 1769)
    assert any("those of the machine it ran on" in note for note in there.notes)
    with pytest.raises(SettingsError, match="no platform 'lambda-amr'"):
        bill(run, "lambda-amr")


def test_the_record_holds_everything_and_only_plain_values(run: lambdaml.Run) -> None:
    record = bill(run).to_dict()
    assert record["used"]["functions"] == 2
    assert sum(one["requests"] for one in record["workers"]) == sum(record["used"]["requests"].values())
    assert {line["price"]["id"] for line in record["lines"]} <= set(BOOK)


def test_the_store_of_a_run_is_recognised() -> None:
    assert channel_of("s3://bucket/run") == "s3-standard"
    assert channel_of("s3://bucket--use1-az4--x-s3/run") == "s3-express"
    assert {channel_of(url) for url in ("file:///x", "x", "memory://x", "ray://x", "s3://b/x?endpoint=http://h")} == {
        "disk"
    }


def test_a_run_of_functions_that_know_their_platform_is_billed_as_that() -> None:
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(JOB, url, workers=1, functions=1, steps=3)
    run = lambdaml.Run(url)
    record = Usage("launch-a.0.0-1", 100.0, 2**30, MeterReading(), complete=True, platform="lambda-arm:1769")
    run.store.create(keys.usage(record.function), record.dump())
    found = bill(run)
    assert (found.platform, found.here) == ("lambda-arm:1769", "lambda-arm:1769")
    assert found.bill.usd > 100 * 1769 / 1024 * 0.0000133334
    assert "function-seconds are those of the machine" not in " ".join(found.notes)


def test_a_killed_functions_last_seconds_are_unreported_and_the_launcher_is_no_function() -> None:
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(JOB, url, workers=1, functions=1, steps=3)
    run = lambdaml.Run(url)
    (name,) = {info.key.split("/")[1] for info in run.store.list(keys.TRACE)}
    reading = run.requests()
    more = reading + MeterReading({"get": 40}, bytes_received=999)
    launcher = Usage("launcher-1", 100.0, 0, MeterReading({"put": 5}, bytes_sent=3), complete=True)
    killed = [Usage(name, 50.0, 2**30, more, complete=True), launcher]
    left = [Usage(name, 50.0, 2**30, reading, complete=True), launcher]
    for usage, phase in ((killed, "unreported"), (left, "start-up")):
        found = attribute(run, usage)
        assert 30 < found.phases[phase].seconds < 50
        assert math.fsum(share.seconds for share in found.phases.values()) == pytest.approx(50, abs=1e-3)
        assert math.fsum(share.seconds for share in found.workers.values()) == pytest.approx(50)
    assert found.workers[SHARED].requests["put"] == reading.requests.get("put", 0) + 5


rows = st.lists(
    st.builds(
        lambda started, lived, waited, phases: {
            "started_s": started,
            "published_s": started + lived,
            "applied_s": started + lived + waited,
            **dict(zip(("compute_s", "encode_s", "upload_s", "download_s", "apply_s"), phases)),
        },
        *[st.floats(0, 100)] * 3,
        st.tuples(*[st.floats(0, 60)] * 5),
    ),
    max_size=8,
)


LEAST = {
    "started_s": 0.0,
    "published_s": 5e-324,
    "applied_s": 5e-324,
    "compute_s": 0.0,
    "encode_s": 0.0,
    "upload_s": 0.0,
}


@given(rows)
@example([LEAST, LEAST])
def test_a_moment_is_shared_once_among_the_updates_under_way(rows: list[dict[str, Any]]) -> None:
    slices = list(_slices(rows, 1000.0))
    ends = sorted((row["started_s"], row["applied_s"]) for row in rows)
    covered, until = 0.0, 0.0
    for begin, end in ends:
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    assert math.fsum(seconds for seconds, _, _ in slices) == pytest.approx(covered, abs=1e-6)
    assert all(seconds > 0 and phase in COST_PHASES for seconds, phase, _ in slices)


def test_a_function_works_when_one_of_its_workers_does() -> None:
    calm = {"encode_s": 0.0, "upload_s": 0.0, "download_s": 0.0, "apply_s": 0.0}
    one = {"started_s": 0.0, "published_s": 4.0, "applied_s": 10.0, "compute_s": 4.0, **calm}
    two = {"started_s": 0.0, "published_s": 8.0, "applied_s": 10.0, "compute_s": 4.0, **calm}
    spent: dict[tuple[str, int], float] = {}
    for seconds, phase, row in _slices([one, two], 10.0):
        place = (phase, 1 if row is one else 2)
        spent[place] = spent.get(place, 0.0) + seconds
    assert spent == {("compute", 1): 4.0, ("compute", 2): 4.0, ("wait", 1): 1.0, ("wait", 2): 1.0}

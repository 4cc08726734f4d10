"""Attribution, step by step: which phase a step is booked on, what is certain, and what is missing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.log.records import Commit, Entry, Update
from lambdaml.traces import Trace
from lambdaml.traces.attribution import PHASES, Measured, Split, explain, join
from lambdaml.traces.delays import synthetic_trace
from lambdaml.worker.tracing import Tracer
from tests.lambdaml.lab import light, train

Row = dict[str, Any]

WRITER, OTHER = "w.0", "f.0"
AHEAD_S = 500.0  # of the other function's clock
STEPS_S = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)  # when versions 1 ... 8 were made, by the writer's clock
COUNTS = ("tau_storage", "tau_compute", "tau_wait", "tau_delivery", "tau_uncertain")


def log(base: int, last_s: float) -> list[Commit]:
    """Worker 0 makes a version at each of `STEPS_S`; then one commit takes another step of worker 0, and one of
    worker 1, whose update is of version `base`."""
    made = [
        Commit(number, number, ((Entry(0, number, number, 1, 8, 0.5, 0, 1.0),),), function=WRITER, time_s=time_s)
        for number, time_s in enumerate(STEPS_S)
    ]
    mine = Entry(0, 8, 8, 1, 8, 0.5, 0, 1.0), Entry(1, 0, base, 1, 8, 0.5, 9 - base, 1.0)
    return [*made, Commit(8, 8, tuple((entry,) for entry in mine), function=WRITER, time_s=last_s)]


def measured(doubt_s: float = 0.0, arrived_s: float | None = None, **times: float) -> Measured:
    """What functions wrote down: clocks are known up to `doubt_s`, phases are on the other function's clock."""
    found = Measured()
    found.hellos = {WRITER: (0.0, 10_000.25), OTHER: (AHEAD_S, 10_000.25)}
    for name, (before_s, _) in found.hellos.items():
        found.answered[name] = before_s + 2 * doubt_s
    if times:
        phases = {
            "function": OTHER,
            "compute_s": 0.0,
            "encode_s": 0.0,
            "upload_s": times["published_s"] - times["sent_s"],
        }
        moments = {name: AHEAD_S + times[name] for name in ("started_s", "published_s")}
        found.updates[1, 0] = {"kind": "update", "worker": 1, "seq": 0, **phases, **moments}
    found.arrived[WRITER, 8] = [None, arrived_s]
    return found


def split(base: int, last_s: float = 9.0, **options: Any) -> dict[str, Any]:
    """How the steps that overtook worker 1's update were booked."""
    row = join(log(base, last_s), measured(**options), logged=True)[-1]
    assert (row["worker"], row["staleness"]) == (1, 9 - base)
    return {name.removeprefix("tau_"): row.get(name) for name in COUNTS}


def test_each_step_is_booked_on_the_phase_in_which_it_was_committed() -> None:
    """Started after version 2, put between 4 and 6, read by the writer after 7; of version 1."""
    found = split(1, started_s=2.5, sent_s=4.5, published_s=6.5, arrived_s=7.5)
    assert found == {"storage": 1 + 2, "compute": 2, "wait": 3, "delivery": 1, "uncertain": 0}


def test_once_the_writer_has_read_it_an_update_waits_whenever_its_put_returned() -> None:
    found = split(1, started_s=2.5, sent_s=4.5, published_s=9.5, arrived_s=5.5)
    assert found == {"storage": 1 + 1, "compute": 2, "wait": 4, "delivery": 0, "uncertain": 0}


def test_without_the_writers_word_delivery_is_not_known() -> None:
    found = split(1, started_s=2.5, sent_s=4.5, published_s=6.5, arrived_s=None)
    assert found == {"storage": 3, "compute": 2, "wait": 3, "delivery": None, "uncertain": 0}


def test_steps_near_a_boundary_are_uncertain_unless_the_log_knows() -> None:
    """Clocks may be off by 0.6 s: steps at 2 and 3, 4 and 5 may lie on either side. From 6 on the writer had it."""
    found = split(1, started_s=2.5, sent_s=4.5, published_s=6.5, arrived_s=5.9, doubt_s=0.6)
    assert found["uncertain"] == 4
    assert found["storage"] + found["compute"] + found["wait"] == 8
    assert found["wait"] == 4


def test_an_update_that_nothing_overtook_needs_no_measurement() -> None:
    rows = join(log(1, 9.0), measured(), logged=True)
    assert [[row[name] for name in COUNTS] for row in rows[:-1]] == [[0] * 5] * 9
    assert all(name not in rows[-1] for name in COUNTS)
    assert explain(rows).attributed == 9


def test_ages_run_from_the_commit_of_the_base_to_ones_own() -> None:
    assert [join(log(base, 9.5), measured(), logged=True)[-1]["age_s"] for base in (0, 1, 8)] == [9.5, 8.5, 1.5]
    unknown = join(log(0, 9.5), Measured(), logged=True)
    assert "age_s" not in unknown[0] and unknown[-1]["committed_s"] is None
    assert unknown[1]["age_s"] == 1.0  # one clock needs no comparison


def test_moments_stand_on_one_scale() -> None:
    row = join(log(1, 9.0), measured(started_s=2.5, sent_s=4.5, published_s=6.5, arrived_s=7.5), logged=True)[-1]
    assert (row["started_s"], row["published_s"]) == pytest.approx((2.5, 6.5), abs=0.02)
    assert (row["arrived_s"], row["committed_s"]) == (7.5, 9.0)


class Quiet:
    """As much of a world as a tracer needs."""

    def now(self) -> float:
        return 1.0


def test_what_an_earlier_function_published_is_not_accounted_as_ones_own() -> None:
    tracer = Tracer(Quiet(), "f")  # type: ignore[arg-type]
    mine, others = light(0, 0), light(0, 1)
    others.function = "before"
    for update in (mine, others):
        tracer.published(update, 0.5, 0.1)
    assert list(tracer._open) == [(0, 0)]


def applied(tau: int, worker: int = 0, version: int = 1, **values: Any) -> Row:
    return {"fate": "applied", "staleness": tau, "worker": worker, "version": version} | values


def booked(storage: int, compute: int, wait: int, **values: Any) -> Row:
    parts = {"tau_storage": storage, "tau_compute": compute, "tau_wait": wait, "tau_delivery": 0, "tau_uncertain": 0}
    return applied(storage + compute + wait, **{**parts, "clock_s": 0.0, **values})


def test_a_trace_is_summed_up() -> None:
    rows = [
        booked(1, 2, 3, tau_delivery=1, tau_uncertain=2, clock_s=0.25, age_s=1.0),
        booked(3, 0, 1, worker=1, version=2, age_s=3.0),
        applied(4, worker=1, version=3),
        {"fate": "discarded", "staleness": 99, "worker": 0, "version": None},
    ]
    found = explain(rows)
    assert (found.applied, found.attributed) == (3, 2)
    assert (found.staleness.mean, found.counts) == (14 / 3, {4: 2, 6: 1})
    assert found.split == Split(2.0, 1.0, 2.0)
    assert (found.store, found.uncertain, found.clock_s) == (0.5, 0.2, 0.25)
    assert found.ages_s == {"mean": 2.0, "p50": 1.0, "p95": 3.0, "max": 3.0}
    assert [(part.first, part.updates, part.staleness.mean) for part in found.workers] == [(0, 1, 6.0), (1, 2, 4.0)]
    assert [(part.first, part.last, part.age_s) for part in found.trend] == [(1, 1, 1.0), (2, 2, 3.0), (3, 3, None)]
    assert found.workers[1].split == Split(3.0, 0.0, 1.0)


def test_what_is_not_known_is_not_invented() -> None:
    nothing = explain([])
    assert (nothing.applied, nothing.split, nothing.store, nothing.ages_s, nothing.trend) == (0, None, None, None, ())
    found = explain(synthetic_trace("categorical:4", workers=2, steps=30).rows)
    assert (found.applied, found.attributed, found.split, found.uncertain) == (60, 0, None, None)
    assert len(found.trend) == 10 and sum(part.updates for part in found.trend) == 60


@pytest.fixture(scope="module")
def live() -> lambdaml.Run:
    return train(workers=3, steps=20, schedule="asp", functions=3)


def test_a_live_run_is_attributed_and_a_file_keeps_it(live: lambdaml.Run, tmp_path: Path) -> None:
    rows = live.trace()
    assert rows and all(sum(row[f"tau_{phase}"] for phase in PHASES) == row["staleness"] for row in rows)
    assert all(row["clock_s"] < math.inf for row in rows if "clock_s" in row)
    trace = Trace.of(live)
    trace.save(tmp_path / "trace.parquet")
    assert explain(Trace.load(tmp_path / "trace.parquet").rows) == explain(rows)


def test_an_update_carries_nothing_of_its_readers_findings() -> None:
    update = light(0, 0)
    update.arrived_s = 5.0
    assert Update.unpack(update.pack(), 0, 0).arrived_s is None

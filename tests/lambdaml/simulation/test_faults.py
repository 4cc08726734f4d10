"""Thousands of fault schedules, and bugs planted in each promise to prove that they would be found."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import pytest

from lambdaml.algorithms import Assignment
from lambdaml.errors import BadObject
from lambdaml.log import commits, keys
from lambdaml.log.commits import build_commit
from lambdaml.log.records import Commit, Update
from lambdaml.log.retention import Horizon
from lambdaml.log.state import LogState
from lambdaml.patterns.gather import GatherExchange
from lambdaml.schedules import Decision
from lambdaml.schedules.asp import Asp
from lambdaml.schedules.bsp import Bsp
from lambdaml.schedules.ssp import Ssp
from lambdaml.simulation.faults import SCHEDULES_TRIED, FaultScenario, Verdict, play, try_seeds
from lambdaml.simulation.stub_replica import StubReplica
from lambdaml.simulation.virtual import Bucket, VirtualStore
from lambdaml.worker import function, retention
from lambdaml.worker.committer import Committer, Snapshot
from lambdaml.worker.poll_timer import Backoff
from lambdaml.worker.stop_watcher import LEAD
from lambdaml.worker.worker import Worker

IN_THE_SUITE = 10_000
IN_THE_SOAK = 200_000
CHUNK = 250


def try_all(count: int, first: int = 0) -> list[Verdict]:
    """Seeds in all cores of this machine."""
    chunks = [range(start, min(first + count, start + CHUNK)) for start in range(first, first + count, CHUNK)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        return [verdict for found in pool.map(try_seeds, chunks) for verdict in found]


def told(verdicts: Sequence[Verdict]) -> str:
    return "\n".join(f"{verdict.command}: {'; '.join(verdict.broken)}" for verdict in verdicts[:5])


def test_ten_thousand_fault_schedules_break_no_promise() -> None:
    broken = try_all(IN_THE_SUITE)
    assert not broken, told(broken)


@pytest.mark.soak
def test_two_hundred_thousand_fault_schedules_break_no_promise() -> None:
    broken = try_all(IN_THE_SOAK, first=IN_THE_SUITE)
    assert not broken, told(broken)


def test_the_scenarios_hold_what_they_promise() -> None:
    """Every kind of misfortune strikes, and every schedule is tried."""
    met: Counter[str] = Counter()
    for seed in range(150):
        scenario = FaultScenario.draw(seed)
        met[scenario.schedule.partition(",every")[0]] += 1
        virtual, end = play(scenario, lambda now, event: met.update([event.event, getattr(event, "fault", "")]))
        assert end == ""
        for life in virtual.lives:
            met["crash"] += life.outcome == "killed"
            met["spare"] += life.name.endswith("s")
            for fault in life.world.store.meter.snapshot().errors:
                met[fault.rpartition("/")[2]] += 1
        for commit in virtual.log():
            for entry in commit.refused:
                met[entry.reason.partition(":")[0]] += 1
        met["frozen"] += scenario.freeze > 0
        met["skewed"] += scenario.skew_s > 0
        met["storm"] += scenario.storm[1] > scenario.storm[0]
        met["late"] += scenario.rates["late"] > 0
        met["twice"] += scenario.rates["twice"] > 0
        met["lie"] += scenario.lie > 0
        met["deleted"] += len(virtual.bucket.deleted)
        met["awaited"] += scenario.evaluation_s > 0 and len(virtual.bucket.list(keys.METRICS)) > LEAD
    wanted = {
        *SCHEDULES_TRIED,
        "deleted",
        "overtaken",
        "crash",
        "spare",
        "takeover",
        "Throttled",
        "StoreTimeout",
        "StoreUnavailable",
        "late",
    }
    assert wanted | {"frozen", "skewed", "storm", "twice", "lie", "damage", "awaited", "gradient is not finite"} <= {
        *+met
    }


def test_a_seed_has_one_history() -> None:
    def history(seed: int) -> list[tuple[float, str]]:
        events: list[tuple[float, str]] = []
        play(FaultScenario.draw(seed), lambda now, event: events.append((now, str(event))))
        return events

    assert history(5) == history(5)
    assert history(5) != history(6)


def test_naming_the_schedule_that_a_seed_draws_gives_the_same_scenario() -> None:
    for seed in range(20):
        scenario = FaultScenario.draw(seed)
        assert FaultScenario.draw(seed, scenario.schedule) == scenario


# ---- Planted bugs. Each function plants one, by the promise that it breaks.

Plant = Callable[[pytest.MonkeyPatch], None]


def lets_a_log_entry_be_written_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 and 7: the store replaces what stands there, and says that it was free."""

    def try_create(self: Bucket, key: str, data: bytes) -> bool:
        self.put(key, data)
        return True

    monkeypatch.setattr(Bucket, "try_create", try_create)


def skips_a_log_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """1"""
    number = keys.log
    monkeypatch.setattr(keys, "log", lambda commit: number(commit + (commit >= 3)))


def drops_a_fate(monkeypatch: pytest.MonkeyPatch) -> None:
    """2: one update is forgotten by whoever hears of it."""
    add = GatherExchange.add
    monkeypatch.setattr(GatherExchange, "add", lambda self, update: None if update.id == (1, 1) else add(self, update))


def loses_an_update_in_a_group_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """2: the log says that it got its fate, and names another's."""

    def advance(self: LogState, commit: Commit) -> None:
        before = list(self.next_seq)
        original(self, commit)
        if len(commit.steps) > 1 and before[0] == 0:
            self.next_seq[0] = max(self.next_seq[0], 1)

    original = LogState.advance
    monkeypatch.setattr(LogState, "advance", advance)
    monkeypatch.setattr(
        Asp,
        "decide",
        lambda self, log_state, arrived: Decision([[u] for u in arrived if u.id != (0, 0)]) if arrived else None,
    )


def doubles_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """2: a step is taken twice by the log, and nobody minds."""

    def doubled(*args: Any, **options: Any) -> Commit | None:
        commit = build_commit(*args, **options)
        return replace(commit, steps=(*commit.steps, commit.steps[0])) if commit and commit.commit == 1 else commit

    def advance(self: LogState, commit: Commit) -> None:
        for entry in commit.entries:
            self.next_seq[entry.worker] = entry.seq + 1
        self.commit, self.version, self.stop = self.commit + 1, commit.last_version, commit.stop

    monkeypatch.setattr(function, "build_commit", doubled)
    monkeypatch.setattr(LogState, "advance", advance)


def ignores_a_fencing_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 and leases. A function that works on with an old one is rare, so some of their updates are made to look so."""
    compute = Worker._compute

    def with_an_old_token(self: Worker, seq: int, started: float) -> tuple[Update, bytes, tuple[str, ...]]:
        update, _, warnings = compute(self, seq, started)
        if seq % 3 == 2:
            update.generation = 1
        return update, update.pack(), warnings

    def faults(decision: Decision, log_state: LogState) -> dict[tuple[int, int], str]:
        updates = [update for step in decision.steps for update in step] + list(decision.discarded)
        return {update.id: update.fault for update in updates}

    monkeypatch.setattr(Worker, "_compute", with_an_old_token)
    monkeypatch.setattr(commits, "_faults", faults)


def sums_in_the_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    """3"""

    def decide(self: Bsp, log_state: LogState, arrived: Iterable[Update]) -> Decision | None:
        round_ = [update for update in arrived if update.seq == log_state.next_seq[update.worker]]
        return Decision([round_]) if len(round_) == log_state.workers else None

    monkeypatch.setattr(Bsp, "decide", decide)


def applies_an_update_twice_in_one_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 and 4: as if a function that was restarted did not know that it had been applied."""
    apply = StubReplica.apply

    def again(self: StubReplica, commit: Commit, updates: Any, until: int | None = None) -> None:
        apply(self, commit, updates, until)
        if self.log_state.commit == 2 and self._clock() > 4:
            self.chain = self.chain[::-1]

    monkeypatch.setattr(StubReplica, "apply", again)


def waits_for_a_worker_that_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """5: nobody ever writes the log again."""
    monkeypatch.setattr(
        GatherExchange,
        "_may_exist",
        lambda self, worker, seq, base: lambda: self._shared.known.next_seq[worker] == seq == 0,
    )


def applies_what_is_faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """6: an update is used unchecked."""
    monkeypatch.setattr(StubReplica, "check", lambda self, update: "")


def polls_without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """8"""
    monkeypatch.setattr(Backoff, "next_s", lambda self, uniform: 1e-4)


def lets_a_worker_lead_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `ssp` promises"""
    monkeypatch.setattr(Ssp, "may_start", Asp.may_start)


def deletes_what_the_horizon_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """13: one update of each worker too many."""

    def one_more(older: Horizon, newer: Horizon) -> Iterator[str]:
        for number, (start, end) in enumerate(zip(older.next_seq, newer.next_seq, strict=True)):
            yield from (keys.update(number, seq) for seq in range(start, end + 1))

    monkeypatch.setattr(retention, "updates_between", one_more)


def deletes_before_it_publishes_the_horizon(monkeypatch: pytest.MonkeyPatch) -> None:
    """13: it is written later, or never if the function dies."""
    create = VirtualStore.create

    async def forgetful(self: VirtualStore, key: str, data: bytes) -> Any:
        return None if key.startswith(keys.HORIZONS) else await create(self, key, data)

    monkeypatch.setattr(VirtualStore, "create", forgetful)


def deletes_up_to_a_snapshot_that_nobody_has_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """13: the horizon moves to where the replica is."""
    write = Committer._write_snapshot

    async def early(self: Committer, snapshot: Snapshot) -> None:
        self._retention.wrote(snapshot.meta["log_state"], 100)
        await self._shared.world.sleep(1.0)
        await write(self, snapshot)

    monkeypatch.setattr(Committer, "_write_snapshot", early)


def fails_where_the_horizon_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """13: a function that comes late ends the run instead of beginning anew."""

    async def never(*_: Any) -> bool:
        return False

    monkeypatch.setattr(function, "passed", never)


PLANTS: tuple[tuple[Plant, str], ...] = (
    (lets_a_log_entry_be_written_twice, "asp"),
    (skips_a_log_number, "asp"),
    (drops_a_fate, "bsp"),
    (loses_an_update_in_a_group_commit, "asp"),
    (doubles_an_update, "asp"),
    (ignores_a_fencing_token, "quorum:2"),
    (sums_in_the_order_of_arrival, "bsp"),
    (applies_an_update_twice_in_one_replica, "quorum:2"),
    (waits_for_a_worker_that_has_finished, "asp"),
    (applies_what_is_faulty, "bsp"),
    (polls_without_pause, "ssp:1"),
    (lets_a_worker_lead_too_far, "ssp:1"),
    (deletes_what_the_horizon_keeps, "bsp"),
    (deletes_before_it_publishes_the_horizon, "asp"),
    (deletes_up_to_a_snapshot_that_nobody_has_written, "asp"),
    (fails_where_the_horizon_has_passed, "asp"),
)


@pytest.mark.parametrize(("plant", "schedule"), PLANTS, ids=[plant.__name__ for plant, _ in PLANTS])
def test_a_planted_bug_is_found(plant: Plant, schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for start in range(0, 1000, 10):
        if broken := try_seeds(range(start, start + 10), schedule):
            break
    assert broken, "a thousand seeds did not find it"
    print(told(broken))


def test_an_unexpected_error_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: StubReplica, assignment: Assignment) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(StubReplica, "compute", fails)
    (verdict,) = try_seeds([1])
    assert any("ZeroDivisionError" in line for line in verdict.broken)
    assert verdict.command == f"lambdaml simulate --faults 1 --schedule {verdict.scenario.schedule}"


def test_damage_in_the_bucket_is_told_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(data: bytes, commit: int) -> Commit:
        raise BadObject("spoiled")

    monkeypatch.setattr("lambdaml.simulation.engine.Commit.unpack", unpack)
    (verdict,) = try_seeds([1], "bsp")
    assert any("spoiled" in line for line in verdict.broken)

"""What goes wrong in LambdaML (DS3Lab/LambdaML @ e7d466e), one test or two for each of eight defects, as not here."""

from __future__ import annotations

import asyncio
import secrets
import threading
from typing import Any

import pytest
import torch
from safetensors.torch import load

import lambdaml
from lambdaml.engines.entry import function_coroutine
from lambdaml.errors import RunFailed
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.log.lease import Lease
from lambdaml.log.reader import read_settings
from lambdaml.log.records import Commit, Stop, Update
from lambdaml.log.snapshot import State
from lambdaml.storage import MemoryStore, open_store
from lambdaml.training.one_thread import OneThread
from lambdaml.training.replica import Replica
from tests.lambdaml.lab import Made, Tiny, broken_off, memory, model_bytes, settings_of, table, train, update_of

STEPS = 8


@pytest.fixture(scope="module")
def plain() -> lambdaml.Run:
    return train(workers=3, steps=STEPS)


def empty_run(plain: lambdaml.Run, **settings: Any) -> MemoryStore:
    """A run like `plain` that nobody works on yet."""
    store = memory()
    changed = {"patience_s": 5.0, **settings}
    store.create(keys.RUN, plain.settings.model_copy(update=changed).dump())
    store.create(keys.snapshot(0), plain.store.get(keys.snapshot(0)) or b"")
    return store


def work(store: MemoryStore, *functions: tuple[str, list[int]], on_event: Any = lambda event: None) -> list[str]:
    """Run functions of these names and workers, all at once; returns how each ended."""

    async def all_of_them() -> list[str]:
        settings, compute = read_settings(open_store(store.url)), OneThread()
        try:
            return list(
                await asyncio.gather(
                    *[
                        function_coroutine(
                            open_store(store.url), settings, Tiny(), name, assigned, compute, emit=on_event
                        )
                        for name, assigned in functions
                    ]
                )
            )
        finally:
            compute.shutdown(wait=True)

    return asyncio.run(all_of_them())


# ---- 1: a worker that runs twice made the sum wrong, and said nothing


def test_1_functions_that_run_twice_at_once_do_not_change_a_bit(plain: lambdaml.Run) -> None:
    store = empty_run(plain)
    twice = [("a", [0, 1]), ("a-again", [0, 1]), ("b", [2]), ("b-again", [2]), ("all", [0, 1, 2])]
    assert work(store, *twice) == ["done"] * 5
    assert model_bytes(lambdaml.Run(store)) == model_bytes(plain)
    assert lambdaml.Run(store).verify().faults == []


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_1_an_update_that_is_published_twice_has_one_fate(plain: lambdaml.Run, schedule: str) -> None:
    """An earlier life of the function published it already; the new one computes and publishes it again."""
    store = empty_run(plain, schedule=schedule)
    replica = Replica(Tiny(), plain.settings)
    for worker in range(3):
        store.create(keys.update(worker, 0), update_of(replica, worker, 0, function="earlier").pack())
    work(store, ("a", [0, 1, 2]))
    run = lambdaml.Run(store)
    fated = [(entry.worker, entry.seq, entry.fate) for commit in run.log() for entry in commit.entries]
    assert sorted(fated) == [(w, s, "applied") for w in range(3) for s in range(STEPS)]
    assert Update.unpack(store.get(keys.update(1, 0)) or b"", 1, 0).function == "earlier"
    assert run.verify().faults == []
    if schedule == "bsp":
        assert model_bytes(run) == model_bytes(plain)


# ---- 2: the last round was lost, because the leader cleared the bucket when it had finished


@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:1", "quorum:2"])
def test_2_every_function_finishes_and_the_log_is_whole(plain: lambdaml.Run, schedule: str) -> None:
    store = empty_run(plain, schedule=schedule)
    assert work(store, ("a", [0]), ("b", [1]), ("c", [2])) == ["done"] * 3
    run = lambdaml.Run(store)
    assert run.verify().faults == []
    assert run.summary().stop == "steps"
    assert store.get(keys.MODEL) is not None


def test_2_a_function_that_comes_when_all_is_over_finishes_too(plain: lambdaml.Run) -> None:
    store = empty_run(plain)
    work(store, ("a", [0, 1, 2]))
    before = [info.key for info in store.list(keys.UPDATES)]
    assert work(store, ("late", [1])) == ["done"]
    assert [info.key for info in store.list(keys.UPDATES)] == before


# ---- 3: a worker that was missing made all others spin, forever


def test_3_a_wait_is_bounded_says_for_whom_and_costs_few_requests(
    plain: lambdaml.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambdaml.worker.waits.REPORT_WAIT_S", 0.2)
    store = empty_run(plain, patience_s=1.5)
    gone = [("a", [0, 1]), ("b", [])]
    store.create(keys.lease(2, 1), _held_by_another(2))
    events: list[Event] = []
    with pytest.raises(RunFailed, match=r"nothing happened for .* s, waiting for worker 2.*resume"):
        work(store, *gone, on_event=events.append)
    waiting = [event for event in events if event.event == "waiting"]
    assert {event.worker for event in waiting} == {2}
    assert all(event.seconds > 0.2 for event in waiting)


def test_3_a_wait_backs_off(plain: lambdaml.Run) -> None:
    store = empty_run(plain, patience_s=1.5)
    store.create(keys.lease(2, 1), _held_by_another(2))
    asked: list[str] = []
    get = MemoryStore.get

    def counted(self: MemoryStore, key: str) -> Any:
        asked.append(key)
        return get(self, key)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunFailed):
        patch.setattr(MemoryStore, "get", counted)
        work(store, ("a", [0, 1]))
    assert 2 < asked.count(keys.update(2, 0)) < 60


def test_3_a_worker_whose_function_fell_silent_is_taken_over(plain: lambdaml.Run) -> None:
    run = broken_off(workers=3, steps=STEPS, functions=3, lease_s=0.5)
    assert work(run.store, ("a", [0, 1])) == ["done"]  # type: ignore[arg-type]
    assert model_bytes(run) == model_bytes(plain)


def test_3_a_function_that_loses_worker_0_while_it_waits_follows_who_has_it(plain: lambdaml.Run) -> None:
    """It has committed all of its own updates and waits for worker 2; then somebody else takes over and ends the run."""
    store = empty_run(plain, schedule="asp", lease_s=0.4)
    store.create(keys.lease(2, 1), _held_by_another(2))

    async def take_over() -> None:
        while (found := store.get(keys.log(len(list(store.list(keys.LOG))) - 1))) is None or not _all_done(found):
            await asyncio.sleep(0.01)
        held = keys.number([info.key for info in store.list(keys.leases(0))][-1])
        taken = Lease(0, held + 1, "usurper", 3600.0).pack()
        while store.create(keys.lease(0, held + 1), taken) is not None:
            held += 1
            taken = Lease(0, held + 1, "usurper", 3600.0).pack()
        while not any(info.key > keys.lease(1, 1) for info in store.list(keys.leases(1))):
            await asyncio.sleep(0.01)
        run = lambdaml.Run(store)
        last = list(run.log())[-1]
        store.create(keys.log(last.commit + 1), Commit(last.commit + 1, last.last_version, (), stop=END).pack())

    def _all_done(data: bytes) -> bool:
        run = lambdaml.Run(store)
        return sum(len(commit.entries) for commit in run.log()) == 2 * STEPS

    async def both() -> str:
        settings, compute = read_settings(open_store(store.url)), OneThread()
        try:
            function = function_coroutine(open_store(store.url), settings, Tiny(), "a", [0, 1], compute)
            outcome, _ = await asyncio.wait_for(asyncio.gather(function, take_over()), timeout=10)
            return outcome
        finally:
            compute.shutdown(wait=True)

    assert asyncio.run(both()) == "done"


END = Stop("cancelled")


def _held_by_another(worker: int) -> bytes:
    return Lease(worker, 1, "somebody", 3600.0).pack()


# ---- 4: with more than 1,000 objects the leader never saw its own


def test_4_more_than_a_thousand_log_entries_and_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists come in pages of 50 here, so that there are dozens of them."""
    monkeypatch.setattr("lambdaml.storage.memory.LOCAL_PAGE", 50)
    run = train(workers=1, steps=1100, snapshot_every=10)
    assert len(list(run.store.list(keys.LOG))) == 1100
    assert len(list(run.store.list(keys.UPDATES))) == 1100
    assert len(list(run.store.list(keys.SNAPSHOTS))) == 111
    report = run.verify()
    assert (report.faults, report.updates, report.version) == ([], 1100, 1100)
    assert run.status().commits == 1100


def test_4_a_function_that_starts_behind_a_thousand_objects_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambdaml.storage.memory.LOCAL_PAGE", 50)
    run = broken_off(at=1050, workers=1, steps=1060, snapshot_every=20)
    assert lambdaml.resume(run.store).version == 1060
    assert run.verify().faults == []


# ---- 5 and 6: the continuation could not run, others might not find its checkpoint, and its grain was a guess


def test_5_functions_that_go_on_continue_at_the_step_with_the_same_bits(plain: lambdaml.Run) -> None:
    run = train(workers=3, steps=STEPS, functions=3, lifetime_s=0.0)
    assert model_bytes(run) == model_bytes(plain)
    lives: dict[str, list[int]] = {}
    for seq in range(STEPS):
        update = Update.unpack(run.store.get(keys.update(1, seq)) or b"", 1, seq)
        lives.setdefault(update.function, []).append(seq)
    assert list(lives.values()) == [[seq] for seq in range(STEPS)]


def test_5_nothing_is_computed_twice_when_functions_go_on() -> None:
    calls: list[int] = []

    def counted(model: Any, batch: Any) -> torch.Tensor:
        calls.append(1)
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    train(Made(loss=counted), workers=3, steps=STEPS, functions=3, lifetime_s=0.0)
    assert len(calls) == 3 * STEPS


@pytest.mark.parametrize(("lifetime_s", "lives"), [(1e9, 1), (0.0, STEPS)])
def test_6_a_function_leaves_when_its_time_runs_out_and_not_before(lifetime_s: float, lives: int) -> None:
    run = train(workers=1, steps=STEPS, functions=1, lifetime_s=lifetime_s)
    seen = {Update.unpack(run.store.get(keys.update(0, s)) or b"", 0, s).function for s in range(STEPS)}
    assert len(seen) == lives


def test_6_a_function_that_is_told_to_leave_publishes_gives_back_its_leases_and_says_so(plain: lambdaml.Run) -> None:
    store = empty_run(plain)
    told = threading.Event()

    async def one(name: str, leaving: Any) -> str:
        settings, compute = read_settings(open_store(store.url)), OneThread()
        try:
            return await function_coroutine(
                open_store(store.url), settings, Tiny(), name, [0, 1, 2], compute,
                leaving=leaving, emit=lambda event: told.set() if event.event == "commit" else None,
            )  # fmt: skip
        finally:
            compute.shutdown(wait=True)

    assert asyncio.run(one("first", told.is_set)) == "left"
    assert b'"released":true' in bytes(store.get([i.key for i in store.list(keys.LEASES)][-1]) or b"")
    assert asyncio.run(one("second", lambda: False)) == "done"
    assert model_bytes(lambdaml.Run(store)) == model_bytes(plain)


# ---- 7: workers started from different weights, and never deterministic


@pytest.mark.parametrize("functions", [1, 3])
def test_7_every_function_starts_from_the_same_weights_whatever_its_random_streams(functions: int) -> None:
    torch.manual_seed(secrets.randbits(30))
    run = train(workers=3, steps=2, functions=functions)
    data = run.store.get(keys.snapshot(0)) or b""
    job = Tiny()
    torch.manual_seed(secrets.randbits(30))
    digests = {Replica(job, settings_of(job, workers=3)).state().digest() for _ in range(2)}
    assert digests == {State.load(data, keys.snapshot(0)).digest()}


def test_7_replicas_compare_their_digests_all_along() -> None:
    run = train(workers=3, steps=STEPS, functions=3, snapshot_every=1)
    report = run.verify()
    assert report.faults == []
    assert report.digests >= STEPS - 1


def test_7_a_replica_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three functions flips a bit in its weights, once."""
    from lambdaml.errors import ReplicaDiverged

    apply = Replica.apply
    made: list[Replica] = []

    def spoiled(self: Replica, *arguments: Any, **options: Any) -> None:
        apply(self, *arguments, **options)
        if self not in made:
            made.append(self)
        if len(made) == 3 and made[2] is self and self.version == 3:
            self.flat.parameters[0].data[0, 0] += 1e-3

    monkeypatch.setattr(Replica, "apply", spoiled)
    with pytest.raises(ReplicaDiverged, match="disagree about the state after"):
        train(workers=3, steps=30, functions=3, snapshot_every=2)


# ---- 8: no example wrote the model


def test_8_the_model_is_written_and_loads_with_safetensors_alone(plain: lambdaml.Run) -> None:
    model = torch.nn.Linear(6, 3)
    model.load_state_dict(load(model_bytes(plain)))
    x, y = table(64).tensors
    accuracy = (model(x).argmax(1) == y).float().mean().item()
    assert accuracy == plain.metrics()[STEPS]["accuracy"] > 0.5
    assert torch.equal(plain.model()(x), model(x))

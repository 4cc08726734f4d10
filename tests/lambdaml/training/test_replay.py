"""Replay: any version, bit for bit, and what a run keeps after garbage collection."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lambdaml
from lambdaml.errors import BadObject, RunNotFound, SettingsError
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.log.commits import build_commit, summed
from lambdaml.log.records import Update
from lambdaml.schedules import SCHEDULES
from lambdaml.seeds import derive_seed
from lambdaml.staleness import RULES
from lambdaml.storage import copy
from lambdaml.training.replica import Replica
from tests.lambdaml.lab import Tiny, broken_off, equal, memory, model_bytes, train, update_of

STEPS = 9


@pytest.fixture(scope="module")
def asp() -> lambdaml.Run:
    return train(workers=3, steps=STEPS, schedule="asp", staleness="inverse", snapshot_every=4, functions=2)


@pytest.fixture(scope="module")
def bsp() -> lambdaml.Run:
    return train(workers=3, steps=STEPS, snapshot_every=4)


@pytest.fixture
def own(bsp: lambdaml.Run) -> lambdaml.Run:
    target = memory()
    copy(bsp.store, target)
    return lambdaml.Run(target)


def from_scratch(run: lambdaml.Run) -> list[dict[str, torch.Tensor]]:
    """Every version's weights, from nothing but the log, the updates, and torch's own optimizer."""
    job = Tiny()
    torch.manual_seed(derive_seed(run.settings.seed, "model"))
    model = job.model()
    optimizer = job.optimizer(model)
    versions = [{name: tensor.clone() for name, tensor in model.state_dict().items()}]
    for commit in run.log():
        for step in commit.steps:
            total = np.zeros(21, np.float32)
            factors, divisor = summed(step, run.settings.batch_size)
            for entry, factor in zip(step, factors, strict=True):
                data = run.store.get(keys.update(entry.worker, entry.seq)) or b""
                gradient = Update.unpack(data, entry.worker, entry.seq).body["gradient"]
                total = total + gradient * np.float32(factor)
            total /= np.float32(divisor)
            flat, offset = torch.from_numpy(total), 0
            for parameter in model.parameters():
                parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter).clone()
                offset += parameter.numel()
            optimizer.step()
            versions.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return versions


@pytest.mark.parametrize("name", ["asp", "bsp"])
def test_every_version_is_what_a_computation_from_scratch_gives(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    expected = from_scratch(run)
    assert len(expected) == (3 * STEPS if name == "asp" else STEPS) + 1
    for version, weights in enumerate(expected):
        state = run.replay(version)
        assert state.version == version
        assert equal(state.model(), weights)


def test_a_version_inside_a_group_commit_can_be_replayed(asp: lambdaml.Run) -> None:
    """Three updates of version 0 in one commit, and three of version 3 in the next."""
    target, settings = memory(), asp.settings
    replica = Replica(Tiny(), settings)
    target.put(keys.RUN, settings.dump())
    target.put(keys.snapshot(0), replica.state().dump())
    for number in range(2):
        updates = [update_of(replica, worker, number) for worker in range(3)]
        for update in updates:
            target.put(keys.update(*update.id), update.pack())
        rule = RULES.make(settings.staleness)
        commit = build_commit(replica.log_state, SCHEDULES.make("asp"), rule, updates, max_rejected=9)
        assert commit is not None
        assert len(commit.steps) == 3
        target.put(keys.log(number), commit.pack())
        replica.apply(commit, {update.id: update for update in updates})
    run = lambdaml.Run(target)
    for version, weights in enumerate(from_scratch(run)):
        state = run.replay(version)
        assert equal(state.model(), weights)
        assert state.version == version
    assert run.replay(6).digest() == replica.state().digest()


def test_the_last_version_is_the_result(asp: lambdaml.Run) -> None:
    assert asp.replay().dump_model() == model_bytes(asp)
    assert asp.replay().digest() == asp.replay(3 * STEPS).digest()


def test_a_model_of_any_version_can_be_had(bsp: lambdaml.Run) -> None:
    x = torch.ones(2, 6)
    assert not bsp.model().training
    assert torch.equal(bsp.model()(x), bsp.model(STEPS)(x))
    assert not torch.equal(bsp.model(3)(x), bsp.model(STEPS)(x))


@pytest.mark.parametrize("version", [-1, 10**6])
def test_a_version_that_does_not_exist_is_refused(bsp: lambdaml.Run, version: int) -> None:
    with pytest.raises(SettingsError, match=f"version {version}"):
        bsp.replay(version)


def test_a_run_without_a_result_says_so() -> None:
    run = broken_off(workers=2, steps=STEPS)
    with pytest.raises(RunNotFound, match="no result yet"):
        run.model()
    assert run.model(1) is not None


def test_an_update_that_was_deleted_is_named(own: lambdaml.Run) -> None:
    own.store.delete([keys.update(1, 2)])
    with pytest.raises((BadObject, SettingsError), match=keys.update(1, 2)):
        own.replay(3)


def test_collecting_garbage_keeps_the_result_and_what_follows_the_newest_snapshot(own: lambdaml.Run) -> None:
    before, model = len(list(own.store.list())), model_bytes(own)
    doomed = own.gc()
    assert len(list(own.store.list())) == before - doomed + 1, "the horizon is new"
    assert doomed >= 3 * STEPS
    assert model_bytes(own) == model
    assert own.replay().dump_model() == model
    assert len(list(own.log())) == STEPS
    assert own.metrics()[STEPS] != {}
    assert own.verify().faults == []
    assert own.gc() == 0


@pytest.mark.parametrize("version", [0, 3, STEPS - 1])
def test_versions_before_the_newest_snapshot_cannot_be_replayed_after_that(own: lambdaml.Run, version: int) -> None:
    own.gc()
    with pytest.raises(SettingsError, match=f"version {version}.*earliest kept is {STEPS}"):
        own.replay(version)


def target_run() -> lambdaml.Run:
    """A run whose result is of an earlier version than its end."""
    store = memory()

    def accuracy(event: Event) -> None:
        if event.event == "snapshot" and event.version == 4:
            from lambdaml.log.stops import request_stop

            request_stop(store, "target", 4)

    lambdaml.train(Tiny, store.url, workers=2, steps=100_000, snapshot_every=4, on_event=accuracy)
    run = lambdaml.Run(store)
    assert run.summary().stop_version == 4 < run.summary().version
    return run


def test_collecting_garbage_keeps_a_result_that_is_older_than_the_end() -> None:
    run = target_run()
    model = model_bytes(run)
    assert run.verify().faults == []
    run.gc()
    assert model_bytes(run) == model == run.replay(4).dump_model()
    assert run.verify().faults == []
    with pytest.raises(SettingsError):
        run.replay(3)
    assert run.replay(5).version == 5
    assert run.replay().version == run.summary().version


def test_a_run_that_broke_off_goes_on_after_garbage_collection(bsp: lambdaml.Run) -> None:
    run = broken_off(at=6, workers=3, steps=STEPS, snapshot_every=4)
    assert run.gc() > 0
    lambdaml.resume(run.store)
    assert model_bytes(run) == model_bytes(bsp)
    assert run.verify().faults == []

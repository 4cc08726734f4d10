"""Workers that average models of their own in groups: DS-Sync, against a plain loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.records import Update
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.schedules.groups import Grouping, Groups
from lambdaml.traces.links import measured_links
from lambdaml.training.replica import Replica
from tests.lambdaml.lab import Tiny, TinyAdam, broken_off, model_bytes, settings_of, train

MODELS = "local:1,sends=models"
WORKERS, STEPS = 4, 12
SHUFFLES = ("grid", "halves", "random", "none")


class Normed(Tiny):
    """A network with running statistics."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


class Once(Tiny):
    """A job in double precision that takes one long step, so that workers differ, and then none."""

    def model(self) -> nn.Module:
        return nn.Linear(6, 3).double()

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x.double()), y)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=5.0)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step == 0))

    scheduler_interval = "step"

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


def plain_loop(job: Job, groups: list[list[list[int]]]) -> list[dict[str, torch.Tensor]]:
    """Return the models of all workers after one round for each entry of `groups`, by plain torch.

    A model's floating numbers are added in the order of the workers and divided once; buffers that count are the greatest.
    """
    settings = settings_of(job, workers=WORKERS, steps=STEPS, schedule="bsp", algorithm=MODELS)
    torch.manual_seed(0)
    replica = Replica(job, settings)
    models = [job.model() for _ in range(WORKERS)]
    for model in models:
        model.load_state_dict(replica.model.state_dict())
        model.train()
    optimizers = [job.optimizer(model) for model in models]
    x, y = job.dataset().tensors
    for turn, partition in enumerate(groups):
        for worker, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            chosen = replica.sampler.dealt(worker, turn)
            optimizer.zero_grad()
            job.loss(model, (x[chosen], y[chosen])).backward()
            optimizer.step()
        for group in partition:
            states = [models[worker].state_dict() for worker in group]
            mean = {name: _mean(name, [state[name] for state in states]) for name in states[0]}
            for worker in group:
                models[worker].load_state_dict(mean)
    return [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]


def _mean(name: str, tensors: list[torch.Tensor]) -> torch.Tensor:
    if not tensors[0].is_floating_point():
        return torch.stack(tensors).amax(0)
    if "running" in name:  # buffers are weighed rather than summed and divided
        return sum((tensor * (1 / len(tensors)) for tensor in tensors), torch.zeros_like(tensors[0]))
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total / len(tensors)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize(("size", "workers"), [(1, 5), (2, 4), (2, 12), (4, 8), (4, 16), (3, 27), (6, 6)])
def test_every_worker_is_in_one_group_of_a_round(shuffle: str, size: int, workers: int) -> None:
    if shuffle == "halves" and (size, workers) in [(2, 12), (3, 27), (1, 5)]:
        return
    grouping = Grouping(size, shuffle, workers, seed=3)
    for turn in range(9):
        groups = grouping.of(turn)
        assert sorted(worker for group in groups for worker in group) == list(range(workers))
        assert all(len(group) == size and group == sorted(group) for group in groups)
        assert all(grouping.around(turn, worker) == group for group in groups for worker in group)
    changes = any(grouping.of(turn) != grouping.of(0) for turn in range(9))
    assert changes == (shuffle != "none" and size not in (1, workers))


@pytest.mark.parametrize(("size", "workers"), [(2, 4), (2, 12), (4, 8), (4, 16), (3, 27), (5, 10), (3, 12)])
@pytest.mark.parametrize("shuffle", ["grid", "random"])
def test_what_one_worker_knows_reaches_all(shuffle: str, size: int, workers: int) -> None:
    grouping, knows = Grouping(size, shuffle, workers, seed=0), {0}
    for turn in range(40):
        knows |= {worker for group in grouping.of(turn) if knows & set(group) for worker in group}
    assert knows == set(range(workers))


@pytest.mark.parametrize(("shuffle", "workers", "size"), [("grid", 4, 2), ("grid", 16, 4), ("halves", 4, 2)])
def test_without_learning_all_agree_after_two_rounds(shuffle: str, workers: int, size: int) -> None:
    run = train(Once, workers=workers, steps=4, schedule=f"groups:{size},shuffle={shuffle},every=2", snapshot_every=1)
    models = [run.model(1, of=worker).state_dict()["weight"] for worker in range(workers)]
    assert (models[0] - models[size]).abs().max() > 1e-3, "after one round the groups differ"
    assert models[0].equal(models[1]) or shuffle != "grid"
    models = [run.model(2, of=worker).state_dict()["weight"] for worker in range(workers)]
    assert max(float((model - models[0]).abs().max()) for model in models) < 1e-12


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("job", [Tiny, TinyAdam, Normed])
def test_workers_have_the_models_of_a_plain_loop(job: type[Job], shuffle: str) -> None:
    grouping = Grouping(2, shuffle, WORKERS, seed=0)
    expected = plain_loop(job(), [[list(group) for group in grouping.of(turn)] for turn in range(STEPS)])
    run = train(job, workers=WORKERS, steps=STEPS, schedule=f"groups:2,shuffle={shuffle},every=5")
    for worker, model in enumerate(expected):
        assert same(run.model(of=worker).state_dict(), model)
    for name, tensor in run.model().state_dict().items():
        if tensor.is_floating_point():
            mean = torch.stack([model[name].double() for model in expected]).mean(0)
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("job", [Tiny, TinyAdam, Normed])
def test_one_group_is_local_steps_with_averaged_models_bit_for_bit(job: type[Job]) -> None:
    options: dict[str, Any] = {"workers": WORKERS, "steps": STEPS}
    grouped, averaged = train(job, schedule="groups:4", **options), train(job, algorithm=MODELS, **options)
    assert model_bytes(grouped) == model_bytes(averaged)


@pytest.mark.parametrize("job", [Tiny, Normed])
def test_averaged_models_are_averaged_displacements_within_units_in_the_last_place(job: type[Job]) -> None:
    """A mean of N models has at most N roundings more than the base plus the mean displacement, and so in each step."""
    options: dict[str, Any] = {"workers": WORKERS, "steps": STEPS}
    models = train(job, algorithm=MODELS, **options).model().state_dict()
    moved = train(job, algorithm="local:1,inner=keep,weights=equal", **options).model().state_dict()
    for name, tensor in moved.items():
        if tensor.is_floating_point():
            scale = tensor.abs().clamp(min=0.1)
            assert ((models[name] - tensor).abs() / scale).max() < (WORKERS + 2) * STEPS * 2**-23


@pytest.mark.parametrize("options", [{"functions": 1}, {"functions": 3}, {"functions": 4, "engine": "inline"}])
def test_whoever_computes_it_a_run_has_the_same_bits_and_verifies(options: dict[str, Any]) -> None:
    common: dict[str, Any] = {"workers": WORKERS, "steps": STEPS, "schedule": "groups:2,every=3", "snapshot_every": 2}
    run = train(TinyAdam, recover_s=1e-9, **common, **options)
    assert model_bytes(run) == model_bytes(train(TinyAdam, workers=WORKERS, steps=STEPS, schedule="groups:2"))
    report = run.verify(deep=1)
    assert (report.faults, report.recomputed, report.unchecked) == ([], WORKERS * STEPS, 0)
    assert report.memories > WORKERS and report.snapshots > 3


@pytest.mark.parametrize("job", [Tiny, TinyAdam])
def test_a_run_that_broke_off_goes_on_with_the_same_bits(job: type[Job]) -> None:
    options: dict[str, Any] = {"workers": WORKERS, "steps": STEPS, "schedule": "groups:2,every=2", "snapshot_every": 2}
    run = broken_off(job, at=2, functions=2, **options)
    assert lambdaml.resume(run.store).stop == "steps"
    assert model_bytes(run) == model_bytes(train(job, **options))
    assert run.verify(deep=1).faults == []


def test_a_damaged_model_is_found_by_a_deep_check() -> None:
    run = train(workers=WORKERS, steps=STEPS, schedule="groups:2")
    key, other = keys.update(1, 6), keys.update(1, 5)
    store = run.store
    update, earlier = Update.read(store.get(key), key), Update.read(store.get(other), other)
    update.body = earlier.body
    store.delete([key])
    store.create(key, update.pack())
    assert any(key in fault for fault in run.verify(deep=1).faults)


def test_a_round_costs_as_many_gets_as_its_groups_have_others() -> None:
    """16 workers on 16 functions: 48 gets a round, where everyone who reads everything takes 240."""
    every, rounds, workers = 4, 8, 16
    told: list[Any] = []
    options: dict[str, Any] = {"workers": workers, "functions": workers, "engine": "inline", "steps": rounds}
    run = train(schedule=f"groups:4,every={every}", snapshot_every=99, on_event=told.append, **options)
    found = {row["gets"] for row in run.trace() if "gets" in row}
    assert sum(row.get("gets", 0) for row in run.trace()) <= rounds * 48 + (workers - 1) * rounds // every
    assert found


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"workers": 6}, "groups of 4 do not divide 6 workers"),
        ({"staleness": "inverse"}, "needs one model that all workers share"),
        ({"pattern": "scatter"}, "needs one model that all workers share"),
        ({"pattern": "fold"}, "needs one model that all workers share"),
        ({"bracket": "2"}, "leave it out"),
        ({"codec": "topk:0.1"}, "changes numbers"),
        ({"error_feedback": 1.0}, "leave it out"),
        ({"algorithm": "local:4"}, "does not send them"),
        ({"algorithm": "admm:1"}, "does not send them"),
        ({"algorithm": "local:auto,sends=models"}, "same number of steps"),
        ({"max_update_norm": 1.0}, "sends models"),
        ({"lost_memory": "reset"}, "does not wait"),
        ({"schedule": "groups:2,shuffle=halves", "workers": 32}, "never mix"),
        ({"schedule": "asp", "algorithm": MODELS}, "would replace what others have learnt"),
        ({"schedule": "pipeline:1", "algorithm": MODELS}, "would replace what others have learnt"),
    ],
    ids=str,
)
def test_what_does_not_go_with_models_of_ones_own_is_refused_by_name(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        Parts.of(RunOptions(**{"workers": 8, "schedule": "groups:4", **options}))


def test_a_gradient_is_a_step_along_it() -> None:
    assert RunOptions(schedule="groups:4").algorithm == MODELS
    assert RunOptions(schedule="bsp").algorithm == "gradient"


def test_a_change_in_mid_run_is_refused() -> None:
    run = train(workers=WORKERS, steps=2, schedule="groups:2")
    with pytest.raises(SettingsError, match="does not wait"):
        run.change("lr", 0.1)


def test_a_worker_or_a_version_that_does_not_exist_is_refused() -> None:
    run = train(workers=WORKERS, steps=2, schedule="groups:2")
    with pytest.raises(SettingsError, match="from 0 on"):
        run.model(of=4)
    with pytest.raises(SettingsError, match="no version 9"):
        run.model(9, of=1)


LINKS = "1+1.2+1+9+1+0.8+1+10+1+1"


def test_groups_by_links_put_slow_ones_together_and_mix_all_now_and_then() -> None:
    grouping = Groups(4, links=LINKS, mix=3).grouping(10, seed=1)
    seen = set()
    for turn in range(30):
        groups = grouping.of(turn)
        assert sorted(worker for group in groups for worker in group) == list(range(10))
        assert all(grouping.around(turn, worker) == group for group in groups for worker in group)
        assert {len(group) for group in groups} <= ({5} if turn % 3 == 2 else {2, 4})
        assert ([3, 7] in groups) or turn % 3 == 2
        seen.add(str(groups))
    assert len(seen) > 10


def test_a_run_of_groups_by_links_ends_and_verifies() -> None:
    run = train(workers=10, steps=STEPS, schedule=f"groups:4,links={LINKS},mix=3,every=4", functions=3)
    report = run.verify(deep=1)
    assert (report.faults, report.recomputed) == ([], 10 * STEPS)
    models = [run.model(of=worker).state_dict()["weight"].double() for worker in range(10)]
    torch.testing.assert_close(run.model().state_dict()["weight"].double(), torch.stack(models).mean(0))


def test_links_are_measured_in_the_trace() -> None:
    rows: list[dict[str, Any]] = []
    where = {"platform": "local", "channel": "40ms", "slow_link": "2:10"}
    lambdaml.simulate(workers=4, schedule="groups:2", steps=24, trace=lambda trace: rows.extend(trace.rows), **where)
    links = measured_links(rows, 4)
    assert links[2] > 5 * max(links[0], links[1], links[3])
    with pytest.raises(ValueError, match="worker 4"):
        measured_links(rows, 5)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("groups:0", "size"),
        ("groups:2,every=0", "every"),
        ("groups:2,average=never", "average"),
        ("groups:2,links=1+x", "links"),
        ("groups:2,links=1+0", "above 0"),
        ("groups:2,links=1+1,shuffle=random", "leave out shuffle"),
        ("groups:2,links=1+1,mix=0", "mix"),
        ("groups:2,links=1+1", "one for each"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(spec: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        Parts.of(RunOptions(workers=4, schedule=spec))

"""Runs that go on from where another one stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lambdaml
from lambdaml.errors import JobError, RunNotFound, SettingsError
from lambdaml.log import keys
from lambdaml.log.snapshot import RULE_PREFIX, State
from lambdaml.settings import RunVersion
from tests.lambdaml.lab import Made, Tiny, model_bytes, train


def first(run: lambdaml.Run) -> State:
    data = run.store.get(keys.snapshot(0))
    assert data is not None
    return State.load(data, keys.snapshot(0))


def adam() -> Made:
    return Made(
        optimizer=lambda ps: torch.optim.Adam(ps, lr=0.1),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5),
    )


def test_it_begins_with_weights_optimizer_and_learning_rate_and_a_log_of_its_own() -> None:
    before = train(adam(), workers=2, steps=7)
    after = train(adam(), workers=3, schedule="asp", steps=2, init_from=before.url)
    assert after.settings.init_from == RunVersion(run=before.url, version=7)
    stood, begun = lambdaml.Run(before.store, adam()).replay(7), first(after)
    assert begun.meta["log_state"]["version"] == begun.meta["log_state"]["commit"] == 0
    assert {**stood.meta, "log_state": None} == {**begun.meta, "log_state": None}
    assert stood.meta["optimizer"]["param_groups"][0]["lr"] < 0.1
    assert stood.tensors.keys() == begun.tensors.keys()
    assert all(torch.equal(tensor, begun.tensors[name]) for name, tensor in stood.tensors.items())
    assert lambdaml.Run(after.store, adam()).verify().faults == []


def test_its_steps_are_plain_torch_steps_from_there() -> None:
    before = train(workers=1, steps=3)
    after = train(workers=1, steps=2, init_from=before.url, seed=5)
    job, model = Tiny(), Tiny().model()
    model.load_state_dict(before.replay(3).model())
    optimizer = job.optimizer(model)
    optimizer.load_state_dict({"state": {}, "param_groups": optimizer.state_dict()["param_groups"]})
    for name, parameter in model.named_parameters():
        index = [n for n, _ in model.named_parameters()].index(name)
        optimizer.state[parameter]["momentum_buffer"] = before.replay(3).tensors[f"optimizer/{index}/momentum_buffer"]
    from lambdaml.training.sampling import Sampler

    x, y = job.dataset().tensors
    for seq in range(2):
        indices = Sampler(64, 1, 8, 5).indices(0, seq)
        optimizer.zero_grad()
        job.loss(model, (x[indices], y[indices])).backward()
        optimizer.step()
    found = after.model()
    assert all(torch.allclose(a, b) for a, b in zip(model.parameters(), found.parameters(), strict=True))


def test_an_earlier_version_may_be_asked_for_with_or_without_a_snapshot() -> None:
    before = train(workers=2, steps=6, snapshot_every=4)
    for version in (4, 3):
        after = train(workers=2, steps=1, init_from=f"{before.url}@{version}")
        assert after.settings.init_from == RunVersion(run=before.url, version=version)
        stood = before.replay(version).model()
        assert all(torch.equal(tensor, stood[name]) for name, tensor in first(after).model().items())


def test_the_result_counts_where_it_is_not_the_newest() -> None:
    before = train(workers=2, steps=100_000, target="accuracy>=0.6", snapshot_every=5)
    summary = before.summary()
    assert summary.stop == "target"
    after = train(workers=2, steps=1, init_from=before.url)
    assert after.settings.init_from == RunVersion(run=before.url, version=summary.stop_version or -1)


def test_the_same_origin_and_seed_give_the_same_bits() -> None:
    before = train(workers=2, steps=3)
    runs = [train(workers=4, steps=5, functions=functions, init_from=before.url) for functions in (1, 3)]
    assert model_bytes(runs[0]) == model_bytes(runs[1])


LOCAL = "local:2,outer=nesterov"


@pytest.mark.parametrize("made", [Tiny, adam])
@pytest.mark.parametrize("algorithms", [("gradient", LOCAL), (LOCAL, "gradient"), ("local:2", LOCAL)])
def test_with_another_algorithm_the_weights_are_taken_over_and_the_optimizers_are_fresh(
    made: Any, algorithms: tuple[str, str]
) -> None:
    before = train(made(), workers=2, steps=3, algorithm=algorithms[0])
    after = train(made(), workers=2, steps=3, algorithm=algorithms[1], init_from=before.url)
    alone = first(train(made(), workers=2, steps=1, algorithm=algorithms[1]))
    stood, begun = lambdaml.Run(before.store, made()).replay(3), first(after)
    assert all(torch.equal(tensor, begun.model()[name]) for name, tensor in stood.model().items())
    assert {name: begun.meta[name] for name in alone.meta} == alone.meta
    assert begun.tensors.keys() == alone.tensors.keys()
    assert lambdaml.Run(after.store, made()).verify(deep=1).faults == []


@pytest.mark.parametrize("made", [Tiny, adam])
def test_with_the_same_local_steps_the_outer_optimizer_goes_on(made: Any) -> None:
    before = train(made(), workers=2, steps=3, algorithm=LOCAL)
    after = train(made(), workers=3, steps=1, algorithm=LOCAL, init_from=before.url)
    stood, begun = lambdaml.Run(before.store, made()).replay(3), first(after)
    own = {"log_state": None, "scheduler": None}
    assert {**stood.meta, **own} == {**begun.meta, **own}
    assert begun.meta["scheduler"] == (None if made is Tiny else {"inner": 6}), (
        "the schedule goes on after 6 local steps"
    )
    assert any(name.startswith("optimizer/") for name in begun.tensors)
    assert stood.tensors.keys() == begun.tensors.keys()
    assert all(torch.equal(tensor, begun.tensors[name]) for name, tensor in stood.tensors.items())


@pytest.mark.parametrize("rule", ["nesterov", "dc:0.04"])
def test_what_a_rule_remembers_begins_anew(rule: str) -> None:
    """It is about the origin's versions."""
    before = train(workers=2, steps=5, schedule="asp", staleness=rule)
    after = train(workers=2, steps=5, schedule="asp", staleness=rule, init_from=before.url)
    alone = train(workers=2, steps=5, schedule="asp", staleness=rule)

    def remembered(run: lambdaml.Run) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in first(run).tensors.items() if name.startswith(RULE_PREFIX)}

    assert remembered(after).keys() == remembered(alone).keys()
    assert all(torch.equal(tensor, remembered(alone)[name]) for name, tensor in remembered(after).items())
    assert after.verify().faults == []


def test_a_run_that_died_before_its_first_snapshot_begins_at_its_origin_too() -> None:
    before = train(workers=2, steps=3)
    after = train(workers=2, steps=3, init_from=before.url)
    model = model_bytes(after)
    for info in list(after.store.list("")):
        if info.key != keys.RUN:
            after.store.delete([info.key])
    lambdaml.resume(after.url)
    assert model_bytes(after) == model


@pytest.mark.parametrize(
    ("origin", "error", "words"),
    [
        ("memory://nowhere-at-all", RunNotFound, "there is no run"),
        ("{}@4", SettingsError, "no version 4: the last is 3"),
    ],
)
def test_an_origin_that_is_not_there(origin: str, error: type[Exception], words: str) -> None:
    before = train(workers=2, steps=3)
    with pytest.raises(error, match=words):
        train(workers=2, steps=3, init_from=origin.format(before.url))


def test_an_origin_of_another_model() -> None:
    before = train(workers=2, steps=3)
    other: Any = Made(model=lambda: torch.nn.Linear(6, 3, bias=False))
    with pytest.raises(JobError, match="not the one the snapshot is of"):
        train(other, workers=2, steps=3, init_from=before.url)


def test_an_origin_without_the_learning_rate_schedule_that_the_job_has() -> None:
    before = train(workers=2, steps=3)
    with pytest.raises(JobError, match="scheduler"):
        train(adam(), workers=2, steps=3, init_from=before.url)


def test_a_run_whose_name_looks_like_a_version_is_an_origin_too(tmp_path: Path) -> None:
    places = [f"file://{tmp_path}/{name}" for name in ("a", "a@1")]
    runs = [train(Tiny, url=place, workers=2, steps=steps, engine="inline") for place, steps in zip(places, (2, 3))]
    after = train(workers=2, steps=1, init_from=places[1])
    assert after.settings.init_from == RunVersion(run=runs[1].url, version=3)
    after = train(workers=2, steps=1, init_from=f"{places[0]}@2")
    assert after.settings.init_from == RunVersion(run=runs[0].url, version=2)

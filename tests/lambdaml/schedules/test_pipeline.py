"""The schedule `pipeline:D`: rounds as in `bsp`, on a model that is D rounds old, computed while a round is exchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lambdaml
from benchmarks.overlap import round_s
from lambdaml.errors import SettingsError
from lambdaml.job import Job
from lambdaml.seeds import derive_seed
from lambdaml.simulation.faults import try_seeds
from lambdaml.training.sampling import Sampler
from lambdaml.worker.backlog import Backlog
from lambdaml.worker.bases import Bases
from lambdaml.worker.committer import Committer
from tests.lambdaml.lab import Tiny, TinyAdam, TinyWide, broken_off, model_bytes, train

WORKERS, STEPS = 4, 20


class Normed(Tiny):
    """A model with buffers, which updates change."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 500), nn.BatchNorm1d(500), nn.Tanh(), nn.Linear(500, 3))


def delayed_loop(job: Job, delay: int) -> dict[str, torch.Tensor]:
    """Train as anybody would, on gradients at the parameters of `delay` steps before, from a list of all of them."""
    sampler, (x, y) = Sampler(64, WORKERS, job.batch_size, 0), job.dataset().tensors
    torch.manual_seed(derive_seed(0, "model"))
    model, old = job.model(), job.model()
    optimizer = job.optimizer(model)
    states = [{name: value.clone() for name, value in model.state_dict().items()}]
    for step in range(STEPS):
        old.load_state_dict(states[max(0, step - delay)])
        sums = [torch.zeros_like(parameter) for parameter in old.parameters()]
        for worker in range(WORKERS):
            batch = torch.from_numpy(sampler.indices(worker, step))
            old.zero_grad()
            job.loss(old, (x[batch], y[batch])).backward()
            sums = [total + parameter.grad for total, parameter in zip(sums, old.parameters(), strict=True)]
        for parameter, total in zip(model.parameters(), sums, strict=True):
            parameter.grad = total / WORKERS
        optimizer.step()
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    return states[-1]


def run(job: Any = Tiny, **options: Any) -> lambdaml.Run:
    return train(job, **{"workers": WORKERS, "steps": STEPS, **options})


@pytest.mark.parametrize("job", [Tiny, TinyAdam], ids=["sgd", "adam"])
@pytest.mark.parametrize("delay", [0, 1, 2, 5])
def test_a_run_has_the_bits_of_a_plain_loop_with_old_parameters(job: type[Job], delay: int) -> None:
    expected = delayed_loop(job(), delay)
    found = run(job, schedule=f"pipeline:{delay}").model()
    for name, value in found.state_dict().items():
        assert np.array_equal(value.numpy(), expected[name].numpy()), name


def test_no_delay_is_bsp_and_each_delay_gives_another_model() -> None:
    bits = [model_bytes(run(schedule=schedule)) for schedule in ("bsp", "pipeline:0", "pipeline:1", "pipeline:2")]
    assert bits[0] == bits[1]
    assert len(set(bits)) == 3


@pytest.mark.parametrize("delay", [1, 2])
def test_each_update_is_as_stale_as_the_schedule_says(delay: int) -> None:
    made = run(schedule=f"pipeline:{delay}", functions=2, staleness="inverse")
    for number, commit in enumerate(made.log()):
        assert {(entry.base, entry.staleness) for entry in commit.applied} == {
            (max(0, number - delay), min(number, delay))
        }
    assert made.verify(deep=1.0).faults == []


@pytest.mark.parametrize("delay", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pattern": "scatter"},
        {"pattern": "tree:2", "bracket": "2^2"},
        {"job": TinyWide, "codec": "topk:0.1", "snapshot_every": 3},
        {"job": TinyWide, "codec": "topk:0.1", "pattern": "tree:4", "recover_s": 1e-9},
        {"job": Normed, "pattern": "scatter"},
        {"algorithm": "local:2,inner=keep", "recover_s": 1e-9},
        {"keep": 8, "snapshot_every": 1},
    ],
    ids=lambda options: " ".join(map(str, options.values())) or "gather",
)
def test_whoever_computes_it_a_run_has_the_same_bits_and_verifies(options: dict[str, Any], delay: int) -> None:
    options = {"schedule": f"pipeline:{delay}", **options}
    alone = run(functions=1, **options)
    for functions in (2, 4):
        shared = run(functions=functions, **options)
        assert model_bytes(shared) == model_bytes(alone)
        assert shared.verify(deep=1.0).faults == []


@pytest.mark.parametrize("delay", [1, 2])
@pytest.mark.parametrize("codec", ["fp32", "topk:0.1"])
def test_a_run_that_broke_off_goes_on_with_the_same_bits(codec: str, delay: int) -> None:
    options = {"workers": 4, "steps": 9, "schedule": f"pipeline:{delay}", "codec": codec, "snapshot_every": 2}
    for functions in (1, 4):
        left = broken_off(TinyWide, at=5, functions=functions, **options)
        lambdaml.resume(left.store)
        assert model_bytes(left) == model_bytes(train(TinyWide, **options))
        assert left.verify(deep=1.0).faults == []


@pytest.mark.parametrize(("pattern", "bound"), [("gather", 1.05), ("scatter", 1.1), ("tree:4", 1.1)])
def test_a_round_takes_as_long_as_computing_or_exchanging_not_as_both(pattern: str, bound: float) -> None:
    """The exchange of a round of `bsp` is what it takes beside the computation."""
    for step_s in (0.1, 0.3):
        exchange_s = round_s("bsp", pattern, step_s) - step_s
        assert round_s("pipeline:1", pattern, step_s) <= bound * max(step_s + 0.005, exchange_s)


def test_a_function_that_takes_over_goes_back_to_older_models(monkeypatch: pytest.MonkeyPatch) -> None:
    went_back = []
    take_back = Backlog.take_back
    monkeypatch.setattr(
        Backlog, "take_back", lambda self, commits: (went_back.append(commits), take_back(self, commits))
    )
    assert try_seeds(range(120), "pipeline:1") + try_seeds(range(120), "pipeline:2") == []
    assert len(went_back) > 5


async def _stays(bases: Bases, commits: int) -> None:
    """Goes nowhere."""


@pytest.mark.parametrize("planted", ["it stays where it is", "snapshots are written at once", "it applies at once"])
def test_what_keeps_the_delay_exact_is_needed(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, functions compute from other versions or cannot go on, and the judge finds that."""
    if planted == "it stays where it is":
        monkeypatch.setattr(Bases, "_go_back", _stays)
    elif planted == "snapshots are written at once":
        monkeypatch.setattr(Committer, "_due", property(lambda committer: list(committer._snapshots)))
    else:
        monkeypatch.setattr(Bases, "may_apply", lambda bases: True)
    assert try_seeds(range(150), "pipeline:2") != []


def test_what_does_not_go_with_a_delay_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="a delay of -1 rounds makes no sense"):
        run(schedule="pipeline:-1")
    with pytest.raises(SettingsError, match="'pipeline:3' leaves 3 updates of each worker without a fate"):
        run(schedule="pipeline:3", codec="topk:0.1")
    with pytest.raises(SettingsError, match="'fold'"):
        run(schedule="pipeline:1", pattern="fold")
    with pytest.raises(
        SettingsError, match="'pipeline:1' cannot be simulated in closed form, because its rounds overlap"
    ):
        lambdaml.simulate(schedule="pipeline:1", workers=4, updates=40, exact=False)

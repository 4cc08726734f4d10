"""Presum is accumulation: it has the bits of as many workers as there are batches, with a fraction of their objects."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

import lambdaml
from lambdaml.errors import JobError, SettingsError
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.records import Update
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.simulation import simulate
from lambdaml.simulation.faults import FaultScenario, play
from lambdaml.simulation.judge import judge
from lambdaml.storage import MemoryStore
from lambdaml.training.footprint import footprint
from lambdaml.training.sampling import Sampler
from tests.lambdaml.algorithms.plain import seed_all
from tests.lambdaml.lab import Made, Tiny, TinyAdam, broken_off, equal, replica_of, train, update_of
from tests.lambdaml.simulation.scenes import exact, fast
from tests.lambdaml.training.test_rows import job as words

POINTS = 77
"""So many points that the batches of each worker have different sizes."""


class Uneven(Tiny):
    def __init__(self, samples: int = POINTS, lr: float = 0.1) -> None:
        super().__init__(samples, lr)


class UnevenAdam(TinyAdam):
    def __init__(self, samples: int = POINTS, lr: float = 0.1) -> None:
        super().__init__(samples, lr)


class Random(Uneven):
    """A model that draws random numbers, with a clipped gradient and a schedule."""

    clip_norm = 0.5

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 3))

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)


class Normed(Uneven):
    """A model whose buffers change in each forward pass, and one of whose layers is reached at random."""

    def model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.Linear(20, 3))
        model.register_parameter("extra", nn.Parameter(torch.ones(3)))
        return model

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        extra = model.extra if torch.rand(()) < 0.2 else torch.zeros(3)
        return nn.functional.cross_entropy(model(x) + extra, y)


class Half(Normed):
    autocast = "float16"


class Double(Uneven):
    def model(self) -> nn.Module:
        return nn.Linear(6, 3).double()

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x.double()), y)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


JOBS: dict[str, Any] = {
    "momentum": Uneven,
    "adam": UnevenAdam,
    "dropout, clipped": Random,
    "buffers, absent": Normed,
    "rows": words(),
    "float16": Half,
    "float64": Double,
}


def trained(job: Any, workers: int, **options: Any) -> lambdaml.Run:
    if isinstance(job, type):
        return train(job, workers=workers, functions=workers, engine="inline", **options)
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(job, url, workers=workers, functions=workers, engine="inline", **options)
    return lambdaml.Run(url, job)


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("job", JOBS)
def test_it_has_the_bits_of_as_many_workers_as_there_are_batches(job: str, workers: int, group: int) -> None:
    options = {"epochs": 2.5, "snapshot_every": 2}
    alone = trained(JOBS[job], workers * group, bracket=str(group), **options)
    summed = trained(JOBS[job], workers, algorithm=f"presum:{group}", **options)
    assert summed.version() == alone.version()
    states = [run.replay() for run in (alone, summed)]
    assert states[0].meta["optimizer"] == states[1].meta["optimizer"]
    assert equal(states[0].tensors, states[1].tensors), "parameters, buffers and the optimizer's state"
    report = summed.verify(deep=1.0)
    assert report.faults == []


def test_error_feedback_around_an_exact_codec_changes_no_bit() -> None:
    alone = trained(Uneven, 4, bracket="2", epochs=2)
    summed = trained(Uneven, 2, algorithm="presum:2", epochs=2, error_feedback=1.0)
    assert equal(alone.replay().tensors, summed.replay().tensors)
    assert summed.verify(deep=1.0).faults == []


@pytest.mark.parametrize("pattern", ["scatter", "tree:2"])
def test_every_pattern_has_these_bits(pattern: str) -> None:
    bracket = {"bracket": "2^2"} if pattern == "tree:2" else {}
    alone = trained(Normed, 8, bracket="2^3" if bracket else "2", epochs=2)
    summed = trained(Normed, 4, algorithm="presum:2", pattern=pattern, epochs=2)
    assert equal(alone.replay().tensors, summed.replay().tensors)
    assert summed.verify().faults == []


def accumulated(job: Job, workers: int, group: int, steps: int) -> Iterator[nn.Module]:
    """Yield the model after each step of an ordinary loop: gradients are accumulated over all batches of a round, group
    by group, with the weights of their samples."""
    dataset, sampler = job.dataset(), Sampler(len(job.dataset()), workers * group, job.batch_size, 0)
    seed_all(0, "model")
    model = job.model()
    model.train()
    optimizer = job.optimizer(model)
    for step in range(steps):
        batches = [sampler.indices(number, step).tolist() for number in range(workers * group)]
        partial = []
        for worker in range(workers):
            optimizer.zero_grad()
            for number in range(worker * group, (worker + 1) * group):
                batch = default_collate([dataset[index] for index in batches[number]])
                seed_all("update", 0, number, step)
                (job.loss(model, batch) * (len(batches[number]) / job.batch_size)).backward()
            partial.append([parameter.grad.clone() for parameter in model.parameters()])
        for parameter, *grads in zip(model.parameters(), *partial, strict=True):
            parameter.grad = sum(grads[1:], grads[0]) / (sum(map(len, batches)) / job.batch_size)
        optimizer.step()
        yield model


@pytest.mark.parametrize(("workers", "group"), [(1, 2), (1, 4), (2, 4), (3, 2)])
@pytest.mark.parametrize("kind", [Uneven, UnevenAdam])
def test_it_is_gradient_accumulation_as_an_ordinary_loop_has_it(kind: Any, workers: int, group: int) -> None:
    """The loop scales losses and not gradients, so the last bits differ."""
    summed = trained(kind, workers, algorithm=f"presum:{group}", steps=8)
    for version, model in enumerate(accumulated(kind(), workers, group, 8), 1):
        expected = copy.deepcopy(model).state_dict()
        for name, tensor in summed.model(version).state_dict().items():
            np.testing.assert_allclose(tensor.numpy(), expected[name].numpy(), rtol=2e-5, atol=2e-6)


def test_eight_workers_on_two_functions_send_two_objects_a_round() -> None:
    """What ten rounds and forty make alike, such as leases, drops out."""

    def each_round(workers: int, **options: Any) -> tuple[float, float]:
        made = []
        for rounds in (10, 40):
            result = lambdaml.train(
                Tiny, f"memory://{secrets.token_hex(6)}", workers=workers, functions=2, engine="inline", steps=rounds,
                snapshot_every=1000, keep="all", **options,
            )  # fmt: skip
            assert result.updates == workers * rounds
            store = lambdaml.Run(result.run).store
            assert len(list(store.list(keys.UPDATES))) == workers * rounds
            made.append(result.requests)
        return (made[1]["create"] - made[0]["create"]) / 30, (made[1]["get"] - made[0]["get"]) / 30

    creates, gets = each_round(2, algorithm="presum:4")
    assert creates == 2 + 1, "two updates and the log entry"
    assert each_round(2) == (creates, gets)
    assert each_round(8) == (creates + 6, gets + 6)


@pytest.mark.parametrize("options", [{}, {"codec": "topk:0.3"}, {"schedule": "asp", "staleness": "inverse"}])
def test_a_run_that_broke_off_goes_on_and_verifies(options: dict[str, Any]) -> None:
    left = broken_off(Uneven, workers=2, steps=10, algorithm="presum:3", snapshot_every=2, **options)
    result = lambdaml.resume(left.store)
    assert result.fates["rejected"] == 0
    assert left.verify(deep=1.0).faults == []
    if not options:
        assert (
            result.model_sha256
            == lambdaml.train(
                Uneven, f"memory://{secrets.token_hex(6)}", workers=2, steps=10, algorithm="presum:3"
            ).model_sha256
        )


@pytest.mark.parametrize("schedule", ["asp", "ssp:1", "quorum:2"])
def test_buffers_of_late_updates_are_merged(schedule: str) -> None:
    run = trained(Normed, 3, algorithm="presum:2", epochs=3, schedule=schedule, staleness="nesterov")
    assert run.summary().fates["rejected"] == 0
    assert run.verify(deep=1.0).faults == []


def test_an_update_says_the_samples_the_loss_and_the_labels_of_all_its_batches() -> None:
    job = Made(labels=lambda batch: batch[1], dataset=lambda: Uneven().dataset())
    summed = replica_of(job, workers=2, algorithm="presum:3", staleness="exponential:boost=all")
    alone = replica_of(job, workers=6, staleness="exponential:boost=all")
    for worker, seq in ((0, 0), (1, 2)):
        each = [alone.update(3 * worker + number, seq) for number in range(3)]
        found = summed.update(worker, seq)
        assert found.samples == sum(update.samples for update in each)
        assert found.loss == pytest.approx(sum(update.loss * update.samples for update in each) / found.samples)
        assert found.labels == tuple(map(sum, zip(*(update.labels for update in each), strict=True)))
        dealt = [alone.sampler.indices(update.worker, seq) for update in each]
        assert summed.sampler.indices(worker, seq).tolist() == np.concatenate(dealt).tolist()
        assert summed.check(found) == ""


def test_every_replica_refuses_what_no_sum_of_these_batches_is() -> None:
    replica = replica_of(Normed(), workers=2, algorithm="presum:2")
    update = update_of(replica, 1, 0)
    assert replica.check(update) == "" and {"b0", "b0.1"} <= set(update.body)
    assert "samples where" in replica.check(replace(update, samples=update.samples - 1))
    assert "batches" in replica.check(replace(update, batches=(0, 1)))
    for name in ("b0.2", "b99.1", "b0.0"):
        assert "holds" in replica.check(replace(update, body=update.body | {name: update.body["b0"]})), name
    short = {name: array for name, array in update.body.items() if name != "b0.1"} | {"d0.1": update.body["b0.1"]}
    assert "without what it became" in replica.check(replace(update, body=short))


def test_a_batch_without_a_finite_gradient_makes_the_whole_update_rejected() -> None:
    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x), y) * (torch.inf if (x[:, 0] == first).any() else 1.0)

    first = Tiny().dataset().tensors[0][5, 0]
    run = trained(Made(loss=loss), 2, algorithm="presum:2", epochs=1)
    summary = run.summary()
    assert summary.fates["rejected"] == 1 and summary.fates["applied"] == 2 * run.settings.steps - 1
    updates = [Update.read(run.store.get(info.key), info.key) for info in run.store.list(keys.UPDATES)]
    assert sum(update.samples for update in updates) == 64
    assert run.verify(deep=1.0).faults == []


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_it_survives_faults(schedule: str) -> None:
    for seed in range(30):
        drawn = replace(FaultScenario.draw(seed, schedule), algorithm="presum:3")
        assert judge(*play(drawn)) == [], seed


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_an_update_of_g_batches_takes_g_times_the_compute_in_both_simulations(schedule: str) -> None:
    options = {"schedule": schedule, "workers": 4, "channel": "5ms", "steps": 20}
    plain, summed = (
        [simulated(**options, settings={"algorithm": name}) for simulated in (exact, fast)]
        for name in ("gradient", "presum:4")
    )
    for one, other in zip(plain, summed, strict=True):
        assert other.busy_s - one.busy_s == pytest.approx(4 * 20 * 3 * 0.1, rel=0.02)
        assert other.updates == one.updates
    assert summed[1].seconds == pytest.approx(summed[0].seconds, rel=0.1)


def test_a_simulation_counts_the_samples_of_all_batches() -> None:
    found = [simulate(workers=2, steps=20, algorithm="presum:4", exact=one, channel="5ms") for one in (True, False)]
    plain = simulate(workers=8, steps=20, exact=True, channel="5ms")
    assert [run.run.samples for run in found] == [plain.run.samples] * 2
    assert [run.run.updates for run in found] == [40, 40]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no batch": ({"algorithm": "presum:0"}, r"'presum:0': batches must be 2 or more, not 0"),
    "one batch": ({"algorithm": "presum:1"}, r"'presum:1': batches must be 2 or more.*'gradient'"),
    "a negative number": ({"algorithm": "presum:-2"}, r"'presum:-2': batches must be 2 or more"),
    "no number": ({"algorithm": "presum:x"}, r"'presum:x': batches must be of type int, not 'x'"),
    "nothing": ({"algorithm": "presum"}, r"'presum' needs batches, as in 'presum:3'"),
    "local steps": ({"algorithm": "presum:2,local:3"}, r"presum takes batches, not 'local:3'"),
    "more batches than samples": (
        {"algorithm": "presum:40"},
        r"64 samples, too few for 2 workers with 40 batches each",
    ),
    "a rule about gradients": ({"algorithm": "presum:2", "staleness": "dc"}, r"'dc' needs gradients.*'presum:2'"),
}


@pytest.mark.parametrize("what", BAD)
def test_nonsense_is_refused_in_one_line_before_anything_is_started(what: str) -> None:
    options, words = BAD[what]
    store = MemoryStore(secrets.token_hex(6))
    with pytest.raises((SettingsError, JobError)) as caught:
        lambdaml.train(Tiny, store, workers=2, **options)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert re.search(words, message) and "\n" not in message, message
    assert [info.key for info in store.list("")] == []


def test_a_function_holds_one_more_vector() -> None:
    size = {
        algorithm: footprint(
            Parts.of(RunOptions(algorithm=algorithm)), 10**6, 10**6, 10**6, outer_share=None, workers=4, hosted=2
        ).function_bytes
        for algorithm in ("gradient", "presum:4")
    }
    assert size["presum:4"] - size["gradient"] == 10**6


def test_a_plan_refuses_it_by_name() -> None:
    with pytest.raises(SettingsError, match=r"'presum:4' cannot be planned.*'gradient'"):
        lambdaml.SearchSpace(algorithms=("presum:4",)).algorithm_names  # noqa: B018


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    from tests.lambdaml.worker.test_kills import SLOW, Killer
    from tests.lambdaml.worker.test_kills import train as run

    options: dict[str, Any] = {"workers": 2, "steps": 40, "algorithm": "presum:2"}
    killer = Killer(6, seed=1)
    result = run(f"file://{tmp_path}/run{SLOW}", killer, functions=2, **options)
    assert killer.done == 6
    assert result.model_sha256 == run("memory://presum-undisturbed", functions=1, **options).model_sha256
    assert lambdaml.Run(f"file://{tmp_path}/run").verify().faults == []

"""Mean statistics in place of gradients: the sums, the steps, and what is refused."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

import lambdaml
from lambdaml.errors import JobError, LambdaMLError, SettingsError
from lambdaml.log.commits import averaged
from lambdaml.log.records import Control
from lambdaml.log.snapshot import State
from lambdaml.storage import MemoryStore
from lambdaml.training.replica import Replica
from lambdaml.training.sampling import Sampler
from tests.lambdaml.lab import ClassMeans, Tiny, memory, model_bytes, replica_of, settings_of, train


class Decaying(ClassMeans):
    """Steps with a rate that falls as stepwise expectation maximisation wants it."""

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) ** -0.7)


def plain_loop(job: ClassMeans, passes: int, batches: int, rates: list[float]) -> dict[str, Tensor]:
    """The parameters after some steps, each from the statistics of so many batches, as one process computes them."""
    x, y = job.dataset().tensors
    sampler = Sampler(len(x), 1, job.batch_size, 0)
    parameters = {name: p.detach().clone() for name, p in job.model().named_parameters()}
    left, first = passes * sampler.steps_per_epoch, 0
    for rate in rates:
        sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
        samples = 0
        for batch in range(first, first + min(batches, left)):
            chosen = torch.from_numpy(sampler.indices(0, batch))
            one_hot = nn.functional.one_hot(y[chosen], 3).float()
            sums["sums"] += one_hot.T @ x[chosen]
            sums["counts"] += one_hot.sum(0)
            samples += len(chosen)
        first, left = first + batches, left - batches
        for name, before in parameters.items():
            mean = sums[name] / samples
            parameters[name] = mean if rate == 1 else (1 - rate) * before + rate * mean
    return parameters


@pytest.mark.parametrize(
    ("algorithm", "job", "batches", "rates"),
    [
        ("statistics", ClassMeans(rate=1.0), 8, [1.0] * 3),
        ("statistics", ClassMeans(rate=0.25), 8, [0.25] * 3),
        ("statistics:5", ClassMeans(rate=0.5), 5, [0.5] * 5),
        ("statistics:3", Decaying(rate=1.0), 3, [(step + 1) ** -0.7 for step in range(8)]),
    ],
)
def test_one_worker_has_the_bits_of_a_plain_loop(
    algorithm: str, job: ClassMeans, batches: int, rates: list[float]
) -> None:
    run = train(job, workers=1, epochs=3, algorithm=algorithm, engine="inline")
    found = load(model_bytes(run))
    wanted = plain_loop(job, 3, batches, rates)
    assert {name: torch.equal(found[name], wanted[name]) for name in wanted} == dict.fromkeys(wanted, True)


def test_however_many_workers_add_up_the_same_statistics() -> None:
    """61 samples do not divide evenly, so workers count by their samples."""
    wanted = plain_loop(ClassMeans(61, 1.0), 1, 100, [1.0])
    for workers, pattern in ((2, "gather"), (7, "gather"), (7, "tree:2"), (5, "scatter")):
        args = {"samples": 61, "rate": 1.0}
        run = train(ClassMeans, args=args, workers=workers, epochs=1, algorithm="statistics", pattern=pattern)
        found = load(model_bytes(run))
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name].numpy(), value.numpy(), rtol=2e-6, atol=1e-7)
        assert run.verify().faults == []


@pytest.mark.parametrize("partition", ["sorted", "skew:0.5", "dirichlet:0.3"])
def test_it_does_not_matter_who_owns_which_samples(partition: str) -> None:
    """Each worker passes over its own samples, however many these are."""
    wanted = plain_loop(ClassMeans(61, 1.0), 1, 100, [1.0])
    args = {"samples": 61, "rate": 1.0}
    run = train(ClassMeans, args=args, workers=4, epochs=1, algorithm="statistics", partition=partition)
    found = load(model_bytes(run))
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name].numpy(), value.numpy(), rtol=2e-6, atol=1e-7)
    assert run.verify(deep=1.0).faults == []


def test_some_of_many_workers_take_part_in_a_round() -> None:
    options: dict[str, Any] = {"workers": 5, "epochs": 2, "algorithm": "statistics"}
    found = [model_bytes(train(ClassMeans(rate=1.0), schedule=schedule, **options)) for schedule in ("bsp", "cohort:5")]
    assert found[0] == found[1]
    result = lambdaml.train(ClassMeans(rate=0.3), memory(), schedule="cohort:2", **options | {"epochs": 6})
    assert result.metrics["accuracy"] >= 0.9


def test_the_loss_is_the_mean_objective() -> None:
    replica = replica_of(ClassMeans(61, 1.0), workers=2, algorithm="statistics")
    updates = [replica.update(worker, 0) for worker in range(2)]
    x, y = ClassMeans(61).dataset().tensors
    wanted = ClassMeans(61).statistics(replica.model, (x, y))[0].item() / 61
    assert sum(update.loss * update.samples for update in updates) / 61 == pytest.approx(wanted, rel=1e-6)


def test_the_parameters_stand_in_for_what_a_rule_takes_off() -> None:
    """So a damped update moves the model less, and does not shrink it."""
    replica = replica_of(ClassMeans(rate=0.5), workers=2, algorithm="statistics")
    made = [replica.update(worker, 0) for worker in range(2)]
    before, weights = replica.local.values(), (0.5, 0.25)
    commit = averaged(0, 0, made)
    step = tuple(replace(entry, weight=weight) for entry, weight in zip(commit.steps[0], weights, strict=True))
    replica.apply(replace(commit, steps=(step,)), {update.id: update for update in made})
    sent = [update.body["gradient"] for update in made]
    wanted = before + 0.5 * sum(0.5 * weight * (one - before) for weight, one in zip(weights, sent, strict=True))
    np.testing.assert_allclose(replica.local.values(), wanted, rtol=1e-6)


def test_asynchronous_workers_learn_with_a_rate_and_a_rule() -> None:
    options: dict[str, Any] = {"algorithm": "statistics", "schedule": "asp", "staleness": "inverse"}
    result = lambdaml.train(ClassMeans, store := memory(), args={"rate": 0.2}, workers=4, epochs=6, **options)
    assert result.metrics["accuracy"] >= 0.9 and result.fates["applied"] == 24
    assert lambdaml.Run(store).verify().faults == []


def test_the_rate_is_set_in_mid_run_as_a_learning_rate_is() -> None:
    replica = replica_of(ClassMeans(rate=0.5), algorithm="statistics")
    assert replica.optimizer.param_groups[0]["lr"] == 0.5
    data = replica.state().dump()
    other = replica_of(ClassMeans(rate=0.5), algorithm="statistics")
    other.optimizer.param_groups[0]["lr"] = 0.1
    other.load(State.load(data, "a snapshot"))
    assert other.optimizer.param_groups[0]["lr"] == 0.5
    made = other.update(0, 0)
    changed = replace(averaged(0, 0, [made]), controls=(Control(0, "lr", 0.125),))
    other.apply(changed, {made.id: made})
    before, made = other.local.values(), other.update(0, 1)
    other.apply(averaged(1, 1, [made]), {made.id: made})
    assert np.array_equal(other.local.values(), 0.875 * before + 0.125 * made.body["gradient"])


class Wrong(ClassMeans):
    """Returns something else from `statistics`."""

    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found

    def statistics(self, model: nn.Module, batch: Any) -> Any:
        return self.found


ZERO, SUMS, COUNTS = torch.zeros(()), torch.zeros(3, 6), torch.zeros(3)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (SUMS, "two sums"),
        ((ZERO, SUMS), "two sums"),
        ((SUMS, {"sums": SUMS, "counts": COUNTS}), "scalar tensor, not a tensor of shape (3, 6)"),
        ((ZERO, {"sums": SUMS}), "no statistic 'counts'"),
        ((ZERO, {"sums": SUMS, "counts": COUNTS, "more": COUNTS}), "'more', which is no trained parameter"),
        (
            (ZERO, {"sums": SUMS, "counts": SUMS}),
            "a tensor of shape (3, 6) as 'counts', not a real tensor of shape (3,)",
        ),
        ((ZERO, {"sums": SUMS, "counts": 3.0}), "float as 'counts'"),
    ],
)
def test_statistics_of_other_names_or_shapes_are_refused(found: Any, words: str) -> None:
    replica = Replica(job := Wrong(found), settings_of(job, algorithm="statistics"))
    with pytest.raises(JobError) as caught:
        replica.update(0, 0)
    assert str(caught.value).startswith("Wrong.statistics") and words in str(caught.value)


def test_statistics_that_are_not_finite_are_rejected() -> None:
    job = Wrong((ZERO, {"sums": SUMS, "counts": COUNTS / 0}))
    assert Replica(job, settings_of(job, algorithm="statistics")).update(0, 0).fault == "gradient is not finite"


class ChangesTheModel(ClassMeans):
    def statistics(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        model.get_parameter("sums").mul_(2)
        return super().statistics(model, batch)


def test_statistics_that_change_the_model_are_refused() -> None:
    replica = replica_of(ChangesTheModel(), algorithm="statistics")
    with pytest.raises(JobError, match="parameter sums"):
        replica.update(0, 0)


def clipped() -> ClassMeans:
    job = ClassMeans()
    job.clip_norm = 1.0
    return job


BAD: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "no statistics": (Tiny(), {}, ["'statistics'", "Tiny", "StatisticsJob"]),
    "no gradient": (ClassMeans(), {"algorithm": "gradient"}, ["'gradient'", "ClassMeans", "--algorithm statistics"]),
    "local steps": (ClassMeans(), {"algorithm": "local:2"}, ["'local:2'", "ClassMeans", "--algorithm statistics"]),
    "asp and a rate of 1": (ClassMeans(rate=1.0), {"schedule": "asp"}, ["'asp'", "rate of less than 1"]),
    "quorum": (ClassMeans(rate=1.0), {"schedule": "quorum:1"}, ["'quorum:1'", "rate of less than 1"]),
    "a cohort": (ClassMeans(rate=1.0), {"schedule": "cohort:1"}, ["'cohort:1'", "rate of less than 1"]),
    "a delay": (ClassMeans(rate=1.0), {"schedule": "pipeline:1"}, ["'pipeline:1'", "rate of less than 1"]),
    "a rate of 0": (ClassMeans(rate=0.0), {}, ["ClassMeans.rate", "0.0"]),
    "a rate above 1": (ClassMeans(rate=1.5), {}, ["ClassMeans.rate", "1.5"]),
    "clip_norm": (clipped(), {}, ["ClassMeans.clip_norm", "gradients"]),
    "a codec that rounds": (ClassMeans(), {"codec": "bf16"}, ["'bf16'", "'statistics'"]),
    "half a pass": (ClassMeans(), {"epochs": 0.5}, ["'statistics'", "epochs"]),
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_go_together_is_refused_in_one_line_before_anything_is_started(what: str) -> None:
    job, options, words = BAD[what]
    store: MemoryStore = memory()
    with pytest.raises((SettingsError, JobError)) as caught:
        lambdaml.train(job, store, **{"workers": 2, "algorithm": "statistics", **options})
    assert isinstance(caught.value, LambdaMLError) and caught.value.exit_code == 2
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), str(caught.value)
    assert list(store.list("")) == []


def test_a_run_goes_on_from_another_one() -> None:
    url = f"memory://{secrets.token_hex(6)}"
    options: dict[str, Any] = {"workers": 2, "algorithm": "statistics", "engine": "inline"}
    lambdaml.train(ClassMeans(), url, epochs=2, **options)
    lambdaml.train(ClassMeans(), f"{url}b", epochs=2, init_from=url, **options)
    lambdaml.train(ClassMeans(), f"{url}c", epochs=4, **options)
    found, wanted = (load(model_bytes(lambdaml.Run(f"{url}{name}"))) for name in "bc")
    for name, value in wanted.items():  # the second run deals its samples anew
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)

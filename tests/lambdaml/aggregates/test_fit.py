"""Which parts of a run go with which aggregate, and what is said about those that do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import lambdaml
from lambdaml.algorithms import ALGORITHMS
from lambdaml.codecs import CODECS
from lambdaml.errors import SettingsError
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.schedules import SCHEDULES
from lambdaml.settings import Settings
from lambdaml.staleness import RULES
from lambdaml.training.footprint import footprint
from tests.lambdaml.lab import ClassMeans, Tiny, memory, train

WORKERS = 6
CHOICES: dict[str, list[str]] = {
    "schedule": ["bsp", "cohort:5", "pipeline:1", "quorum:5", "quorum:5,late=weight", *SCHEDULES.variants(WORKERS)],
    "algorithm": ["local:4,fragments=2,outer=nesterov", "local:2,sends=models", *ALGORITHMS.variants(2)],
    "codec": CODECS.variants(),
    "staleness": RULES.variants(),
    "pattern": ["gather", "tree:2", "scatter", "fold"],
    "bracket": ["flat", "2"],
}
FITTING = {
    "schedule": {"bsp", "cohort:5", "pipeline:1", "quorum:5"},
    "algorithm": {"gradient", "local:2", "local:4,fragments=2,outer=nesterov"},
    "codec": {"fp32", "bf16", "fp16", "int8"},
    "staleness": {"constant"},
    "pattern": {"gather"},
    "bracket": {"flat"},
}


@pytest.mark.parametrize("aggregate", ["median", "krum:1"])
@pytest.mark.parametrize("kind", CHOICES)
def test_each_choice_trains_with_an_aggregate_or_is_refused_by_a_line_that_names_both(
    kind: str, aggregate: str
) -> None:
    fitting = set()
    for name in dict.fromkeys(CHOICES[kind]):
        try:
            Parts.of(RunOptions(workers=WORKERS, aggregate=aggregate, **{kind: name}))  # type: ignore[arg-type]
        except SettingsError as error:
            said = str(error)
            assert repr(name) in said and "\n" not in said, said
            try:
                Parts.of(RunOptions(workers=WORKERS, **{kind: name}))  # type: ignore[arg-type]
            except SettingsError:
                continue  # it is refused anyway
            assert repr(aggregate) in said, said
        else:
            fitting.add(name)
    assert FITTING[kind] <= fitting
    assert not any("late=weight" in name for name in fitting), "a worker could count twice"
    if kind in ("staleness", "pattern", "bracket"):
        assert fitting == FITTING[kind]
    if kind == "codec":
        assert all(not CODECS.make(name).feedback for name in fitting)
    for name in sorted(fitting):
        options: dict[str, Any] = {kind: name, "aggregate": aggregate, "steps": 4}
        run = train(Tiny, workers=WORKERS, functions=2, engine="inline", **options)
        assert run.summary().stop == "steps", name


@pytest.mark.parametrize(("aggregate", "least"), [("median", 3), ("trimmed:0.1", 3), ("krum:2", 7), ("krum:1,m=4", 7)])
def test_too_few_workers_are_refused_and_just_enough_train(aggregate: str, least: int) -> None:
    store = memory()
    with pytest.raises(SettingsError, match=f"needs {least} updates or more") as caught:
        train(Tiny, url=store.url, workers=least - 1, steps=2, aggregate=aggregate)
    assert caught.value.exit_code == 2
    assert [info.key for info in store.list("")] == []
    assert train(Tiny, workers=least, steps=2, aggregate=aggregate).summary().stop == "steps"


class Normed(Tiny):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


class Rows(Tiny):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(9, 4, sparse=True), nn.Linear(4, 3))


@pytest.mark.parametrize(("job", "words"), [(Normed, "GroupNorm"), (Rows, "sparse gradients")])
def test_a_model_that_a_worker_could_still_spoil_is_refused(job: type[Tiny], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        train(job, workers=3, steps=2, aggregate="median")


def test_statistics_have_no_aggregate() -> None:
    with pytest.raises(SettingsError, match=r"'statistics'.*'median'"):
        train(ClassMeans, workers=3, steps=2, algorithm="statistics", aggregate="median")


def test_a_run_of_before_there_were_aggregates_takes_the_mean() -> None:
    run = train(Tiny, workers=2, steps=2)
    known = run.settings.model_dump()
    assert known.pop("aggregate") == "mean"
    assert Settings(**known) == run.settings and Parts.of(run.settings).aggregate is None


class Poisoned(Tiny):
    """The samples of the first workers have a loss that is no number."""

    def __init__(self, poisoned: int) -> None:
        super().__init__()
        self.poisoned = poisoned

    def partition(self, workers: int) -> list[int]:
        return [sample % workers for sample in range(self.samples)]

    def dataset(self) -> TensorDataset:
        x, y = super().dataset().tensors
        return TensorDataset(x, y, torch.arange(self.samples) % 5 < self.poisoned)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        x, y, bad = batch
        return nn.functional.cross_entropy(model(x), y) * (float("nan") if bad.any() else 1.0)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


@pytest.mark.parametrize(("poisoned", "moves"), [(0, True), (2, True), (3, False)])
def test_a_step_whose_updates_are_rejected_down_to_less_than_a_majority_moves_no_parameter(
    poisoned: int, moves: bool
) -> None:
    job = Poisoned(poisoned)
    run = lambdaml.Run(train(job, workers=5, steps=2, aggregate="median", max_rejected=20).store, job)
    assert run.summary().fates == {"applied": 10 - 2 * poisoned, "discarded": 0, "rejected": 2 * poisoned}
    first, last = (run.replay(version).model() for version in (0, 2))
    assert moves == any(not torch.equal(first[name], last[name]) for name in first)
    assert run.verify(deep=1).faults == []


def test_the_memory_of_a_function_counts_the_vectors_of_a_whole_step() -> None:
    mean, median = (
        footprint(Parts.of(RunOptions(workers=9, aggregate=name)), 100, 0, 100, outer_share=None, workers=9, hosted=1)
        for name in ("mean", "median")
    )
    assert median.function_bytes - mean.function_bytes == (9 + 3) * 100

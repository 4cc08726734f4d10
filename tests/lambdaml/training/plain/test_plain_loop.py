"""A run with one worker ends with the bits of a plain PyTorch loop, although it was stopped and resumed in the middle."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest

from lambdaml.storage import MemoryStore
from tests.lambdaml.training.plain.case import Case, sgd
from tests.lambdaml.training.plain.loop import differences, plain_loop, stopped_and_resumed, train, trained
from tests.lambdaml.training.plain.models import MODELS
from tests.lambdaml.training.plain.recipes import OPTIMIZERS, SCHEDULERS, MakeOptimizer, MakeScheduler

# Muon takes matrices alone: `test_torch_optim.py` has it.
RECIPES: dict[str, tuple[str, MakeOptimizer]] = {
    name: (kind, make) for kind, group in OPTIMIZERS.items() if kind != "Muon" for name, make in group.items()
}
SCHEDULES: dict[str, MakeScheduler] = {name: make for group in SCHEDULERS.values() for name, make in group.items()} | {
    "no schedule": lambda optimizer: None
}

COMBINATIONS_PER_MODEL = 5


class Combination(NamedTuple):
    """What is trained with what, by names."""

    model: str
    optimizer: str
    scheduler: str


def combinations() -> list[Combination]:
    """Some optimizers and schedulers for each model, dealt out in turn, so that all of them meet many others."""
    found: list[Combination] = []
    turn = 0
    for name, model in MODELS.items():
        recipes = [recipe for recipe, (kind, _) in RECIPES.items() if kind not in model.refuses]
        for _ in range(COMBINATIONS_PER_MODEL):
            found.append(
                Combination(name, recipes[turn * 5 % len(recipes)], list(SCHEDULES)[turn * 7 % len(SCHEDULES)])
            )
            turn += 1
    return found


COMBINATIONS = combinations()


def job_of(model: str, optimizer: MakeOptimizer = sgd, scheduler: MakeScheduler = lambda optimizer: None) -> Case:
    return Case(MODELS[model].build, optimizer, scheduler, **MODELS[model].options)


def test_more_than_two_hundred_combinations_meet_all_that_there_is() -> None:
    assert len(set(COMBINATIONS)) == len(COMBINATIONS) >= 200
    optimizers = Counter(combination.optimizer for combination in COMBINATIONS)
    schedulers = Counter(combination.scheduler for combination in COMBINATIONS)
    assert optimizers.keys() == RECIPES.keys() and min(optimizers.values()) >= 5
    assert schedulers.keys() == SCHEDULES.keys() and min(schedulers.values()) >= 5


@pytest.mark.parametrize("combination", COMBINATIONS, ids=", ".join)
def test_a_run_that_was_resumed_ends_as_a_plain_loop(combination: Combination, store: MemoryStore) -> None:
    job = job_of(combination.model, RECIPES[combination.optimizer][1], SCHEDULES[combination.scheduler])
    expected = plain_loop(job)
    run = stopped_and_resumed(job, store)
    assert differences(trained(run), expected) == []


@pytest.mark.parametrize("model", MODELS)
def test_a_run_without_an_interrupt_has_the_same_hash_and_both_verify(model: str, store: MemoryStore) -> None:
    job = job_of(model)
    run = stopped_and_resumed(job, store)
    resumed = store.get("model.safetensors")
    assert run.verify().faults == []
    for info in list(store.list("")):
        store.delete([info.key])
    run = train(job, store)
    assert store.get("model.safetensors") == resumed is not None
    assert run.verify().faults == []


def test_every_model_is_changed_by_its_training() -> None:
    """Nothing is compared that stands still."""
    for name in MODELS:
        begin, end = plain_loop(job_of(name), steps=0), plain_loop(job_of(name))
        assert any(path.startswith("/model") for path in differences(begin, end)), name

"""Which parts of a run go together, and what is said about those that do not."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import lambdaml
from lambdaml import Job
from lambdaml.algorithms import ALGORITHMS
from lambdaml.codecs import CODECS
from lambdaml.errors import JobError, SettingsError
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.schedules import SCHEDULES
from lambdaml.staleness import RULES
from lambdaml.storage import MemoryStore
from tests.lambdaml.lab import ClassMeans, Made

WORKERS, LOCAL_STEPS = 3, 2
KINDS = ("schedule", "algorithm", "codec", "staleness")


def choices() -> list[list[str]]:
    """The variants of each kind, in the order of `KINDS`."""
    rules = ["discard:9" if rule == "discard" else rule for rule in RULES.variants()]
    return [SCHEDULES.variants(WORKERS), ALGORITHMS.variants(LOCAL_STEPS), CODECS.variants(), rules]


def refusal(parts: tuple[str, ...]) -> str:
    """Why these parts are refused, or ""."""
    try:
        Parts.of(RunOptions(workers=WORKERS, **dict(zip(KINDS, parts, strict=True))))
    except SettingsError as error:
        return str(error)
    return ""


def names(said: str, *parts: str) -> bool:
    return all(repr(part) in said for part in parts)


def trained(**options: Any) -> lambdaml.Run:
    """A run of a few tiny steps, inline on memory://."""
    job: Job = Made(optimizer=lambda ps: torch.optim.SGD(ps, lr=0.05), labels=lambda batch: batch[1])
    if options["algorithm"] == "statistics":
        job = ClassMeans()
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(job, url, workers=WORKERS, functions=1, engine="inline", **options)
    return lambdaml.Run(url, job)


def covering(fitting: list[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Yield combinations until every two parts that go together in one of them have been together."""
    left = {pair for parts in fitting for pair in itertools.combinations(enumerate(parts), 2)}
    while left:
        best = max(fitting, key=lambda parts: len(left.intersection(itertools.combinations(enumerate(parts), 2))))
        left.difference_update(itertools.combinations(enumerate(best), 2))
        yield best


def test_all_pairs_of_parts_train_or_are_refused_by_a_line_that_names_both() -> None:
    whole = list(itertools.product(*choices()))
    refused = {parts: said for parts in whole if (said := refusal(parts))}
    assert not any("\n" in said for said in refused.values())
    pairs = {(parts[1], parts[3]) for parts, said in refused.items() if names(said, parts[1], parts[3])}
    with_codec = {(parts[1], parts[2]) for parts, said in refused.items() if names(said, parts[1], parts[2])}
    with_schedule = {(parts[1], parts[0]) for parts, said in refused.items() if names(said, parts[1], parts[0])}
    for parts in whole:
        unfit = (parts[1], parts[3]) in pairs or (parts[1], parts[2]) in with_codec
        assert (parts in refused) == (unfit or (parts[1], parts[0]) in with_schedule), parts
    lossy = [spec for spec in CODECS.variants() if not CODECS.make(spec).exact]
    inexact = {(algorithm, spec) for algorithm in ("statistics", "admm:1,steps=2") for spec in lossy}
    forgetful = {("local:2,ahead=yes,outer=sum", spec) for spec in lossy if not CODECS.make(spec).feedback}
    assert with_codec == {("gradient", "significant:0.01"), ("presum:2", "significant:0.01")} | inexact | forgetful
    loose = {spec for spec in SCHEDULES.variants(WORKERS) if spec not in ("bsp", f"quorum:{WORKERS}")}
    assert with_schedule == {("admm:1,steps=2", spec) for spec in loose}
    assert {rule for algorithm, rule in pairs if algorithm == "admm:1,steps=2"} == {
        "dc",
        "dc-a",
        "ringleader",
        "nesterov",
    }
    for refusing in ("local:2", "local:2,ahead=yes,outer=sum", "presum:2"):
        assert {rule for algorithm, rule in pairs if algorithm == refusing} == {"dc", "dc-a", "ringleader"}
    assert {algorithm for algorithm, rule in pairs if rule == "nesterov"} == {
        "local:2,outer=nesterov",
        "local:2,outer=adam",
        "statistics",
        "admm:1,steps=2",
    }
    assert {rule for algorithm, rule in pairs if algorithm == "statistics"} == {"dc", "dc-a", "ringleader", "nesterov"}
    tried = list(covering([parts for parts in whole if parts not in refused]))
    for parts in tried:
        run = trained(steps=2, snapshot_every=2, **dict(zip(KINDS, parts, strict=True)))
        summary = run.summary()
        assert summary.stop == "steps" and summary.fates["applied"] and not summary.fates["rejected"], parts
    assert len(tried) >= len(RULES.variants()) * len(ALGORITHMS.variants(LOCAL_STEPS)) - len(pairs)


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "dc": ({"algorithm": "local:20", "staleness": "dc", "schedule": "asp"}, ["'local:20'", "'dc'", "gradients"]),
    "dc-a": ({"algorithm": "local:20", "staleness": "dc-a:1.0"}, ["'local:20'", "'dc-a:1.0'"]),
    "ringleader": ({"algorithm": "local:epochs=1", "staleness": "ringleader"}, ["'local:epochs=1'", "'ringleader'"]),
    "two momenta": (
        {"algorithm": "local:20,outer=nesterov:0.7,0.9", "staleness": "nesterov:0.5"},
        ["'local:20,outer=nesterov:0.7,0.9'", "'nesterov:0.5'", "momentum"],
    ),
    "momentum and Adam": ({"algorithm": "local:5,outer=adam", "staleness": "nesterov"}, ["outer=adam", "'nesterov'"]),
    "more steps than batches": (
        {"algorithm": "local:100", "epochs": 2},
        ["'local:100'", "100", "2 epochs", "6 batches"],
    ),
    "more epochs than the run": ({"algorithm": "local:epochs=3", "epochs": 2}, ["'local:epochs=3'", "2 epochs"]),
    "no number": ({"algorithm": "local"}, ["'local'", "local:20"]),
    "no step": ({"algorithm": "local:0"}, ["'local:0'", "at least one step"]),
    "a negative number": ({"algorithm": "local:-1"}, ["'local:-1'", "whole number"]),
    "half a step": ({"algorithm": "local:1.5"}, ["'local:1.5'", "whole number"]),
    "steps and epochs": ({"algorithm": "local:5,epochs=1"}, ["'local:5,epochs=1'"]),
    "endless epochs": ({"algorithm": "local:epochs=inf"}, ["'local:epochs=inf'", "epochs"]),
    "epochs backwards": ({"algorithm": "local:epochs=-1"}, ["'local:epochs=-1'", "epochs"]),
    "no such outer optimizer": ({"algorithm": "local:20,outer=foo"}, ["'local:20,outer=foo'", "'foo'", "nesterov"]),
    "an outer optimizer without its rate": ({"algorithm": "local:20,outer=sgd"}, ["'local:20,outer=sgd'", "lr"]),
    "an outer rate of 0": ({"algorithm": "local:20,outer=sgd:0"}, ["'local:20,outer=sgd:0'", "lr must be positive"]),
    "an outer momentum of 1": ({"algorithm": "local:20,outer=nesterov:1,1"}, ["momentum must lie between 0 and 1"]),
    "an outer option twice": ({"algorithm": "local:20,outer=nesterov:1,lr=1"}, ["lr is given twice"]),
    "ahead": ({"algorithm": "local:1,ahead=maybe"}, ["'local:1,ahead=maybe'", "'yes' or 'no'"]),
    "ahead with gradients": ({"algorithm": "gradient:ahead=yes"}, ["'gradient:ahead=yes'", "no parameters"]),
    "ahead with duals": ({"algorithm": "admm:1,ahead=yes"}, ["'admm:1,ahead=yes'", "'ahead=yes'"]),
    "ahead with fragments": ({"algorithm": "local:4,fragments=2,ahead=yes"}, ["ahead=yes", "fragments"]),
    "ahead with nothing kept": (
        {"algorithm": "local:1,ahead=yes", "codec": "significant:0.1", "error_feedback": 0},
        ["'local:1,ahead=yes'", "'significant:0.1'", "error feedback"],
    ),
    "a weighed sum": ({"algorithm": "local:1,outer=sum,weights=samples"}, ["outer=sum", "weights"]),
    "inner": ({"algorithm": "local:20,inner=maybe"}, ["'local:20,inner=maybe'", "'keep' or 'anew'"]),
    "weights": ({"algorithm": "local:20,weights=age"}, ["'local:20,weights=age'", "'samples' or 'equal'"]),
    "most without auto": ({"algorithm": "local:20,most=5"}, ["'local:20,most=5'", "most", "'auto'"]),
    "no such algorithm": ({"algorithm": "locale:20"}, ["'locale'", "local"]),
    "a parameter too many": ({"algorithm": "gradient:3"}, ["'gradient:3'", "no parameters"]),
    "statistics of a job with gradients": ({"algorithm": "statistics"}, ["'statistics'", "Made", "StatisticsJob"]),
    "no batch": ({"algorithm": "statistics:-1"}, ["'statistics:-1'", "batches"]),
    "statistics with a residual": (
        {"algorithm": "statistics", "error_feedback": 1},
        ["'statistics'", "error_feedback"],
    ),
    "error feedback above 1": ({"error_feedback": 2}, ["error_feedback", "2"]),
    "error feedback below 0": ({"error_feedback": -0.5}, ["error_feedback", "-0.5"]),
}


@pytest.mark.parametrize("what", BAD)
def test_nonsense_is_refused_in_one_line_before_anything_is_started(what: str) -> None:
    options, words = BAD[what]
    store = MemoryStore(secrets.token_hex(6))
    with pytest.raises(SettingsError) as caught:
        lambdaml.train(Made(), store, workers=3, **options)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert all(word in message for word in words) and "\n" not in message, message
    assert [info.key for info in store.list("")] == []


@pytest.mark.parametrize("algorithm", ["gradient", "local:2"])
def test_a_schedule_that_looks_at_a_metric_is_refused_by_name(algorithm: str) -> None:
    store = MemoryStore(secrets.token_hex(6))
    job = Made(scheduler=lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(JobError, match="ReduceLROnPlateau looks at a metric") as caught:
        lambdaml.train(job, store, workers=2, steps=2, algorithm=algorithm)
    assert caught.value.exit_code == 2
    assert [info.key for info in store.list("")] == []

"""The paper's findings on the digits and on generated data: fixed seeds, with room between what is found and asked."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

import pytest

from lambdaml.studies.staleness.engine import train_in_numpy
from lambdaml.studies.staleness.models import make_learner
from lambdaml.studies.staleness.topics import BATCHES_PER_SWEEP
from lambdaml.traces.delays import Categorical

SEEDS = [0, 1, 2]


def slower(
    model: str, algorithm: str, rate: float, s: int, longest: float, target: float = 0.92, workers: int = 8
) -> float:
    """Mean ratio of iterations at s to those at 0; a run given up counts as the longest."""
    settings = len(SEEDS)

    def iterations(value: int, limits: list[int]) -> list[int]:
        learner = make_learner(model, algorithm, [rate] * settings, SEEDS, workers, "bundled")
        courses = train_in_numpy(learner, [Categorical(value)] * settings, SEEDS, workers, [target] * settings, limits)
        return [course.iterations or course.ran for course in courses]

    base = iterations(0, [1500] * settings)
    stale = iterations(s, [int(longest * count) for count in base])
    return fmean(many / few for many, few in zip(stale, base))


def test_deeper_networks_suffer_more_and_logistic_regression_hardly() -> None:
    """Check A1: SGD at s = 32, with rates for which s = 0 takes 100 to 500 iterations."""
    rates = {"mlr": 0.005, "dnn1": 0.01, "dnn2": 0.01, "dnn4": 0.02, "dnn6": 0.02}
    found = [slower(model, "sgd", rate, 32, 3.2) for model, rate in rates.items()]
    assert found[0] <= 1.15
    assert found[-1] >= 2.0
    assert all(shallow <= deep for shallow, deep in pairwise(found))


def test_adam_suffers_more_than_sgd() -> None:
    """Check A2, at 4 hidden layers and s = 32: at least twice the ratio of SGD."""
    sgd = slower("dnn4", "sgd", 0.01, 32, 6.0)
    assert slower("dnn4", "adam", 5e-4, 32, 2.2 * sgd) >= 2 * sgd


def test_gibbs_sampling_stands_some_staleness_and_then_breaks() -> None:
    """Check A5, LDA: sweeps to 95 % of what 30 sweeps gain without staleness."""
    values, workers = [0, 2, 20, 50], 2
    seeds = [0] * len(values)
    learner = make_learner("lda", "gibbs", [0.0] * len(values), seeds, workers, "bundled")
    begin = float(learner.quality(learner.start()[::workers])[0])
    limits = [30 * BATCHES_PER_SWEEP] * len(values)
    courses = train_in_numpy(learner, [Categorical(s) for s in values], seeds, workers, [1e9] * len(values), limits)
    target = begin + 0.95 * (courses[0].curve[-1][1] - begin)
    at = [next((t / BATCHES_PER_SWEEP for t, quality in course.curve if quality >= target), None) for course in courses]
    synchronous, little, much, most = at
    assert synchronous is not None and little is not None and much is not None
    assert little <= 1.2 * synchronous < much
    assert most is None


@pytest.mark.parametrize("workers", [4, 8])
def test_matrix_factorisation_is_little_slower(workers: int) -> None:
    """Check A5, MF: at s = 50 at most 1.25 times the batches."""
    assert 1.0 < slower("mf", "sgd", 0.02, 50, 2.0, target=0.25, workers=workers) <= 1.25

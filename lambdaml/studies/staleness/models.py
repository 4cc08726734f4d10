"""The study's models, each with its architecture, data, batch and target quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from lambdaml.errors import SettingsError, nearest
from lambdaml.studies import data
from lambdaml.studies.staleness import downloads
from lambdaml.studies.staleness.engine import Learner
from lambdaml.studies.staleness.factors import Factorisation, generated_ratings
from lambdaml.studies.staleness.learning import GradientLearner, Problem
from lambdaml.studies.staleness.mlp import MlpProblem
from lambdaml.studies.staleness.nets import Autoencoder, cnn, resnet8
from lambdaml.studies.staleness.topics import GibbsLearner, generated_corpus

StudyData = Literal["bundled", "paper"]
"""The data: `bundled` are digits and generated data; `paper` downloads MNIST, CIFAR-10, MovieLens-1M, 20 Newsgroups."""


@dataclass(frozen=True, slots=True)
class Model:
    """The properties that a model's rows have in common.

    Attributes:
        make: Makes the problem from the data; None for a model that has no gradients.
        batch: The samples of each worker at each iteration, or of all workers together if `shared`.
        target: The quality to reach, for either data.
        shared: Whether all workers together have one batch.
        gain: The share of a synchronous run's gain in `limit` iterations that replaces a target.
        limit: The iterations that a synchronous run may take.
    """

    make: Callable[[StudyData], Problem] | None
    target: dict[StudyData, float]
    batch: dict[StudyData, int]
    shared: bool = False
    gain: float | None = None
    limit: int = 1500


def _mlp(depth: int) -> Callable[[StudyData], Problem]:
    return lambda source: MlpProblem(
        data.digits() if source == "bundled" else downloads.mnist(), depth, 64 if source == "bundled" else 256
    )


def _images(source: StudyData) -> data.Images:
    return data.digits() if source == "bundled" else downloads.cifar10()


_BATCH: dict[StudyData, int] = {"bundled": 32, "paper": 32}
_ACCURACY: dict[StudyData, float] = {"bundled": 0.92, "paper": 0.92}

MODELS: dict[str, Model] = {
    "mlr": Model(_mlp(0), _ACCURACY, _BATCH),
    **{f"dnn{depth}": Model(_mlp(depth), _ACCURACY, _BATCH) for depth in range(1, 7)},
    "cnn": Model(lambda source: cnn(_images(source)), {"bundled": 0.92, "paper": 0.71}, _BATCH),
    "resnet8": Model(lambda source: resnet8(_images(source)), {"bundled": 0.92, "paper": 0.71}, _BATCH),
    "vae": Model(
        lambda source: Autoencoder(data.digits() if source == "bundled" else downloads.mnist(), 64),
        {"bundled": 23.0, "paper": 130.0},
        _BATCH,
    ),
    "mf": Model(
        lambda source: Factorisation(generated_ratings() if source == "bundled" else downloads.movielens()),
        {"bundled": 0.25, "paper": 0.5},
        {"bundled": 250, "paper": 25_000},
        shared=True,
        limit=4000,
    ),
    "lda": Model(None, {}, {}, gain=0.95, limit=300),
}
"""The models by name."""


def model_named(name: str) -> Model:
    """Return the model of this name. Raises SettingsError if there is none."""
    if name not in MODELS:
        raise SettingsError(f"there is no model {name!r}{nearest(name, MODELS)}")
    return MODELS[name]


@cache
def problem_of(name: str, source: StudyData) -> Problem:
    """Return a gradient model with its data, which each process loads once."""
    make = model_named(name).make
    assert make is not None, f"{name} learns by no gradients"
    return make(source)


def make_learner(
    name: str, algorithm: str, rates: Sequence[float], seeds: Sequence[int], workers: int, source: StudyData
) -> Learner:
    """Return the workers of several settings of one model, with one rate and one seed for each setting."""
    model = model_named(name)
    if model.make is None:
        return GibbsLearner(generated_corpus() if source == "bundled" else downloads.newsgroups(), seeds, workers)
    batch = max(1, model.batch[source] // workers) if model.shared else model.batch[source]
    return GradientLearner(problem_of(name, source), algorithm, rates, seeds, workers, batch)

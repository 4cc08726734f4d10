"""The influence of every client of a run: the metrics of the model without it, less those of the run's model.

The influence on a loss is the paper's FIL, and that on an accuracy its FIA. Where a loss rises without a client, the client is
valuable.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from lambdaml.errors import JobError, SettingsError, nearest
from lambdaml.job import Job
from lambdaml.log.extra import EXTRAS, read_extra
from lambdaml.log.left_out import leaves_out
from lambdaml.log.reader import RunReader
from lambdaml.training import numerics
from lambdaml.training.gains import Yardstick
from lambdaml.training.one_thread import OneThread

if TYPE_CHECKING:
    from torch import Tensor

    from lambdaml.influence.federated import FederatedRun
    from lambdaml.influence.products import Products
    from lambdaml.influence.recursion import Truncation

Estimator = Literal["fisher", "exact"]
ESTIMATORS = get_args(Estimator)

_MATRICES = 4
"""So many matrices [clients, parameters] are held at once for the estimate, and again as many for the truth."""


@dataclass(frozen=True, slots=True)
class ClientInfluence:
    """The influence of one client.

    Attributes:
        client: The number of the client.
        samples: The number of samples that it owns.
        turns: The number of rounds in which it took part.
        distance: The estimated distance between the model without it and the run's, as a 2-norm.
        influence: The estimated influence on each metric.
        truth: The influence on each metric by training without it; empty if that was not asked for.
    """

    client: int
    samples: int
    turns: int
    distance: float
    influence: dict[str, float]
    truth: dict[str, float]


@dataclass(frozen=True, slots=True)
class InfluenceReport:
    """The influence of all clients of a run.

    Attributes:
        run: The URL of the run.
        version: The version of the model that they had influence on.
        estimator: The name of the estimator.
        truncation: The name of the truncation.
        metrics: The metrics of the model, a loss first.
        judged_by: The metric by which clients are ranked, which is the first one.
        less_is_better: Whether less of it is better.
        clients: The clients, the most valuable first.
        left_out: The clients that were left out of the run at this version.
    """

    run: str
    version: int
    estimator: str
    truncation: str
    metrics: dict[str, float]
    judged_by: str
    less_is_better: bool
    clients: tuple[ClientInfluence, ...]
    left_out: tuple[int, ...] = ()

    def lowest(self, share: float) -> list[int]:
        """Return the least valuable clients, in rising order: this share of those that are not left out, and at least one."""
        able = [each.client for each in self.clients if each.client not in self.left_out]
        return sorted(able[-max(1, round(share * len(able))) :])

    def correlation(self, metric: str) -> float:
        """Return Pearson's correlation of the estimated influence on a metric with the true one; not a number if there is no
        truth, or no client differs."""
        pairs = [(each.influence[metric], each.truth[metric]) for each in self.clients if each.truth]
        return _pearson(pairs)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        found = {name: self.correlation(name) for name in self.metrics} if self.clients[0].truth else {}
        return asdict(self) | {"correlation": found}


def measure_influence(
    run: RunReader,
    *,
    estimator: Estimator = "fisher",
    truncation: Truncation = "client",
    truth: bool = False,
    at: int | None = None,
    job: Job | None = None,
    progress: Callable[[float], None] = lambda _share: None,
) -> InfluenceReport:
    """Measure the influence of every client of a run of federated averaging.

    Args:
        run: The run.
        estimator: The estimator: `fisher`, from the gradients that the run recorded, or `exact`, from the data.
        truncation: The part of the estimate that is dropped once it grows; see `lambdaml.influence.recursion`.
        truth: Whether the run is also repeated without each of the clients.
        at: The version of the model; by default the last one.
        job: The run's job, if it was given as an instance and cannot be imported.
        progress: A function that is told the share of the rounds that is done, from another thread.

    Raises:
        SettingsError: If the run is not one of plain federated averaging, recorded no gradients, or has no such version.
        JobError: If the job reports no metrics, cannot be imported, or has changed.
    """
    if estimator not in ESTIMATORS:
        raise SettingsError(f"there is no estimator {estimator!r}{nearest(estimator, ESTIMATORS)}")
    numerics.prepare_for(run.settings.numerics)
    last = run.version() if at is None else at
    with OneThread() as compute:
        return compute.submit(_measure, run, job, estimator, truncation, truth, last, progress).result()


def _measure(
    run: RunReader,
    job: Job | None,
    estimator: Estimator,
    truncation: Truncation,
    truth: bool,
    version: int,
    progress: Callable[[float], None],
) -> InfluenceReport:
    from lambdaml.influence.federated import FederatedRun
    from lambdaml.influence.recursion import Recursion
    from lambdaml.influence.truth import Retraining

    federated = FederatedRun(run, job)
    _demand_memory(federated, estimator, truth)
    products = _products(run, federated, estimator)
    everyone = range(federated.clients)
    recursion = Recursion(federated, [[client] for client in everyone], truncation)
    retraining = Retraining(federated, [[client] for client in everyone]) if truth else None
    turns = Counter[int]()
    progress(0.0)
    for found in federated.rounds(version):
        recursion.advance(found, products)
        if retraining is not None:
            retraining.advance(found)
        turns.update(turn.client for turn in found.turns)
        progress((federated.replica.version + 1) / version)
    metrics, estimates = _influences(federated, recursion.differences)
    truths: list[dict[str, float]] = [{} for _ in everyone]
    if retraining is not None:
        _, truths = _influences(federated, retraining.models - federated.weights())
    distances = recursion.differences.norm(dim=1).tolist()
    clients = [
        ClientInfluence(
            *(client, federated.samples(client), turns[client], distances[client]), estimates[client], truths[client]
        )
        for client in everyone
    ]
    yardstick = Yardstick.of(next(iter(metrics)), run.settings.target)

    def value(each: ClientInfluence) -> float:
        change = each.influence[yardstick.name]
        return -math.inf if math.isnan(change) else change if yardstick.less else -change

    return InfluenceReport(
        *(run.url, version, estimator, truncation, metrics, yardstick.name, yardstick.less),
        clients=tuple(sorted(clients, key=value, reverse=True)),
        left_out=tuple(client for client in everyone if leaves_out(run.settings, federated.replica.log_state, client)),
    )


def _products(run: RunReader, federated: FederatedRun, estimator: Estimator) -> Products:
    """Return what carries differences through local steps.

    Raises:
        SettingsError: If the estimator needs gradients that the run did not record.
    """
    from lambdaml.influence.products import ExactProducts, FisherProducts

    if estimator == "exact":
        return ExactProducts(federated)
    if run.settings.extra is None:
        raise SettingsError(
            "this run recorded no gradients of samples: train with --extra per-sample:50, or use --estimator exact"
        )
    return FisherProducts(federated, lambda worker, seq: read_extra(run.store, worker, seq).gradients)


def _influences(federated: FederatedRun, rows: Tensor) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return the metrics of the run's model, a loss first, and how they change if it moves by each of these rows.

    Raises:
        JobError: If the job reports no metrics.
    """
    import torch

    from lambdaml.training.calls import seed_streams
    from lambdaml.training.evaluation import metrics_of

    replica, base = federated.replica, federated.weights()

    def judged(model: Tensor) -> dict[str, float]:
        replica.flat.restore(model.numpy())
        seed_streams("influence", federated.settings.seed)
        return metrics_of(replica.job, replica.model)

    found = judged(base)
    if not found:
        raise JobError(
            f"{type(replica.job).__name__}.evaluate reports no metric, on which a client could have influence"
        )
    names = sorted(found, key=lambda name: name != "loss")
    changes = []
    for row in rows:
        there = judged(base + row) if torch.isfinite(row).all() else dict.fromkeys(names, math.nan)
        changes.append({name: there[name] - found[name] for name in names})
    replica.flat.restore(base.numpy())
    replica.model.train()
    return {name: found[name] for name in names}, changes


def _demand_memory(federated: FederatedRun, estimator: Estimator, truth: bool) -> None:
    """Make sure that the matrices, and the gradients that were recorded for an update, fit into memory.

    Raises:
        SettingsError: If they do not.
    """
    from lambdaml.engines.resources import free_memory_bytes

    settings, vectors = federated.settings, _MATRICES * (1 + truth) * federated.clients
    if estimator == "fisher" and settings.extra is not None:
        steps = federated.replica.algorithm.batches(settings.steps_per_epoch)
        vectors += steps * EXTRAS.make(settings.extra).samples
    size_bytes = vectors * federated.size * federated.weights().element_size()
    free_bytes = free_memory_bytes()
    if size_bytes > free_bytes:
        raise SettingsError(
            f"the influence of {federated.clients:,} clients on {federated.size:,} parameters takes "
            f"{size_bytes / 1e9:,.1f} GB of memory, and {free_bytes / 1e9:,.1f} GB are free"
        )


def _pearson(pairs: Sequence[tuple[float, float]]) -> float:
    from statistics import StatisticsError, correlation

    try:
        return correlation(*zip(*pairs))
    except (StatisticsError, TypeError):
        return math.nan

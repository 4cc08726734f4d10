"""Evaluation computes the job's metrics on snapshots, outside the workers, so that it never delays training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lambdaml.algorithms import ALGORITHMS
from lambdaml.engines import Enough
from lambdaml.errors import JobFailed, SettingsError
from lambdaml.events import Emit, EvaluatingEvent, Event, MetricsEvent
from lambdaml.job import Job
from lambdaml.log import keys, wire
from lambdaml.log.reader import RunReader
from lambdaml.log.snapshot import State, meta_of, read_state
from lambdaml.log.stops import request_stop
from lambdaml.settings import Settings, reached
from lambdaml.storage import ObjectInfo, Store
from lambdaml.training.gains import Yardstick

if TYPE_CHECKING:
    from lambdaml.engines import LaunchSpec
    from lambdaml.training.coherence import Probe
    from lambdaml.training.one_thread import OneThread

_TELL_S = 0.1
"""While only an evaluation is going on, an `EvaluatingEvent` is emitted every this many seconds."""


class Evaluator:
    """Evaluates a run's snapshots in order, each once, and asks the run to stop at the first that meets the target, or
    with which its metric has not improved for too long (`lambdaml.training.gains`).

    A run whose algorithm has duals has the metrics of `with_residuals`, too. If `coherence` is set, it adds a metric of that name: the cosine between the gradients of this snapshot and of the
    one before on the reference set of `lambdaml.training.coherence`.

    Args:
        store: The run's bucket.
        settings: The run's settings.
        job: The run's job.
        device: The torch device that computes.
        emit: A callable that takes a `MetricsEvent` for each snapshot.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        job: Job,
        device: str = "cpu",
        emit: Emit = lambda event: None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._job = job
        self._device = device
        self._emit = emit
        self._duals = ALGORITHMS.make(settings.algorithm).duals
        self._model: Any = None
        self._probe: Probe | None = None
        self._last = ""
        self._judged: dict[int, dict[str, float]] | None = None
        self._reached = False

    def catch_up(self) -> None:
        """Evaluate every snapshot that has no metrics yet, but not the untrained model.

        Raises:
            JobFailed: If the job's `evaluate` raised, or returned something other than numbers.
            SettingsError: If it reports no metric with the target's name.
        """
        done = {keys.number(info.key) for info in self._store.list(keys.METRICS)} if not self._last else set()
        for info in list(self._store.list(keys.SNAPSHOTS, after=self._last or keys.snapshot(0))):
            before, self._last = self._last or keys.snapshot(0), info.key
            version = keys.number(info.key)
            if version not in done:
                self._evaluate(info, before)

    def _evaluate(self, info: ObjectInfo, before: str) -> None:
        from lambdaml.training.output import captured
        from lambdaml.training.streaming import load_model

        version = keys.number(info.key)
        probe = self._probe_from(before) if self._settings.coherence else None
        with captured() as output, output.listening():
            model = self._fresh_model()
            if not load_model(self._store, info.key, info.size_bytes, model):
                return
            metrics = metrics_of(self._job, model)
        if probe is not None:
            for cosine in probe.add(version, self._model).cosine.values():
                metrics.setdefault("coherence", cosine)
        if self._duals:
            metrics = with_residuals(metrics, meta_of(self._store, info.key))
        target = self._settings.target
        if target and not self._reached and reached(target, metrics):
            self._reached = True
            request_stop(self._store, "target", version)  # before the metrics: readers who see them look for the stop
        plain = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._judge(version, metrics)
        record: dict[str, Any] = {"version": version, "metrics": plain, "names": list(plain)}
        began, *said = output.take()
        if said:
            record["said"] = [began, *said]
        self._store.create(keys.metrics(version), wire.dump_json(record))
        self._emit(MetricsEvent(version=version, metrics=metrics))

    def _judge(self, version: int, metrics: dict[str, float]) -> None:
        """Ask the run to stop if its metric has not improved for as many evaluations as its patience says."""
        patience, target = self._settings.patience_evaluations, self._settings.target
        if patience is None or self._reached:
            return
        if self._judged is None:
            self._judged = RunReader(self._store).metrics()
        self._judged[version] = metrics
        yardstick = Yardstick.of_run(metrics, target)
        if yardstick is None:
            raise SettingsError(no_metrics(self._job))
        if yardstick.runs_out(self._judged, patience) is not None:
            self._reached = True
            request_stop(self._store, "patience")

    def _probe_from(self, key: str) -> Probe:
        """Return the probe that compares gradients with those of the snapshot before, whose key is `key`."""
        from lambdaml.training.coherence import Probe
        from lambdaml.training.streaming import load_into

        if self._probe is None:
            self._probe = Probe(self._job, kept=1, seed=self._settings.seed, device=self._device)
            state = read_state(self._store, key)
            if state is not None:
                model = self._fresh_model()
                load_into(model, state)
                self._probe.add(keys.number(key), model)
        return self._probe

    def _fresh_model(self) -> Any:
        if self._model is None:
            from lambdaml.training.calls import call

            self._model = call(self._job.model).to(self._device)
        return self._model


class Evaluations:
    """Evaluates snapshots in a compute thread, one request at a time, until an evaluation fails."""

    def __init__(self, compute: OneThread, launch: LaunchSpec, emit: Emit) -> None:
        self._compute = compute
        self._evaluator = Evaluator(launch.store, launch.settings, launch.job, launch.device, self._tell)
        self._emit = emit
        self._futures: list[Future[None]] = []
        self._abandoned = self._failed = False

    def go(self) -> None:
        """Ask for the evaluation of all snapshots that exist, and return at once."""
        if not self._failed:
            self._futures.append(self._compute.submit(self._evaluate))

    def _evaluate(self) -> None:
        try:
            self._evaluator.catch_up()
        except BaseException:
            self._failed = True
            raise

    def heed(self) -> None:
        """Make the functions leave if an evaluation has failed. Nothing is written, so the run can be resumed.

        Raises:
            Enough: If an evaluation has failed; `join` raises its error.
        """
        if self._failed:
            raise Enough("an evaluation failed")

    def _tell(self, event: Event) -> None:
        if self._abandoned:
            raise KeyboardInterrupt
        self._emit(event)

    def join(self) -> None:
        """Wait for all evaluations, and emit `EvaluatingEvent` meanwhile, so that `emit` can interrupt it."""
        for future in self._futures:
            while not wait((future,), _TELL_S).done:
                self._emit(EvaluatingEvent())
            future.result()

    def abandon(self) -> None:
        """Wait for no evaluation. One that has begun ends by itself and is ignored; the others never begin."""
        self._abandoned = True
        self._compute.abandon()


def evaluate(job: Job, state: State, device: str = "cpu") -> dict[str, float]:
    """Return the job's metrics of the model in a state.

    Raises:
        JobFailed: If the job's `evaluate` raised, or returned something other than numbers.
    """
    from lambdaml.training.calls import call
    from lambdaml.training.streaming import load_into

    model = call(job.model).to(device)
    load_into(model, state)
    return metrics_of(job, model)


def with_residuals(metrics: dict[str, float], meta: Mapping[str, Any]) -> dict[str, float]:
    """Return a job's metrics of a snapshot, with those that the log tells in a run with duals.

    These are `primal`, the distance of a worker's model from the run's, and `dual`, rho times that of the run's model
    from the one before, both as the root of the mean square over workers. Workers tell them with their next updates, so
    they belong to the version before the snapshot's; they are not a number as long as they are not known.

    Args:
        metrics: The metrics that the job reports. One of these names stays as it is.
        meta: The values of the snapshot's state.
    """
    known = meta["log_state"].get("residuals") or (math.nan, math.nan)
    return dict(zip(("primal", "dual"), known, strict=True)) | metrics


def metrics_of(job: Job, model: Any) -> dict[str, float]:
    """Return the job's metrics of a model, which is in `eval()` mode from now on.

    Raises:
        JobFailed: If the job's `evaluate` raised, or returned something other than numbers.
    """
    import torch

    from lambdaml.training.calls import call

    model.eval()
    with torch.no_grad():
        metrics = call(job.evaluate, model)
    try:
        return {str(name): float(value) for name, value in metrics.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise JobFailed(f"{type(job).__name__}.evaluate must return numbers by name: {error}") from error


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Holds the evaluation of one snapshot.

    Attributes:
        version: The version of the snapshot, in optimizer steps.
        metrics: The values of the metrics, by name.
    """

    version: int
    metrics: dict[str, float]


def best(metrics: Mapping[int, dict[str, float]], target: str | None) -> Evaluated | None:
    """Return the best snapshot by the metric that the run is judged by; the first of equal ones.

    Args:
        metrics: The metrics of each snapshot that was evaluated, by version.
        target: The target, such as `accuracy>=0.95`, or None; see `lambdaml.training.gains`.

    Returns:
        The snapshot, or None if no snapshot has a finite value of that metric.
    """
    yardstick = Yardstick.of_run(next(iter(metrics.values()), {}), target)
    found = yardstick.best(metrics) if yardstick is not None else None
    return None if found is None else Evaluated(found[0], metrics[found[0]])


def no_metrics(job: Job) -> str:
    """Say that a job reports nothing by which a run could be judged."""
    return f"patience: {type(job).__name__}.evaluate reports no metric, so that nothing can improve: give it one"

"""Evaluation: the job's metrics on snapshots, outside the workers, so that it never holds up training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lambdaml import keys, wire
from lambdaml.errors import JobFailed
from lambdaml.job import Job
from lambdaml.settings import Settings, reached
from lambdaml.snapshot import State
from lambdaml.storage import Store

if TYPE_CHECKING:
    from lambdaml.coherence import Probe


class Evaluator:
    """Evaluates a run's snapshots in order, each once, and asks the run to stop at the first that meets the target.

    With `coherence` in the settings there is one more metric of that name: the cosine between the gradients of this
    snapshot and the one before on the reference set of `lambdaml.coherence`.

    Args:
        store: the run's bucket.
        device: a torch device.
        emit: takes an event `metrics` for each snapshot.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        job: Job,
        device: str = "cpu",
        emit: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._job = job
        self._device = device
        self._emit = emit
        self._model: Any = None
        self._probe: Probe | None = None
        self._last = ""
        self._reached = False

    def catch_up(self) -> None:
        """Evaluate every snapshot that has no metrics yet, but not the untrained model.

        Raises:
            JobFailed: the job's `evaluate` raised, or returned something else than numbers.
            SettingsError: it reports no metric of the target's name.
        """
        done = {keys.number(info.key) for info in self._store.list(keys.METRICS)} if not self._last else set()
        for info in list(self._store.list(keys.SNAPSHOTS, after=self._last or keys.snapshot(0))):
            before, self._last = self._last or keys.snapshot(0), info.key
            version = keys.number(info.key)
            if version not in done:
                self._evaluate(version, info.key, before)

    def _evaluate(self, version: int, key: str, before: str) -> None:
        data = self._store.get(key)
        if data is None:
            return
        probe = self._probe_from(before) if self._settings.coherence else None
        metrics = evaluate(self._job, State.load(data, key), self._device, self._fresh_model())
        if probe is not None:
            for cosine in probe.add(version, self._model).cosine.values():
                metrics.setdefault("coherence", cosine)
        plain = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._store.create(keys.metrics(version), wire.dump_json({"version": version, "metrics": plain}))
        self._emit({"event": "metrics", "version": version, "metrics": metrics})
        target = self._settings.target
        if target and not self._reached and reached(target, metrics):
            self._reached = True
            request_stop(self._store, "target", version)

    def _probe_from(self, key: str) -> Probe:
        """What compares gradients with those of the snapshot before, which is `key`."""
        from lambdaml.coherence import Probe

        if self._probe is None:
            self._probe = Probe(self._job, kept=1, seed=self._settings.seed, device=self._device)
            data = self._store.get(key)
            if data is not None:
                model = self._fresh_model()
                State.load(data, key).load_into(model)
                self._probe.add(keys.number(key), model)
        return self._probe

    def _fresh_model(self) -> Any:
        if self._model is None:
            from lambdaml.calls import call

            self._model = call(self._job.model).to(self._device)
        return self._model


def evaluate(job: Job, state: State, device: str = "cpu", model: Any = None) -> dict[str, float]:
    """The job's metrics of a state's model.

    Raises:
        JobFailed: the job's `evaluate` raised, or returned something else than numbers.
    """
    import torch

    from lambdaml.calls import call

    if model is None:
        model = call(job.model).to(device)
    state.load_into(model)
    model.eval()
    with torch.no_grad():
        metrics = call(job.evaluate, model)
    try:
        return {str(name): float(value) for name, value in metrics.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise JobFailed(f"{type(job).__name__}.evaluate must return numbers by name: {error}") from error


def request_stop(store: Store, reason: str, version: int | None = None) -> None:
    """Ask the run to end; the first wish stands. Whoever writes the log heeds it within about a second."""
    store.create(keys.STOP, wire.dump_json({"reason": reason, "version": version}))

"""The evaluation of snapshots in the virtual world, at modelled times and without a model.

evaluations = Evaluations(seconds=0.3, meets=lambda version: version >= 40)
virtual = VirtualRun(..., trace=evaluations.take)
evaluations.attend(virtual)
virtual.run()
"""

from __future__ import annotations

from collections.abc import Callable

from lambdaml.events import Event
from lambdaml.log import keys, wire
from lambdaml.simulation.engine import VirtualRun


class VirtualEvaluations:
    """Evaluates snapshots in order, and asks the run to stop at the first that meets the target.

    It writes to the bucket what `lambdaml.training.evaluation.Evaluator` writes, never fails, and its requests take no
    time.

    Args:
        seconds: The seconds that the evaluation of a snapshot takes.
        meets: Returns whether the snapshot of a version meets the target.
    """

    def __init__(self, seconds: float, meets: Callable[[int], bool] = lambda version: False) -> None:
        self._seconds = seconds
        self._meets = meets
        self._virtual: VirtualRun | None = None
        self._begun: set[int] = set()
        self._free_s = 0.0

    def attend(self, virtual: VirtualRun) -> None:
        """Evaluate this run, from now on."""
        self._virtual = virtual

    def take(self, now: float, event: Event) -> None:
        """Evaluate new snapshots, if this event of the run announces any."""
        if event.event != "snapshot" or self._virtual is None:
            return
        versions = {keys.number(info.key) for info in self._virtual.bucket.list(keys.SNAPSHOTS)} - {0}
        for version in sorted(versions - self._begun):
            self._begun.add(version)
            self._free_s = max(self._free_s, now) + self._seconds
            self._virtual.kernel.at(self._free_s, lambda version=version: self._done(version))  # type: ignore[misc]

    def _done(self, version: int) -> None:
        assert self._virtual is not None
        bucket = self._virtual.bucket
        if self._meets(version):
            bucket.try_create(keys.STOP, wire.dump_json({"reason": "target", "version": version}))
        bucket.try_create(keys.metrics(version), wire.dump_json({"version": version, "metrics": {}}))

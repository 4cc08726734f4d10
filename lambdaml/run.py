"""`Run` is a run with everything that one can do with it: the public face of `lambdaml.log.reader` and of the verbs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lambdaml.job import Job
from lambdaml.log.controls import request_change
from lambdaml.log.gc import gc
from lambdaml.log.reader import RunReader
from lambdaml.log.retention import pin_version, unpin_version
from lambdaml.log.status import Status, status
from lambdaml.log.stops import request_stop
from lambdaml.storage import Store
from lambdaml.training.loading import load_run_job

if TYPE_CHECKING:
    from torch import nn

    from lambdaml.influence.measure import Estimator, InfluenceReport
    from lambdaml.influence.recursion import Truncation
    from lambdaml.log.snapshot import State
    from lambdaml.traces.logs import LogLine
    from lambdaml.training.driver import TrainResult
    from lambdaml.training.verify import Report


class Run(RunReader):
    """Opens a run by its URL, or in a store that is open already, to read, check and control it without the help of the
    functions that work on it. Methods that compute load torch when they are called.

    Args:
        where: The URL of the run, or a store that is open at its prefix.
        job: The run's job, if it was given as an instance and cannot be imported.

    Raises:
        RunNotFound: If this prefix holds no run.
        NewerSchema, BadObject: If run.json cannot be read.
    """

    def __init__(self, where: str | Store, job: Job | None = None) -> None:
        super().__init__(where)
        self._job = job

    def job(self) -> Job:
        """Return the run's job.

        Raises:
            JobError: If it cannot be imported, or its code has changed.
        """
        return self._job or load_run_job(self.settings)

    def status(self) -> Status:
        """Return how far the run has got; see `lambdaml.log.status`."""
        return status(self)

    def trace(self) -> list[dict[str, Any]]:
        """Return one row for each update that has a fate, in the order of the log; see
        `lambdaml.traces.attribution.trace_rows`."""
        from lambdaml.traces.attribution import trace_rows

        return trace_rows(self)

    def logs(self, worker: int | None = None) -> list[LogLine]:
        """Return what the job printed and logged in the run's functions, or for one worker; see `lambdaml.traces.logs`."""
        from lambdaml.traces.logs import run_logs

        return run_logs(self, worker)

    def replay(self, version: int | None = None, of: int | None = None) -> State:
        """Rebuild the state at a version, by default the last one, bit for bit; see `lambdaml.training.replay`.

        Args:
            version: The version.
            of: The worker whose own model is in it, if workers have models of their own; see `lambdaml.training.own_state`.

        Raises:
            OtherNumerics: If the run promises bits, and this process would compute others.
            SettingsError: If the run has no such version, or objects that are needed to rebuild it were deleted.
            JobError: If the job cannot be imported, or its code has changed.
        """
        from lambdaml.training.replay import replay

        if of is not None:
            from lambdaml.training.own_state import own_state

            return own_state(self, of, version, self._job)
        return replay(self, version, self._job)

    def model(self, version: int | None = None, of: int | None = None) -> nn.Module:
        """Return the job's model with the run's result in it, or with the weights of any version, in `eval()` mode.

        Args:
            version: The version; by default the result, or the last version of a worker's own model.
            of: The worker whose own model it is, in a run whose workers have models of their own. The run's model is the mean
                of these.

        In a process of another numerics class than the run's, the last bits of those weights may differ.

        Raises:
            RunNotFound: If the run has no result yet, and no version was asked for.
            SettingsError: If there is no such worker or version.
        """
        from lambdaml.training.replay import trained_model

        if of is None:
            return trained_model(self, version, self._job)
        from lambdaml.training.streaming import load_into

        module = self.job().model()
        load_into(module, self.replay(version, of))
        return module.eval()

    def averaged(self, since: int) -> nn.Module:
        """Return the job's model with the mean of its weights along the run, in `eval()` mode; see
        `lambdaml.training.trajectory`.

        Args:
            since: The version from which on snapshots are averaged.

        Raises:
            SettingsError: If no snapshot of that version or a later one is left.
        """
        from lambdaml.training.streaming import load_into
        from lambdaml.training.trajectory import trajectory_mean

        module = self.job().model()
        load_into(module, trajectory_mean(self, since))
        return module.eval()

    def influence(
        self,
        estimator: Estimator = "fisher",
        truncation: Truncation = "client",
        truth: bool = False,
        at: int | None = None,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> InfluenceReport:
        """Return the influence of each client of a run of federated averaging on the job's metrics; see
        `lambdaml.influence.measure.measure_influence`.

        Args:
            estimator: The estimator: `fisher`, from the gradients that the run recorded, or `exact`, from the data.
            truncation: The part of the estimate that is dropped once it grows: `none`, `layer` or `client`.
            truth: Whether the run is also repeated without each of the clients.
            at: The version of the model; by default the last one.
            progress: A function that is told the share that is done, from another thread.

        Raises:
            SettingsError: If the run is not one of plain federated averaging, recorded no gradients, or has no such version.
            JobError: If the job reports no metrics, cannot be imported, or has changed.
        """
        from lambdaml.influence.measure import measure_influence

        return measure_influence(
            self, estimator=estimator, truncation=truncation, truth=truth, at=at, job=self._job, progress=progress
        )

    def verify(self, deep: float | None = None) -> Report:
        """Check every promise that can be checked from the bucket; see `lambdaml.training.verify`.

        Args:
            deep: The share of the updates that is also computed again, in (0, 1]; None for none of them.

        Raises:
            SettingsError: If the share is out of range.
        """
        from lambdaml.training.verify import verify

        return verify(self, job=self._job, deep=deep)

    def rerun(
        self, store: str | Store | None = None, without: Sequence[int] = (), since: int = 0, **options: Any
    ) -> TrainResult:
        """Repeat the run in a new place, bit for bit, or with the slots of some clients empty; see
        `lambdaml.training.driver.rerun`.

        Args:
            store: The new run's own prefix; by default the next free `runs/<job>-<n>`.
            without: The numbers of the clients whose slots stay empty.
            since: The version from which on they do.
            options: Those of `lambdaml.options.LaunchOptions`.

        Raises:
            UserError: If the run cannot be repeated, or not without these clients.
        """
        from lambdaml.training.driver import rerun

        return rerun(self, store, without, since, self._job, **options)

    def cancel(self) -> None:
        """Ask the functions to end the run. They do so within seconds, and the run cannot be resumed."""
        request_stop(self.store, "cancelled")

    def gc(self) -> int:
        """Delete the objects that the run's newest snapshot has made unnecessary, and return their number. See
        `lambdaml.log.gc`.

        Raises:
            SettingsError: If functions work on the run, since they may still need what would be deleted.
        """
        return gc(self)

    def change(self, what: str, value: float | Sequence[int]) -> None:
        """Change a setting while the run goes on: `lr`, the optimizer's learning rate, or `without`, the list of the clients
        that are left out. See `lambdaml.log.controls`.

        Raises:
            SettingsError: If this setting cannot be changed to this value, or the run has ended.
        """
        request_change(self, what, value)

    def pin(self, version: int, name: str) -> None:
        """Keep the history from a version on until `unpin`, whatever bound the run has on it.

        Args:
            version: The first version that must stay.
            name: The name of the reader who needs it; each reader has one pin.

        Raises:
            SettingsError: If that version is already deleted, or the name cannot be part of a key.
        """
        pin_version(self.store, name, version)

    def unpin(self, name: str) -> None:
        """Remove a pin; a pin that does not exist is no error."""
        unpin_version(self.store, name)

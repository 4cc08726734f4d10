"""A run, with all that can be done with it: the public face of `lambdaml.log.reader` and of the verbs."""

from __future__ import annotations

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

    from lambdaml.log.snapshot import State
    from lambdaml.training.verify import Report


class Run(RunReader):
    """A run by its URL, or by a store that is open already: whatever anybody can read, check and do with it, without
    the help of the functions that work on it. Methods that compute load torch when they are called.

    Args:
        job: the run's job, where it was given as an instance and cannot be imported.

    Raises:
        RunNotFound: there is no run at this prefix.
        NewerSchema, BadObject: run.json cannot be read.
    """

    def __init__(self, where: str | Store, job: Job | None = None) -> None:
        super().__init__(where)
        self._job = job

    def job(self) -> Job:
        """The run's job.

        Raises:
            JobError: it cannot be imported, or its code has changed.
        """
        return self._job or load_run_job(self.settings)

    def status(self) -> Status:
        """Where the run stands; see `lambdaml.log.status`."""
        return status(self)

    def trace(self) -> list[dict[str, Any]]:
        """One row per update that has a fate, in the order of the log; see `lambdaml.traces.attribution.trace_rows`."""
        from lambdaml.traces.attribution import trace_rows

        return trace_rows(self)

    def replay(self, version: int | None = None) -> State:
        """Rebuild the state at a version, by default the last one, bit for bit; see `lambdaml.training.replay`.

        Raises:
            OtherNumerics: the run promises bits, and this process would compute others.
            SettingsError: the run has no such version, or what is needed to rebuild it was deleted.
            JobError: the job cannot be imported, or its code has changed.
        """
        from lambdaml.training.replay import replay

        return replay(self, version, self._job)

    def model(self, version: int | None = None) -> nn.Module:
        """The job's model with the run's result in it, or with the weights of any version, in `eval()` mode.

        In a process of another numerics class than the run's, the last bits of those weights may be others.

        Raises:
            RunNotFound: the run has no result yet, and no version was asked for.
        """
        from lambdaml.training.replay import trained_model

        return trained_model(self, version, self._job)

    def verify(self) -> Report:
        """Check every promise that can be checked from the bucket; see `lambdaml.training.verify`."""
        from lambdaml.training.verify import verify

        return verify(self, job=self._job)

    def cancel(self) -> None:
        """Ask the functions to end the run. They heed it within seconds; it cannot be resumed."""
        request_stop(self.store, "cancelled")

    def gc(self) -> int:
        """Delete what the run's newest snapshot has made unnecessary; returns how many objects. See `lambdaml.log.gc`.

        Raises:
            SettingsError: functions work on the run; they may still need what would be deleted.
        """
        return gc(self)

    def change(self, what: str, value: float) -> None:
        """Change a setting while the run goes on: `lr`, the optimizer's learning rate. See `lambdaml.log.controls`.

        Raises:
            SettingsError: If this setting cannot be changed to this value, or the run has ended.
        """
        request_change(self, what, value)

    def pin(self, version: int, name: str) -> None:
        """Keep the history from a version on, whatever the run's bound on it says, until `unpin`.

        Args:
            name: of the reader; each has one pin.

        Raises:
            SettingsError: that version is deleted already, or the name is no part of a key.
        """
        pin_version(self.store, name, version)

    def unpin(self, name: str) -> None:
        """Take a pin away; one that is not there is no error."""
        unpin_version(self.store, name)

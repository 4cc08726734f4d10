"""Every error raised on purpose, in one tree.

LambdaMLError                 the root: one line for a person, `exit_code` for the command line
├── StoreError                a store could not do what was asked; its branches stand in `lambdaml.storage.errors`
├── UserError                 a mistake in what was asked for; nothing was lost                       (exit 2)
│   ├── JobError              the job cannot be imported, built, or used as it is
│   ├── SettingsError         an option, schedule, codec or rule that does not exist or does not fit
│   ├── OtherNumerics         this process would compute other bits than the run
│   ├── RunExists             there is a run at this prefix already
│   └── RunNotFound           there is no run at this prefix
├── JobFailed                 the job's own code raised while training                                (exit 1)
├── BadObject                 an object of the run is corrupt, truncated or not what it should be     (exit 1)
├── NewerSchema               the run was written by a newer lambdaml                                 (exit 2)
├── OlderSchema               the run was written by an older lambdaml, in a form of its own          (exit 2)
├── LeaseLost                 another function holds this worker now                                  (internal)
├── ReplicaDiverged           two replicas at one version differ                                      (exit 1)
├── PricesUnreachable         the AWS Price List API could not be asked, or refused                    (exit 1)
├── VerifyFailed              a run breaks one of its promises                                        (exit 1)
└── RunFailed                 the run stopped before it finished, and says why                        (exit 1)
    └── RunCapped             what it may spend is spent; it can be resumed with a higher cap         (exit 1)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from lambdaml.storage.errors import (
    AccessDenied,
    LambdaMLError,
    StoreError,
    StoreFull,
    StoreTimeout,
    StoreUnavailable,
    StoreUnfit,
    Throttled,
)

__all__ = [
    "AccessDenied",
    "BadObject",
    "JobError",
    "JobFailed",
    "LambdaMLError",
    "LeaseLost",
    "NewerSchema",
    "OlderSchema",
    "OtherNumerics",
    "PricesUnreachable",
    "ReplicaDiverged",
    "RunCapped",
    "RunExists",
    "RunFailed",
    "RunNotFound",
    "SettingsError",
    "StoreError",
    "StoreFull",
    "StoreTimeout",
    "StoreUnavailable",
    "StoreUnfit",
    "Throttled",
    "UserError",
    "VerifyFailed",
    "nearest",
]


class UserError(LambdaMLError):
    """A mistake in what was asked for. Nothing was started and nothing was lost."""

    exit_code = 2


class JobError(UserError):
    """The job cannot be imported, built, or used as it is."""


class SettingsError(UserError):
    """An option, schedule, codec or staleness rule that does not exist or does not fit the others."""


class OtherNumerics(UserError):
    """This process computes in another numerics class than the run, which promises bits; see `lambdaml.training.numerics`."""


class RunExists(UserError):
    """There is a run at this prefix already."""


class RunNotFound(UserError):
    """There is no run at this prefix."""


class JobFailed(LambdaMLError):
    """The job's own code raised while training. The message names the place in it, and the notes (`__notes__`) are the
    lines of the job that led there."""

    def while_doing(self, what: str) -> JobFailed:
        """The same, beginning with what was being done."""
        error = JobFailed(f"{what}: {self}")
        for note in getattr(self, "__notes__", ()):
            error.add_note(note)
        return error


class BadObject(LambdaMLError):
    """An object of the run is corrupt, truncated, or not what its key says."""


class NewerSchema(LambdaMLError):
    """The run was written by a newer lambdaml than this one."""

    exit_code = 2


class OlderSchema(LambdaMLError):
    """The run was written by an older lambdaml, in a form that this one does not read."""

    exit_code = 2


class LeaseLost(LambdaMLError):
    """Another function holds this worker now; the one that raises this stops working on it."""


class ReplicaDiverged(LambdaMLError):
    """Two replicas at the same version are not bitwise equal."""


class PricesUnreachable(LambdaMLError):
    """The AWS Price List API could not be asked, or refused to answer."""


class VerifyFailed(LambdaMLError):
    """A run breaks one of its promises."""


class RunFailed(LambdaMLError):
    """The run stopped before it finished; the message says why and what to do."""


class RunCapped(RunFailed):
    """What the run may spend is spent. It stopped in good order, and can be resumed with a higher cap."""


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'asp'?)`, or the list of what exists, to end an error message with."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=2, cutoff=0.5)
    if close:
        return f" (did you mean {' or '.join(repr(name) for name in close)}?)"
    return f" (there is: {', '.join(names)})"

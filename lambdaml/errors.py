"""All errors that lambdaml raises on purpose form one tree.

LambdaMLError                 the root: one line for a person, `exit_code` for the command line
├── StoreError                a store could not do what it was asked; `lambdaml.storage.errors` has its branches
├── UserError                 the request was a mistake; nothing was lost                             (exit 2)
│   ├── JobError              the job cannot be imported, built, or used as it is
│   ├── SettingsError         an option, schedule, codec or rule does not exist or does not fit
│   ├── OtherNumerics         this process would compute other bits than the run
│   ├── RunExists             this prefix already holds a run
│   └── RunNotFound           this prefix holds no run
├── JobFailed                 the job's own code raised while training                                (exit 1)
├── BadObject                 an object of the run is corrupt, truncated or not what it should be     (exit 1)
├── NewerSchema               a newer lambdaml wrote the run                                          (exit 2)
├── OlderSchema               an older lambdaml wrote the run, in a form that this one does not read  (exit 2)
├── LeaseLost                 another function holds this worker now                                  (internal)
├── ReplicaDiverged           two replicas at one version differ                                      (exit 1)
├── PricesUnreachable         the AWS Price List API did not answer, or refused                       (exit 1)
├── VerifyFailed              a run breaks one of its promises                                        (exit 1)
└── RunFailed                 the run stopped before it finished, and says why                        (exit 1)
    └── RunCapped             the run has spent what it may; a higher cap lets it resume              (exit 1)
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
    """The user asked for something that cannot be done. Nothing was started and nothing was lost."""

    exit_code = 2


class JobError(UserError):
    """The job cannot be imported, built, or used as it is."""


class SettingsError(UserError):
    """An option, schedule, codec or staleness rule does not exist or does not fit the others."""


class OtherNumerics(UserError):
    """This process computes in another numerics class than the run, which promises the same bits everywhere; see
    `lambdaml.training.numerics`."""


class RunExists(UserError):
    """This prefix already holds a run, or what is left of one."""


class RunNotFound(UserError):
    """This prefix holds no run."""


class JobFailed(LambdaMLError):
    """The job's own code raised while training. The message names the place in that code, and the notes (`__notes__`)
    are the lines of the job that led there.

    Attributes:
        update: The worker and the sequence number of the update that was being computed, if it was one.
    """

    update: tuple[int, int] | None = None

    def while_doing(self, what: str, update: tuple[int, int] | None = None) -> JobFailed:
        """Return the same error with a message that begins with what was being done."""
        error = JobFailed(f"{what}: {self}")
        error.update = update
        for note in getattr(self, "__notes__", ()):
            error.add_note(note)
        return error


class BadObject(LambdaMLError):
    """An object of the run is corrupt, truncated, or not what its key says."""


class NewerSchema(LambdaMLError):
    """A newer lambdaml than this one wrote the run."""

    exit_code = 2


class OlderSchema(LambdaMLError):
    """An older lambdaml wrote the run, in a form that this one does not read."""

    exit_code = 2


class LeaseLost(LambdaMLError):
    """Another function holds this worker now; the function that raises this error stops working as it."""


class ReplicaDiverged(LambdaMLError):
    """Two replicas at the same version are not bitwise equal."""


class PricesUnreachable(LambdaMLError):
    """The AWS Price List API could not be reached, or refused to answer."""


class VerifyFailed(LambdaMLError):
    """A run breaks one of its promises."""


class RunFailed(LambdaMLError):
    """The run stopped before it finished; the message says why and what to do."""


class RunCapped(RunFailed):
    """The run has spent what it may spend. It stopped in good order, and can be resumed with a higher cap."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message: ` (did you mean 'asp'?)`, or the list of the known words."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=2, cutoff=0.5)
    if close:
        return f" (did you mean {' or '.join(repr(name) for name in close)}?)"
    return f" (there is: {', '.join(names)})"

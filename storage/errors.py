"""What can go wrong with a store, and the root of every error this project raises.

    LambdaMLError                 the root: message for a person, `exit_code` for the command line
    └── StoreError                a store could not do what was asked
        ├── BadStoreURL           the URL names no store we know, or a parameter it does not take   (exit 2)
        ├── AccessDenied          no credentials, wrong credentials, or no such bucket              (exit 2)
        ├── StoreFull             there is no more room                                            (exit 1)
        ├── StoreUnfit            the store breaks a promise we build on (found by the probe)       (exit 2)
        └── StoreUnavailable      it may work if tried again
            ├── Throttled         the store asked us to slow down (503 SlowDown, 429)
            └── StoreTimeout      no answer in time; a write may or may not have happened

The rest of the tree, for runs and jobs, stands in `lambdaml.errors`.
"""

from __future__ import annotations


class LambdaMLError(Exception):
    """Root of every error raised on purpose. `str(error)` is one line that says what was wrong and what to do."""

    exit_code = 1


class StoreError(LambdaMLError):
    """A store could not do what was asked."""


class BadStoreURL(StoreError):
    """The URL names no store we know, or a parameter it does not take."""

    exit_code = 2


class AccessDenied(StoreError):
    """No credentials, wrong credentials, or no such bucket."""

    exit_code = 2


class StoreFull(StoreError):
    """There is no room for more. What was written before stands."""


class StoreUnfit(StoreError):
    """The store breaks a promise that runs are built on; see `lambdaml.storage.probe`."""

    exit_code = 2


class StoreUnavailable(StoreError):
    """The request failed in a way that may pass: trying again is right."""


class Throttled(StoreUnavailable):
    """The store asked for fewer requests (HTTP 503 SlowDown or 429)."""


class StoreTimeout(StoreUnavailable):
    """No answer in time. A write may or may not have taken effect."""

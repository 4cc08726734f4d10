"""The errors that a store can raise, and the root of every error that this project raises.

    LambdaMLError                 the root: a message for a person, and `exit_code` for the command line
    └── StoreError                a store could not do what was asked
        ├── BadStoreURL           the URL names no known store, or a parameter it does not take     (exit 2)
        ├── AccessDenied          no credentials, wrong credentials, or no such bucket              (exit 2)
        ├── StoreFull             the store has no more room                                        (exit 1)
        ├── StoreUnfit            the store breaks a promise we rely on (found by the probe)        (exit 2)
        └── StoreUnavailable      the request may work if it is tried again
            ├── Throttled         the store asked us to slow down (503 SlowDown, 429)
            └── StoreTimeout      no answer came in time; a write may or may not have happened

`lambdaml.errors` holds the rest of the tree, for runs and jobs.
"""

from __future__ import annotations


class LambdaMLError(Exception):
    """The root of every error raised on purpose. `str(error)` is one line that says what was wrong and what to do."""

    exit_code = 1


class StoreError(LambdaMLError):
    """A store could not do what was asked."""


class BadStoreURL(StoreError):
    """The URL names no store that we know, or a parameter that the store does not take."""

    exit_code = 2


class AccessDenied(StoreError):
    """The credentials are missing or wrong, or the bucket does not exist."""

    exit_code = 2


class StoreFull(StoreError):
    """The store has no room for more. What was written before is kept."""


class StoreUnfit(StoreError):
    """The store breaks a promise that runs rely on; see `lambdaml.storage.probe`."""

    exit_code = 2


class StoreUnavailable(StoreError):
    """The request failed in a way that may pass, so it is right to try again."""


class Throttled(StoreUnavailable):
    """The store asked for fewer requests (HTTP 503 SlowDown or 429)."""


class StoreTimeout(StoreUnavailable):
    """No answer came in time. A write may or may not have taken effect."""

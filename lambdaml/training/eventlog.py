"""Events as records of Python's `logging`, for programs that keep a log. lambdaml itself installs no handler: nothing is
printed unless the program asks for it.

    logging.basicConfig(level=logging.INFO)
    lambdaml.train(...)

Functions and stores in other processes tell what happens by events, which the process that started the run logs.
"""

from __future__ import annotations

import logging

from lambdaml.events import Emit, Event
from lambdaml.storage.url import masked

logger = logging.getLogger("lambdaml.run")
logging.getLogger("lambdaml").addHandler(logging.NullHandler())

_LEVELS = {
    "warning": logging.WARNING,
    "outage": logging.WARNING,
    "error": logging.ERROR,
    **dict.fromkeys(("commit", "usage", "ready", "evaluating"), logging.DEBUG),
}
"""The levels of events; that of all others is INFO."""


def logged(emit: Emit) -> Emit:
    """What takes events, and writes each to the logger `lambdaml.run` first."""

    def take(event: Event) -> None:
        level = _LEVELS.get(event.event, logging.INFO)
        if logger.isEnabledFor(level):
            logger.log(level, "%s: %s", event.event, masked(_text(event)))
        emit(event)

    return take


def _text(event: Event) -> str:
    """The fields of an event. A run's settings hold the arguments of its job, which may be secret: they are left out."""
    fields = event.to_dict().items()
    return ", ".join(f"{name} {value}" for name, value in fields if name not in ("event", "settings", "reading"))

"""Events are also records of Python's `logging`, for programs that keep a log. lambdaml itself installs no handler:
nothing is printed unless the program asks for it.

    logging.basicConfig(level=logging.INFO)
    lambdaml.train(...)

Functions and stores in other processes report by events, which the process that started the run logs.
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
"""Events of these kinds have these levels; all others have the level INFO."""


def logged(emit: Emit) -> Emit:
    """Wrap a callable that takes events, so that each event is first written to the logger `lambdaml.run`."""

    def take(event: Event) -> None:
        level = _LEVELS.get(event.event, logging.INFO)
        if logger.isEnabledFor(level):
            logger.log(level, "%s: %s", event.event, masked(_text(event)))
        emit(event)

    return take


def _text(event: Event) -> str:
    """Return the fields of an event as text. It leaves out a run's settings: they hold the arguments of its job, which
    may be secret."""
    fields = event.to_dict().items()
    return ", ".join(f"{name} {value}" for name, value in fields if name not in ("event", "settings", "reading"))

"""Asks a run to end, by writing `stop.json`. Whoever writes the log looks for that object."""

from __future__ import annotations

from lambdaml.log import keys, wire
from lambdaml.storage import Store

_WORDS = {"steps": "finished", "target": "reached its target", "patience": "stopped improving"}


def ending(reason: str) -> str:
    """Return words for the reason why a run ended."""
    return _WORDS.get(reason, reason)


def request_stop(store: Store, reason: str, version: int | None = None) -> None:
    """Ask the run to end. The first wish counts.

    Whoever writes the log heeds it within about a second. A wish because of a target is heeded with the next snapshot,
    if that comes sooner.
    """
    store.create(keys.STOP, wire.dump_json({"reason": reason, "version": version}))

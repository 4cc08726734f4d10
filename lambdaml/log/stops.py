"""A wish that a run should end: `stop.json`, which whoever writes the log looks for."""

from __future__ import annotations

from lambdaml.log import keys, wire
from lambdaml.storage import Store


def request_stop(store: Store, reason: str, version: int | None = None) -> None:
    """Ask the run to end; the first wish stands. Whoever writes the log heeds it within about a second;
    that of a target with the next snapshot, if that comes sooner."""
    store.create(keys.STOP, wire.dump_json({"reason": reason, "version": version}))

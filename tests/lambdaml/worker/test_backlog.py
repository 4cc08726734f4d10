"""The backlog: which updates it applies as they were read, and which it reads again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lambdaml.log.records import Commit, Entry, Update, damaged
from lambdaml.worker.backlog import Backlog


def test_an_update_that_was_read_damaged_is_read_again_if_the_log_applies_it() -> None:
    """Its publisher has not read it back, so it may have decided that the update is applied."""
    freed: list[Update] = []
    window = SimpleNamespace(free=freed.append, decide=lambda update, place: None)
    backlog: Any = Backlog(SimpleNamespace(window=window), exchange=None)  # type: ignore[arg-type]
    whole, broken = Update(0, 3, 2, 1, "f", 8, 0.5, "fp32"), damaged(1, 3, 100)
    entries = tuple(Entry(worker, 3, 2, 1, 8, 0.5, 0, 1.0) for worker in range(2))
    backlog.add(Commit(5, 4, (entries,)), {whole.id: whole, broken.id: broken})
    (pending,) = backlog._pending
    assert (pending.updates, pending.absent) == ({whole.id: whole}, 1)
    assert freed == [broken] and [key for _, key in backlog._missing] == [broken.id]

"""What follows a launch reads the log in portions while functions write it."""

from collections.abc import Sequence

import pytest

from lambdaml.engines.bulletin import Bulletin
from lambdaml.log import keys
from lambdaml.storage import MemoryStore, copy
from lambdaml.storage.protocol import Bytes
from tests.lambdaml.lab import memory, train


def test_an_entry_that_was_written_while_those_around_it_were_read_leaves_no_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, store = train(workers=2, steps=12), memory()
    copy(whole.store, store)
    entries = [info.key for info in store.list(keys.LOG)]
    written = {key: store._objects.pop(key) for key in entries}
    bulletin = Bulletin(store, whole.settings, "launch")
    store._objects |= written
    late, get_many = {entries[4]}, MemoryStore.get_many

    def race(self: MemoryStore, wanted: Sequence[str]) -> list[Bytes | None]:
        found = [None if key in late else data for key, data in zip(wanted, get_many(self, wanted), strict=True)]
        late.difference_update(wanted)
        return found

    monkeypatch.setattr(MemoryStore, "get_many", race)
    commits = [event.commit for _ in range(2) for event in bulletin.news() if event.event == "commit"]
    assert commits == list(range(len(entries)))
    assert bulletin.over

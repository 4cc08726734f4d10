"""What the comparisons with a plain loop share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from lambdaml.storage import MemoryStore

pytest.register_assert_rewrite("tests.lambdaml.training.plain.loop")


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    """An empty store of its own, which is dropped after the test."""
    store = MemoryStore(secrets.token_hex(6))
    yield store
    store.drop()

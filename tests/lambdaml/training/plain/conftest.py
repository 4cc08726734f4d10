"""What the comparisons with a plain loop share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
import torch

from lambdaml.storage import MemoryStore

pytest.register_assert_rewrite("tests.lambdaml.training.plain.loop")


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """As in functions, so that a plain loop computes the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    """An empty store of its own, which is dropped after the test."""
    store = MemoryStore(secrets.token_hex(6))
    yield store
    store.drop()

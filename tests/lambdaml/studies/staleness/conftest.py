"""One thread, as the study's processes have."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    from lambdaml.studies.staleness.engine import one_thread

    with one_thread():
        yield

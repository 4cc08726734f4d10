"""Options of engines, as text."""

from __future__ import annotations

import pytest

from lambdaml.cli._options import engine_options
from lambdaml.errors import UserError


def test_what_was_asked_for_of_ray_reaches_the_engine_in_its_units() -> None:
    assert engine_options("auto", 2.0, None, "1.5G", ["fast=1", "tpu=0.5"]) == {
        "address": "auto",
        "cpus": 2.0,
        "memory_bytes": 1.5 * 2**30,
        "resources": {"fast": 1.0, "tpu": 0.5},
    }
    assert engine_options(None, None, None, None, None) == {}


@pytest.mark.parametrize("memory", ["much", "-1", "0"])
def test_a_memory_that_is_no_size_is_refused(memory: str) -> None:
    with pytest.raises(UserError, match=rf"--memory-per-function {memory}: write a size, for example 2G"):
        engine_options(None, None, None, memory, None)


@pytest.mark.parametrize("resource", ["fast", "=1", "fast=quick"])
def test_a_resource_that_cannot_be_read_is_refused(resource: str) -> None:
    with pytest.raises(UserError, match=rf"--resource-per-function {resource}: write NAME=NUMBER, for example fast=1"):
        engine_options(None, None, None, None, [resource])

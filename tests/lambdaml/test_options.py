"""The options of a run: one list for library and command line, and no name that means nothing."""

from __future__ import annotations

import inspect
import re
import secrets
from dataclasses import MISSING, fields
from typing import Any

import pytest

import lambdaml
from lambdaml.cli.resume import resume as resume_command
from lambdaml.cli.train import train as train_command
from lambdaml.errors import SettingsError
from lambdaml.options import LaunchOptions, RunOptions
from lambdaml.settings import Settings
from tests.lambdaml.lab import Tiny


def names(options: type[LaunchOptions]) -> set[str]:
    return {option.name for option in fields(options)}


def test_train_and_resume_show_every_option_with_its_default() -> None:
    shown = inspect.signature(lambdaml.train).parameters
    assert list(shown) == ["job", "store", *(option.name for option in fields(RunOptions))]
    assert (shown["workers"].default, shown["schedule"].default) == (4, "bsp")
    assert set(inspect.signature(lambdaml.resume).parameters) == {"store", "job", *names(LaunchOptions)}


@pytest.mark.parametrize("options", [LaunchOptions, RunOptions])
def test_every_option_is_documented_where_it_is_defined(options: type[LaunchOptions]) -> None:
    documented = re.findall(r"^        (\w+): ", str(options.__doc__), re.MULTILINE)
    inherited = {"epochs"} if options is RunOptions else set()  # it stands beside `steps`
    assert {*documented} | inherited == set(options.__annotations__)


def test_what_run_json_leaves_out_means_what_train_takes_by_default() -> None:
    shared = {option.name: option.default for option in fields(RunOptions)}
    shared |= {"max_rejected": 10, "error_feedback": 0.0, "partition": "iid"}  # as resolved for the default codec
    defaults = {name: field.default for name, field in Settings.model_fields.items() if not field.is_required()}
    same = defaults.keys() & shared.keys() - {"numerics"}
    assert {"schedule", "codec", "staleness", "seed", "lease_s", "patience_s"} < same
    assert {name: defaults[name] for name in same} == {name: shared[name] for name in same}


@pytest.mark.parametrize(
    "call",
    [
        lambda **wrong: lambdaml.train(Tiny, f"memory://{secrets.token_hex(4)}", **wrong),
        lambda **wrong: lambdaml.resume(f"memory://{secrets.token_hex(4)}", **wrong),
        lambda **wrong: lambdaml.simulate(**wrong),
    ],
    ids=["train", "resume", "simulate"],
)
def test_an_option_that_does_not_exist_is_refused_in_one_line_that_names_the_nearest(call: Any) -> None:
    with pytest.raises(
        SettingsError, match=r"there is no option 'lease_second' \(did you mean 'lease_s'|there is: cap"
    ) as caught:
        call(lease_second=3)
    assert "\n" not in str(caught.value)


def test_the_command_line_has_every_option_under_its_name() -> None:
    """The commands hand on what has an option's name."""
    made_by_the_command = {"cap", "engine_options", "on_event"}
    not_on_the_command_line = {"patience_s", "planned"}
    assert names(RunOptions) - made_by_the_command - not_on_the_command_line <= {
        *inspect.signature(train_command).parameters
    }
    assert names(LaunchOptions) - made_by_the_command <= {*inspect.signature(resume_command).parameters}
    assert not any(option.default is MISSING and option.default_factory is MISSING for option in fields(RunOptions))

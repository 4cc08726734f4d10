"""Members of a job that nobody reads are told of; values that make no sense are refused."""

from __future__ import annotations

from typing import Any

import pytest

from lambdaml.errors import JobError
from lambdaml.job import Job
from lambdaml.training.members import check_members, warnings_of


class Misspelt(Job):
    clip_normm = 1.0
    Batch_size = 3

    def evaluates(self, model: Any) -> None: ...


class Lightning(Job):
    sampler = None
    precision = "bf16"

    def training_step(self, batch: Any) -> None: ...

    def val_dataloader(self) -> None: ...


class Own(Job):
    hidden = 3

    def __init__(self, precision: int = 3, rate: float = 0.1) -> None:
        self.precision, self.rate, self.width, self.x_train = precision, rate, 4, None


def test_names_that_are_nearly_a_members_are_told_of() -> None:
    assert list(warnings_of(Misspelt())) == [
        "Misspelt.Batch_size is not used: do you mean batch_size?",
        "Misspelt.clip_normm is not used: do you mean clip_norm?",
        "Misspelt.evaluates is not used: do you mean evaluate?",
    ]


def test_members_of_other_frameworks_are_told_of_with_what_to_do() -> None:
    said = list(warnings_of(Lightning()))
    assert [line.split(" ")[0] for line in said] == [
        f"Lightning.{name}" for name in ("precision", "sampler", "training_step", "val_dataloader")
    ]
    assert "write loss(model, batch)" in said[2]


def test_a_jobs_own_members_are_its_own() -> None:
    assert list(warnings_of(Own())) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *[("clip_norm", value, "a number above 0 or None") for value in (-1.0, 0, "1", True, float("nan"))],
        ("autocast", "bf16", "did you mean 'bfloat16'"),
        ("scheduler_interval", "Step", "did you mean 'step'"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(name: str, value: Any, message: str) -> None:
    job = Own()
    setattr(job, name, value)
    with pytest.raises(JobError, match=rf"Own\.{name} .*{message}"):
        check_members(job)

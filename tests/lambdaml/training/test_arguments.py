"""What is typed for a job's argument is what its parameter suggests, or is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Optional

import pytest

from lambdaml.errors import JobError
from lambdaml.training.arguments import Text, fit_arguments


class Annotated:
    def __init__(
        self,
        flag: bool = True,
        count: int = 3,
        lr: float = 0.1,
        name: str = "a",
        maybe: Optional[float] = None,  # noqa: UP045 - both ways of writing it are read
        depth: int | None = None,
        mode: Literal["fast", "slow"] = "fast",
        sizes: Sequence[int] = (1, 2),
        anything: Any = None,
    ) -> None: ...


class Bare:
    def __init__(self, flag=True, lr=1, rate=0.5, name="a", sizes=(1, 2), none=None, required=0): ...  # type: ignore[no-untyped-def]


def fit(make: Any, **args: Any) -> Any:
    (value,) = fit_arguments(make, args, "Job").values()
    return value


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        *[("flag", "False", False), ("flag", "false", False), ("flag", "True", True)],
        *[
            ("count", "5", 5),
            ("count", "1_000", 1000),
            ("lr", ".01", 0.01),
            ("lr", "1/100", 0.01),
            ("lr", "1e-3", 1e-3),
        ],
        *[("lr", "2", 2), ("lr", "-0.5", -0.5), ("name", "1", "1"), ("name", "None", "None"), ("name", "x y", "x y")],
        *[("maybe", "None", None), ("maybe", "0.5", 0.5), ("depth", "null", None), ("depth", "4", 4)],
        *[("mode", "slow", "slow"), ("sizes", "[5, 8]", [5, 8]), ("sizes", "(5, 8)", [5, 8])],
        *[("anything", "abc", "abc"), ("anything", "3", 3), ("anything", '{"a": 1}', {"a": 1})],
    ],
)
def test_text_is_read_as_the_annotation_says(name: str, text: str, expected: Any) -> None:
    found = fit(Annotated, **{name: Text(text)})
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        *[("flag", "False", False), ("lr", "0.5", 0.5), ("lr", "1/4", 0.25), ("rate", "3", 3), ("name", "7", "7")],
        *[("sizes", "[1]", [1]), ("none", "None", None), ("none", "text", "text"), ("none", "0.1", 0.1)],
    ],
)
def test_without_an_annotation_the_default_shows_what_is_meant(name: str, text: str, expected: Any) -> None:
    found = fit(Bare, **{name: Text(text)})
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("make", [Annotated, Bare])
@pytest.mark.parametrize("wrap", [Text, str])
@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [("flag", "off", "True or False"), ("flag", "None", "True or False"), ("lr", "fast", "a number"), ("lr", "1/0", "a number"),
     ("sizes", "many", "a ")],
)  # fmt: skip
def test_a_mismatch_is_refused_by_name(make: Any, wrap: Any, name: str, text: str, wanted: str) -> None:
    with pytest.raises(JobError, match=rf"Job: argument {name} must be .*{wanted}.*, not '{text}'"):
        fit(make, **{name: wrap(text)})


@pytest.mark.parametrize(
    ("name", "value"), [("count", 1.5), ("count", True), ("flag", 1), ("name", 3), ("mode", "swift")]
)
def test_a_value_from_python_is_checked_alike(name: str, value: Any) -> None:
    with pytest.raises(JobError, match=f"argument {name} must be"):
        fit(Annotated, **{name: value})


def test_an_argument_that_is_not_taken_is_refused_with_the_nearest() -> None:
    with pytest.raises(JobError, match=r"does not take these arguments: 'lrr' \(did you mean 'lr'\?\)"):
        fit(Annotated, lrr=Text("1"))
    with pytest.raises(JobError, match="it takes none"):
        fit_arguments(lambda: None, {"a": 1}, "Job")


def test_what_run_json_cannot_hold_is_refused() -> None:
    for value, message in ((float("inf"), "a finite number"), (object(), "a plain JSON value")):
        with pytest.raises(JobError, match=f"argument anything must be {message}"):
            fit(Annotated, anything=value)


def test_whoever_takes_anything_gets_it() -> None:
    def make(**options: Any) -> None: ...

    assert fit(make, lr=Text("0.5")) == 0.5

"""The recipes of docs/concepts/events.md draw each point of a run once; the services are stood in for."""

from __future__ import annotations

import re
import runpy
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Self

import pytest

import lambdaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "concepts" / "events.md").read_text()
DRAWING = TEXT.partition("## TensorBoard")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```python\n(.*?)^```", DRAWING, re.MULTILINE | re.DOTALL)
LIVE, POINTS, AFTERWARDS, WANDB = BLOCKS

Point = tuple[str, float, int]


class Drawn(list[Point]):
    """What a service was given, as (name, value, version), and how often it was closed."""

    closed = 0


class Writer:
    """The interface of TensorBoard's `SummaryWriter`, as far as the recipes use it."""

    drawn: dict[str, Drawn]

    def __init__(self, folder: str) -> None:
        self.mine = self.drawn.setdefault(folder, Drawn())

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, walltime: float | None = None) -> None:
        self.mine.append((tag, float(scalar_value), global_step))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.mine.closed += 1


def program(text: str) -> None:
    """Run a program of the page in the working folder."""
    Path("program.py").write_text(text)
    runpy.run_path("program.py")


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Drawn]]:
    """What TensorBoard was given, by its folder, in a working folder with a run that was drawn as it went."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "examples").symlink_to(ROOT / "examples")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        Writer.drawn = {}
        stand_in(monkeypatch, "torch.utils.tensorboard", SummaryWriter=Writer)
        program(LIVE)
        yield Writer.drawn


@pytest.fixture
def run(drawn: dict[str, Drawn]) -> lambdaml.Run:
    return lambdaml.Run("runs/digits-1")


def expected(run: lambdaml.Run) -> set[Point]:
    """The metrics of a run."""
    return {(name, value, version) for version, found in run.metrics().items() for name, value in found.items()}


def once(points: list[Point]) -> set[Point]:
    assert max(Counter((name, version) for name, _, version in points).values()) == 1
    return set(points)


def test_a_run_draws_itself_as_it_goes(drawn: dict[str, Drawn], run: lambdaml.Run) -> None:
    found = once(drawn["tensorboard/digits-1"])
    assert expected(run) < found
    assert {version for name, _, version in found if name == "training loss"} == set(range(1, run.version() + 1))


def test_a_run_that_has_ended_is_drawn_from_its_log(drawn: dict[str, Drawn], run: lambdaml.Run) -> None:
    program(f"{POINTS}\n\n{AFTERWARDS}")
    found = drawn["tensorboard/digits-1-again"]
    assert found.closed == 1 and expected(run) < once(found)
    values = {name: [value for tag, value, _ in found if tag == name] for name, _, _ in found}
    for name in ("training loss", "samples", "seconds", "dollars"):
        assert len(values[name]) == run.version()
    for name in ("samples", "seconds", "dollars"):
        assert values[name] == sorted(values[name])
    assert values["samples"][-1] == sum(row["samples"] for row in run.trace())


def test_a_run_is_drawn_while_it_goes_on_each_point_once(run: lambdaml.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metrics come at the second look, and it has ended at the third."""
    points: list[Point] = []
    calls: list[object] = []
    states = iter(["running", "running", "finished"])
    metrics = iter([{}, run.metrics(), run.metrics()])

    def log(values: dict[str, float]) -> None:
        version = int(values.pop("version"))
        points.extend((name, value, version) for name, value in values.items())

    def init(project: str, name: str) -> SimpleNamespace:
        return SimpleNamespace(define_metric=lambda name, step_metric: calls.append((name, step_metric)))

    every = expected(run)
    stand_in(monkeypatch, "wandb", init=init, log=log, finish=lambda: calls.append("finish"))
    monkeypatch.setattr(time, "sleep", calls.append)
    monkeypatch.setattr(lambdaml.Run, "status", lambda run: SimpleNamespace(state=next(states)))
    monkeypatch.setattr(lambdaml.Run, "metrics", lambda run: next(metrics))
    program(f"{POINTS}\n\n{WANDB}")
    assert calls == [("*", "version"), 60, 60, 60, "finish"]
    assert every < once(points)
    assert len([name for name, _, _ in points if name == "training loss"]) == run.version()

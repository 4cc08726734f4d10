"""Training in somebody else's process: places, threads and event loops that are not ours."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import lambdaml
from lambdaml import Job
from lambdaml.events import Event
from lambdaml.storage import open_store
from lambdaml.training.asked import free_place

THREADS: dict[str, set[int]] = {}


class Case(Job):
    """A linear model, whose methods note in which thread they are called."""

    batch_size = 8

    def __init__(self) -> None:
        self.note("__init__")

    def note(self, method: str) -> None:
        THREADS.setdefault(method, set()).add(threading.get_ident())

    def model(self) -> nn.Module:
        self.note("model")
        return nn.Linear(4, 1)

    def dataset(self) -> Dataset[Any]:
        self.note("dataset")
        return TensorDataset(torch.ones(64, 4), torch.ones(64, 1))

    def collate(self, samples: Any) -> Any:
        self.note("collate")
        return super().collate(samples)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.note("loss")
        return (model(batch[0]) - batch[1]).pow(2).mean()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        self.note("optimizer")
        return torch.optim.SGD(model.parameters(), lr=0.05)

    def scheduler(self, optimizer: Any) -> Any:
        self.note("scheduler")
        return torch.optim.lr_scheduler.ConstantLR(optimizer)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        self.note("evaluate")
        return {"a": 1.0, "methods": len(THREADS), "threads": len(set.union(*THREADS.values()))}


class Rows(Dataset[Any]):
    """A table of SQLite, which only the thread that opened it may read."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:")
        self.db.execute("create table t (i)")
        self.db.executemany("insert into t values (?)", [(number,) for number in range(64)])

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        (value,) = self.db.execute("select i from t where i = ?", (index,)).fetchone()
        return torch.full((4,), value / 64), torch.ones(1)


class FromTable(Case):
    """What docs/concepts/jobs.md advises: data in a cached property."""

    rows = cached_property(lambda self: Rows())

    def dataset(self) -> Dataset[Any]:
        return self.rows

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"a": float(model(self.rows[3][0]).isfinite())}


def fresh() -> str:
    return f"memory://{secrets.token_hex(6)}"


@pytest.mark.parametrize("target", [None, "a>=2"])
def test_inline_all_of_the_jobs_code_runs_in_one_thread(target: str | None) -> None:
    result = lambdaml.train(Case, fresh(), workers=2, steps=8, functions=2, snapshot_every=2, target=target)
    assert result.metrics == {"a": 1.0, "methods": 8, "threads": 1}  # as the file counts that was loaded as the job


def test_a_table_that_belongs_to_one_thread_can_be_trained_on_inline() -> None:
    result = lambdaml.train(FromTable, fresh(), workers=2, epochs=3, functions=2)
    assert result.metrics == {"a": 1.0}


def test_a_run_goes_on_with_such_a_table_inline(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.event == "commit" and event.commit == 2:
            raise KeyboardInterrupt

    place = str(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        lambdaml.train(FromTable, place, workers=2, epochs=3, engine="inline", on_event=stop)
    assert lambdaml.resume(place, engine="inline").stop == "steps"


def test_within_an_event_loop_as_in_a_notebook_inline_trains() -> None:
    beats = []

    async def cell() -> lambdaml.TrainResult:
        loop = asyncio.get_running_loop()
        loop.call_soon(beats.append, "afterwards")
        return lambdaml.train(Case(), fresh(), workers=2, steps=4)

    assert asyncio.run(cell()).metrics["a"] == 1.0


def test_within_an_event_loop_an_error_of_the_job_and_ctrl_c_come_through(tmp_path: Path) -> None:
    class Broken(Case):
        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            raise ValueError("no")

    def stop(event: Event) -> None:
        if event.event == "commit":
            raise KeyboardInterrupt

    async def failing() -> None:
        lambdaml.train(Broken(), fresh(), workers=2, steps=4)

    async def interrupted() -> None:
        lambdaml.train(Case(), tmp_path.as_uri(), workers=2, steps=4000, engine="inline", on_event=stop)

    with pytest.raises(lambdaml.LambdaMLError, match="ValueError: no"):
        asyncio.run(failing())
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(interrupted())
    assert lambdaml.Run(tmp_path.as_uri()).status().state == "stopped"


def test_a_class_of_a_notebooks_cell_is_trained_inline_in_any_store(tmp_path: Path) -> None:
    cell = type("Cell", (Case,), {"__module__": "a notebook"})
    assert lambdaml.train(cell, str(tmp_path / "run"), workers=2, steps=4).metrics["a"] == 1.0


def test_free_places_that_are_held_at_once_are_different_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    together = threading.Barrier(8, timeout=60)

    def hold(_: int) -> str:
        together.wait()
        with free_place("my.py:Job") as place:
            open_store(place).put("kept", b"1")
            together.wait()
            return place

    with ThreadPoolExecutor(8) as threads:
        places = list(threads.map(hold, range(8)))
    assert sorted(places) == [f"{(tmp_path / 'runs').as_uri()}/job-{number}" for number in range(1, 9)]


def test_a_run_that_begins_while_another_one_does_takes_the_next_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    others: list[str] = []

    class Twin(Case):
        def dataset(self) -> Dataset[Any]:
            if not others:
                others.append("")
                others.append(lambdaml.train(type("Twin", (Case,), {})(), workers=2, steps=2, engine="inline").run)
            return super().dataset()

    first = lambdaml.train(Twin(), workers=2, steps=2, engine="inline").run
    assert (Path(first).name, Path(others[1]).name) == ("twin-1", "twin-2")

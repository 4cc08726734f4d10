"""`lambdaml logs`: what a job printed in the functions of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Trained

JOB = """
import logging, sys
import torch
from torch import nn
from torch.utils.data import TensorDataset
from lambdaml import Job


class Case(Job):
    batch_size = 4
    def model(self): return nn.Linear(1, 1)
    def dataset(self): return TensorDataset(torch.ones(16, 1))
    def optimizer(self, model): return torch.optim.SGD(model.parameters(), lr=0.05)

    def loss(self, model, batch):
        print("a rather long line", "of many words " * 10)
        print("\\x1b[31mred\\x1b[0m\\x07", file=sys.stderr)
        logging.getLogger("case").warning("two\\nlines")
        return model(batch[0]).mean()

    def evaluate(self, model):
        print("evaluated")
        return {}
"""


@pytest.fixture
def run(cli: Cli) -> str:
    Path("job.py").write_text(JOB)
    place = "here"
    options = ["--engine", "inline", "--workers", 2, "--functions", 2, "--steps", 3, "--store", place]
    assert cli("train", "job.py:Case", *options).code == 0
    return place


def test_each_line_has_the_worker_before_it_and_fits_the_terminal(cli: Cli, run: str) -> None:
    ended = cli("logs", run)
    assert ended.code == 0 and max(map(len, ended.out.splitlines())) <= 80
    heading, named, *lines = ended.out.splitlines()
    assert heading.split() == ["seconds", "function", "worker", "update"]
    assert named.startswith("function 0 is inline.")
    begun = [line.split(maxsplit=4) for line in lines if not line.startswith((" " * 20, "function"))]
    said = {(worker, update, text) for _, _, worker, update, text in begun}
    assert {(str(w), str(u), "WARNING case: two") for w in range(2) for u in range(3)} <= said
    assert ("1", "2", "red") in said and ("-", "-", "version 3: evaluated") in said
    assert "\x1b" not in ended.out


def test_one_workers_lines_can_be_asked_for(cli: Cli, run: str) -> None:
    assert {line["worker"] for line in cli("logs", run, "--worker", 1, "--json").json} == {1}
    ended = cli("logs", run, "--worker", 2)
    assert (ended.code, ended.err) == (2, "error: there is no worker 2: the run has workers 0 to 1\n")


def test_json_has_all_lines_whether_one_follows_or_not(cli: Cli, run: str) -> None:
    lines = cli("logs", run, "--json").json
    assert len(lines) == 2 * 3 * 3 + 2
    followed = cli("logs", run, "--json", "--follow").out.splitlines()
    assert [json.loads(line) for line in followed] == lines


def test_who_follows_a_run_that_has_ended_gets_what_there_is(cli: Cli, run: str) -> None:
    assert cli("logs", run, "--follow").out == cli("logs", run).out


def test_a_job_that_printed_nothing_is_said_to_have(cli: Cli, trained: Trained) -> None:
    assert cli("logs", trained.place).out == "no function has written that the job printed anything\n"

"""A job that raises in a worker: who computed what from which samples, and which lines of the job led there."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest

from lambdaml.engines.pipe import line_of
from lambdaml.engines.supervise import error_event, revive
from lambdaml.errors import JobFailed
from lambdaml.events import event_of
from tests.cli.conftest import Cli, Ended

JOB = """
import torch
from torch import nn
from torch.utils.data import Dataset
from lambdaml import Job


class Points(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        return torch.ones(4), torch.tensor(float(index))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 1)

    def forward(self, x, y):
        check(y)
        return self.out(x)


def check(y):
    if 13.0 in y:
        raise ValueError("an unlucky\\nnumber")


class Case(Job):
    batch_size = 4
    def model(self): return Net()
    def dataset(self): return Points()
    def optimizer(self, model): return torch.optim.SGD(model.parameters(), lr=0.05)

    def loss(self, model, batch):
        return model(*batch).mean()
"""


def test_a_crash_in_a_worker_names_update_worker_and_samples_and_shows_the_jobs_own_lines(cli: Cli) -> None:
    Path("job.py").write_text(JOB)
    ended = cli("train", "job.py:Case", "--engine", "inline", "--workers", 2, "--epochs", 2, "--store", "here")
    assert ended.code == 1
    first, *lines = said(ended)
    update, _, rest = first.removeprefix("error: update ").partition(" of worker ")
    worker, _, rest = rest.partition(" (samples ")
    samples, _, rest = rest.partition("): ")
    assert update.isdigit() and worker in ("0", "1") and 13 in map(int, samples.split(", "))
    assert rest == "Case.loss raised ValueError: an unlucky number"
    numbers = {text.strip(): number for number, text in enumerate(JOB.splitlines(), 1)}
    trail = (
        ("loss", "return model(*batch).mean()"),
        ("forward", "check(y)"),
        ("check", 'raise ValueError("an unlucky\\nnumber")'),
    )
    shown = [[f"  job.py:{numbers[text]} in {function}", f"    {text}"] for function, text in trail]
    assert lines == [*chain(*shown), "  'lambdaml logs here' shows what it printed"]


def said(ended: Ended) -> list[str]:
    """The error on one line, and the lines below it. All of them fit the terminal."""
    lines = ended.err.splitlines()
    assert lines[0].startswith("error: ") and max(map(len, lines)) <= 80
    start = next(number for number, line in enumerate(lines) if line.startswith("  job.py:"))
    return [" ".join(map(str.strip, lines[:start])), *lines[start:]]


def test_code_that_does_not_fit_the_terminal_is_cut(cli: Cli) -> None:
    Path("job.py").write_text(JOB.replace("        check(y)", f"        check(y)  # {'because ' * 20}"))
    ended = cli("train", "job.py:Case", "--engine", "inline", "--workers", 2, "--epochs", 2, "--store", "here")
    assert any(line.startswith("    check(y) # because") and line.endswith(" ...") for line in said(ended))


def test_the_crash_stands_in_the_logs_once_the_command_is_gone(cli: Cli) -> None:
    Path("job.py").write_text(JOB)
    crashed = cli("train", "job.py:Case", "--engine", "inline", "--workers", 2, "--epochs", 2, "--store", "here")
    logs = cli("logs", "here")
    assert logs.code == 0 and max(map(len, logs.out.splitlines())) <= 80
    for line in said(crashed)[1:-1]:
        assert line.strip() in logs.out
    assert "raised ValueError: an unlucky number" in " ".join(logs.out.split())


def test_the_whole_traceback_is_there_if_it_is_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("job.py").write_text(JOB)
    monkeypatch.setenv("LAMBDAML_TRACEBACK", "1")
    ended = cli("train", "job.py:Case", "--engine", "inline", "--workers", 2, "--epochs", 2, "--store", "here")
    assert "Traceback (most recent call last)" in ended.err and "_call_impl" in ended.err


def test_the_jobs_lines_come_through_from_other_processes() -> None:
    failed = JobFailed("loss raised ValueError: no (job.py:3)")
    failed.add_note("job.py:3 in loss: raise ValueError('no')")
    said = event_of(json.loads(line_of(error_event("host.1", failed.while_doing("update 3 of worker 1 (sample 7)")))))
    assert said is not None and said.event == "error"
    revived = revive(said)
    assert isinstance(revived, JobFailed)
    assert str(revived) == "update 3 of worker 1 (sample 7): loss raised ValueError: no (job.py:3)"
    assert revived.__notes__ == ["job.py:3 in loss: raise ValueError('no')"]

"""Nothing of the user's surroundings leaks in: files in the working folder, what a job prints, odd names of folders."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from lambdaml.cli._format import print_command, shown
from lambdaml.storage import open_store
from tests.cli.conftest import DIGITS, TIMEOUT_S, Cli
from tests.cost.profiles import digits

STANDARD = ("queue", "statistics", "socket", "selectors", "random")
"""Modules of the standard library that torch, we or `multiprocessing` import, when a process starts or later."""

NOISY = """
import atexit, os, subprocess
import torch
from torch import nn
from torch.utils.data import TensorDataset
from lambdaml import Job
import helper

print("imported")
os.write(1, b"from C\\n")
subprocess.run(["echo", "from a child"])
atexit.register(print, "at exit")


class Case(Job):
    def model(self): return nn.Linear(4, 1)
    def dataset(self): return TensorDataset(torch.ones(64, 4), torch.ones(64, 1))
    def optimizer(self, model): return torch.optim.SGD(model.parameters(), lr=0.05)

    def loss(self, model, batch):
        print("in a function")
        return (model(batch[0]) - batch[1]).pow(2).mean()

    def evaluate(self, model):
        print("evaluating")
        return {"a": helper.ONE}
"""

ODD = ("my run", "a#b", "100%25", "o'brien", 'say "hi"', "für", "12:30", "-dash", "~home", "a?b", "$HOME", "new\nline")
"""Names of folders."""


def traps(folder: Path) -> Path:
    """A folder with files that are named like modules of the standard library, and must not be imported."""
    folder.mkdir()
    for name in STANDARD:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the working folder was imported')\n")
    return folder


def lambdaml_in(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as it is installed: its own folder, and not the working folder, comes first."""
    command = [sys.executable, "-P", "-m", "lambdaml.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def test_a_folder_of_traps_and_a_job_that_prints_leave_json_alone_on_stdout(tmp_path: Path) -> None:
    place = tmp_path / "12:30 für #1, 100%25"
    place.mkdir()
    (place / "noisy.py").write_text(NOISY)
    here = traps(tmp_path / "here")
    (here / "helper.py").write_text("ONE = 1\n")  # from the working folder, where nothing else of that name is
    done = lambdaml_in(here, "train", f"../{place.name}/noisy.py:Case", "--workers", 2, "--steps", 4, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["stop"], result["metrics"]) == ("steps", {"a": 1.0})
    for said in ("imported", "from C", "from a child", "in a function", "evaluating", "at exit"):
        assert said in done.stderr.splitlines()


def test_planning_needs_no_main_guard_and_no_clean_folder(tmp_path: Path) -> None:
    here = traps(tmp_path / "here")
    digits().dump(here / "digits.profile.json")
    (tmp_path / "script.py").write_text(
        "import lambdaml\n"
        "print('here')\n"
        "space = lambdaml.SearchSpace(workers=(2, 16), schedules=('bsp', 'asp'), batch_sizes=(32,))\n"
        "profile = lambdaml.Profile.load('digits.profile.json')\n"
        "plan = lambdaml.plan(profile, epochs=1, space=space, processes=2)\n"
        "print(len(plan.candidates))\n"
    )
    command = [sys.executable, "../script.py"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"here\n\d+\n", done.stdout), done.stdout


@pytest.mark.parametrize("name", ODD)
def test_a_place_that_is_shown_is_the_place_when_it_is_pasted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = open_store("file://" + quote(f"{tmp_path}/{name}")).url
    (pasted,) = shlex.split(shown(url))
    assert open_store(pasted).url == url
    assert not pasted.startswith("-")
    if "?" not in name:
        assert open_store(f"./{name}").url == url


def test_the_commands_that_train_prints_work_when_they_are_pasted(cli: Cli) -> None:
    for place in ("runs/my run", "100%25 für #1"):
        ended = cli("train", DIGITS, "--engine", "inline", "--workers", 2, "--steps", 2, "--store", place)
        assert ended.code == 0, ended.err
        hints = dict(line.split("  ", 1) for line in ended.out.splitlines() if "  " in line)
        for hint in ("check it", "look at it"):
            program, *words = shlex.split(hints[hint])
            assert (program, cli(*words).code) == ("lambdaml", 0)
        assert cli("status", *shlex.split(hints["run"].strip())).code == 0


def test_a_job_in_a_folder_with_odd_characters_gets_a_place_that_can_be_typed(cli: Cli) -> None:
    folder = Path("12:30")
    folder.mkdir()
    (folder / "my job.py").write_text(Path(DIGITS.rpartition(":")[0]).read_text())
    job = "12:30/my job.py"
    for number in (1, 2):
        ended = cli("train", job, "--engine", "inline", "--workers", 2, "--steps", 2)
        assert ended.code == 0, ended.err
        assert f"lambdaml verify runs/my-job-{number}\n" in ended.out


def test_a_long_command_is_broken_so_that_a_shell_joins_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = ["lambdaml", "train", "my job.py:Job", *(word for n in range(12) for word in (f"--option-{n}", "a  b'c"))]
    print_command(shlex.join(words))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80 and len(text.splitlines()) > 2
    done = subprocess.run(
        ["bash", "-c", text.replace("lambdaml", "printf '%s\\0'", 1)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\0")[:-1] == words[1:]


def test_a_place_that_nothing_was_put_into_is_given_back(cli: Cli) -> None:
    assert cli("train", DIGITS, "--engine", "inline", "--schedule", "bps").code == 2
    assert not Path("runs").exists()
    os.mkdir("runs")
    assert cli("train", DIGITS, "--engine", "inline", "--schedule", "bps").code == 2
    assert os.listdir("runs") == []

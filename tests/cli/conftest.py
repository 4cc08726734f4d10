"""One trained run and one that was stopped, made once by the real command; and the command in this process."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from lambdaml.cli._app import run

DIGITS = f"{Path(__file__).resolve().parents[2] / 'examples' / 'digits.py'}:Digits"
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ended]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lambdaml.cli", *map(str, arguments)]


def lambdaml_process(*arguments: object) -> Ended:
    """The command in a process of its own."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """The command in this process, with a fresh working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAMBDAML_TRACEBACK", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LAMBDAML_PRICES", str(tmp_path / "no-prices.toml"))

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@dataclass(frozen=True)
class Trained:
    """A finished run, and what the command said of it."""

    place: Path
    ended: Ended


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    place = tmp_path_factory.mktemp("cli") / "digits"
    options = ["--steps", 12, "--snapshot-every", 6, "--schedule", "asp", "--set", "hidden=16"]
    ended = lambdaml_process("train", DIGITS, "--store", place, *options, "--json")
    assert ended.code == 0, ended.err
    return Trained(place, ended)


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """A run of 300 steps whose command got SIGINT after its first lines."""
    place = tmp_path_factory.mktemp("cli") / "stopped"
    process = subprocess.Popen(
        command("train", DIGITS, "--steps", 300, "--store", place, "--functions", 2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    watchdog = Timer(TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        seen = ""
        for line in process.stdout:
            seen += line
            if line.startswith("version"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    finally:
        watchdog.cancel()
    yield Trained(place, Ended(process.returncode, seen + out, err))

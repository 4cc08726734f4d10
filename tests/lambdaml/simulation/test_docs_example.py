"""docs/testing-a-schedule.md: its files exist as they stand, its programs print what it says, its commands work."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "testing-a-schedule.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:\n((?: {4}[^\n]*\n)+))?", PAGE, re.DOTALL)
FILES = {name[1]: code for code, _ in BLOCKS if (name := re.match(r'"""(\w+\.py):', code))}
PROGRAMS = [(code, re.sub(r"^ {4}", "", shown, flags=re.MULTILINE)) for code, shown in BLOCKS if "print(" in code]
TESTS = [code for code, _ in BLOCKS if "\ndef test_" in code]
COMMANDS = re.findall(r"^ {4}(lambdaml simulate .*)$", PAGE, re.MULTILINE)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files in it."""
    place = tmp_path_factory.mktemp("example")
    for name, code in FILES.items():
        (place / name).write_text(code)
    return place


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    wide = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=wide, capture_output=True, text=True, timeout=120, check=False)


def command(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-m", "lambdaml.cli", *shlex.split(line)[1:])


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


def test_the_page_has_all_that_is_tested_here() -> None:
    assert sorted(FILES) == ["careless.py", "gulp.py"]
    assert (len(PROGRAMS), len(TESTS), len(COMMANDS)) == (3, 1, 3)
    assert len(BLOCKS) == len(FILES) + len(PROGRAMS) + len(TESTS)


@pytest.mark.parametrize("number", range(3))
def test_a_program_of_the_page_prints_what_it_says(number: int, folder: Path) -> None:
    code, shown = PROGRAMS[number]
    done = run(folder, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert NUMBER.sub("#", done.stdout) == NUMBER.sub("#", shown), f"the page should say:\n{done.stdout}"
    assert numbers(done.stdout) == pytest.approx(numbers(shown), rel=0.1), f"the page should say:\n{done.stdout}"


def test_the_test_of_the_page_passes(folder: Path) -> None:
    (folder / "test_gulp.py").write_text(TESTS[0])
    done = run(folder, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_gulp.py")
    assert done.returncode == 0, done.stdout


def test_the_simulations_of_the_page_work(folder: Path) -> None:
    for line in COMMANDS[:2]:
        done = command(folder, line)
        assert done.returncode == 0, done.stderr
        assert "gulp:2" in done.stdout


def test_the_failing_seed_of_the_page_fails_as_it_says(folder: Path) -> None:
    done = command(folder, COMMANDS[2])
    assert (done.returncode, done.stderr) == (1, "")
    said = PAGE.split(COMMANDS[2])[1].split("\nIt exits")[0]
    lines = iter(done.stdout.splitlines())
    for line in said.splitlines():
        if line.strip() and line.strip() != "...":
            assert line[4:] in lines, f"the page should not say {line[4:]!r}, but:\n{done.stdout}"

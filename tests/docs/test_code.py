"""Every program of README and docs/ runs, and every command of theirs exists with its options."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from lambdaml.cli._app import app
from tests.docs.pages import PAGES, ROOT, blocks, session

GROUP: Any = typer.main.get_command(app)
ELSEWHERE = {"docs/testing-a-schedule.md": "tests/lambdaml/simulation/test_docs_example.py"}
SESSIONS = {page: code for page, text in PAGES.items() if page not in ELSEWHERE and (code := session(text))}
JOB = next(block for block in blocks(PAGES["README.md"]) if block.file == "my.py")
COMMANDS = [
    (f"{page}:{line + 1}", words)
    for page, text in PAGES.items()
    for block in blocks(text)
    for line, words in block.commands()
]
INLINE = sorted({(page, code) for page, text in PAGES.items() for code in re.findall(r"`lambdaml (\w[^`]*)`", text)})
OTHERS = re.compile(r"^(?: {4}|\$ )(make|python) ([^\n#]*)", re.MULTILINE)
TIMEOUT_S = 100


@pytest.mark.parametrize("page", SESSIONS)
def test_the_programs_of_a_page_run(page: str, tmp_path: Path) -> None:
    """The folder holds the repository's examples, and the job that README begins with."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for block in (JOB, *blocks(PAGES[page])):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
    (tmp_path / "page.py").write_text(SESSIONS[page])
    home = os.environ | {"LAMBDAML_HOME": str(tmp_path / "home")}
    command = [sys.executable, "page.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=home, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{page}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


def test_only_these_blocks_are_not_run() -> None:
    assert [(page, why) for page, text in PAGES.items() for block in blocks(text) if (why := block.not_run)] == [
        ("docs/concepts/events.md", "needs TensorBoard"),  # with stand-ins, tests/lambdaml/test_recipes.py runs these
        ("docs/concepts/events.md", "needs TensorBoard"),
        ("docs/concepts/events.md", "needs Weights & Biases"),
        ("docs/concepts/ray.md", "needs a bucket and a Ray cluster"),
    ]


def test_pages_that_are_left_out_have_a_test_of_their_own() -> None:
    assert [page for page, test in ELSEWHERE.items() if Path(page).name not in (ROOT / test).read_text()] == []


def test_there_is_no_program_in_another_language() -> None:
    kinds = {block.kind for text in PAGES.values() for block in blocks(text)}
    assert kinds == {"python", "sh", "mermaid", "indented", "hidden"}


def test_every_mark_is_one_that_is_understood() -> None:
    for page, text in PAGES.items():
        marks = re.findall(r"^<!-- (?:not )?run.*$", text, re.MULTILINE)
        understood = [block.mark for block in blocks(text) if block.mark]
        hidden = ["<!-- run" for block in blocks(text) if block.kind == "hidden"]
        assert sorted(marks) == sorted(understood + hidden), page


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=[place for place, _ in COMMANDS])
def test_a_command_parses(place: str, words: list[str]) -> None:
    verb, *arguments = words
    GROUP.commands[verb].make_context(verb, arguments)


@pytest.mark.parametrize(("page", "code"), INLINE)
def test_a_command_within_a_sentence_has_this_verb_and_these_options(page: str, code: str) -> None:
    verb, *arguments = shlex.split(code)
    known = {name for option in GROUP.commands[verb].params for name in (*option.opts, *option.secondary_opts)}
    assert {word.partition("=")[0] for word in arguments if word.startswith("--")} <= known


def test_words_of_make_and_scripts_of_python_exist() -> None:
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = [(page, *match) for page, text in PAGES.items() for match in OTHERS.findall(text)]
    assert len(found) > 50
    for page, program, rest in found:
        first, *arguments = shlex.split(rest)
        if program == "make":
            assert first in made, page
        elif first != "-m":
            source = (ROOT / first).read_text()
            options = [word for word in arguments if word.startswith("--")]
            assert [option for option in options if f'"{option}"' not in source] == [], (page, first)

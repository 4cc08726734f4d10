"""Docstrings are whole sentences, as far as a test can tell without knowing the language."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(
    path for folder in ("lambdaml", "storage", "cost", "deploy", "cli") for path in (ROOT / folder).rglob("*.py")
)

SUMMARY = re.compile(r"""[A-Z`\d].*[.:?!][)`"']*""")
"""A docstring's first paragraph begins as a sentence does, and ends as one does."""

ENTRY = re.compile(r"""(?!(?:Of|That|As|What|From|By|Likewise|So)\b)[A-Z`\d"'].*\.[)`"']*""")
"""An entry does the same, and does not begin with a word that shows that its subject was left out."""


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def public_docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the text of each docstring of a module and of its public classes, functions and methods."""
    pending: list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if text := ast.get_docstring(node):
            yield node.body[0].lineno, text
        if isinstance(node, ast.Module | ast.ClassDef):
            inner = [one for one in node.body if isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
            pending += [one for one in inner if not one.name.startswith("_")]


def entries(text: str) -> Iterator[str]:
    """The text of each entry below `Attributes:` and `Args:`, without its name and on one line."""
    for section in re.findall(r"^(?:Attributes|Args):\n((?: {4}.*\n?|\n)+)", text, re.MULTILINE):
        for entry in re.split(r"^ {4}(?=\S)", section, flags=re.MULTILINE)[1:]:
            yield " ".join(entry.partition(": ")[2].split())


def clipped(text: str) -> list[str]:
    """The parts of a docstring that break the rule."""
    summary = " ".join(text.partition("\n\n")[0].split())
    wrong = [] if SUMMARY.fullmatch(summary) else [summary]
    return wrong + [entry for entry in entries(text) if not ENTRY.fullmatch(entry)]


def test_docstrings_are_whole_sentences() -> None:
    found = {
        label(path): [f"line {line}: {part}" for line, text in public_docstrings(path) for part in clipped(text)]
        for path in SHIPPED
    }
    broken = {name: parts for name, parts in found.items() if parts}
    assert len(found) > 250
    assert broken == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Return the bill of a run.", []),
        ("`create` wins once: see `Store`.\n\nArgs:\n    keys: The keys,\n        in order.\n    q: 0 or 1.", []),
        ("what a run used.", ["what a run used."]),
        ("The bill of a run", ["The bill of a run"]),
        ("A run.\n\nAttributes:\n    steps: Of the run.\n    asked: As given.", ["Of the run.", "As given."]),
        ("A run.\n\nArgs:\n    url: the place.\n    at, to: Moments\n\nRaises:\n    E: no", ["the place.", "Moments"]),
    ],
)
def test_a_clipped_docstring_is_found(text: str, wrong: list[str]) -> None:
    assert clipped(text) == wrong

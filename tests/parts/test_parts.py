"""A new schedule, algorithm, codec, staleness rule, aggregate, tuner, partition, store and engine: one file of at most 100 lines each, and one registry line.

The conformance tests of each kind run on these files beside our own parts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PARTS = Path(__file__).parent
TESTS = PARTS.parent
CONFORMANCE = {
    "turns": "lambdaml/schedules",
    "proximal": "lambdaml/algorithms",
    "half": "lambdaml/codecs",
    "log": "lambdaml/staleness",
    "medoid": "lambdaml/aggregates",
    "ladder": "lambdaml/tuners",
    "stratified": "lambdaml/partitions",
    "sqlite": "storage",
    "threads": "lambdaml/engines",
}


def test_these_are_all_parts_here() -> None:
    assert {path.stem for path in PARTS.glob("*.py")} == {*CONFORMANCE, "test_parts"}


@pytest.mark.parametrize("part", CONFORMANCE)
def test_a_new_part_is_one_file_of_at_most_100_lines_with_one_line_that_registers_it(part: str) -> None:
    text = (PARTS / f"{part}.py").read_text()
    assert 10 < len(text.splitlines()) <= 100
    assert "tests." not in text and "monkeypatch" not in text, "it is as whole as one of ours"
    folder = TESTS / CONFORMANCE[part]
    lines = [
        line for path in folder.glob("*.py") for line in path.read_text().splitlines() if f"tests.parts.{part}" in line
    ]
    assert len(lines) == 1 and "setitem(" in lines[0]
    assert (folder / "test_conformance.py").is_file()


def test_the_conformance_tests_run_on_a_part_of_ones_own_and_find_its_mistake(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from lambdaml.codecs import CODECS\nfrom tests.parts.half import Half\n\n\n"
        "class Careless(Half):\n    def check(self, body, layout):\n        return ''\n\n\n"
        "CODECS.factories['careless'] = 'mine:Careless'\n"
    )
    suite = TESTS / CONFORMANCE["half"] / "test_conformance.py"
    options = "-q -n 0 -p no:cacheprovider -p mine --codec careless -k".split()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "type_is_refused or alias", suite],
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "test_a_body_of_another_shape_or_type_is_refused[careless]" in done.stdout

"""Naming a job, and what is said when that goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lambdaml.errors import JobError
from lambdaml.job import Job
from lambdaml.training.loading import load_job
from lambdaml.training.source import fingerprint, sources

ONE = """
import lambdaml

class Mine(lambdaml.Job):
    def __init__(self, lr=0.1):
        self.lr = lr

def make(lr=0.5):
    return Mine(lr)

ready = Mine(9.0)
number = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    import sys

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    (tmp_path / "mine.py").write_text(ONE)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def lr(job: Job) -> float:
    value: float = job.lr  # type: ignore[attr-defined]
    return value


def test_a_job_is_a_class_a_function_or_an_instance_in_a_file(folder: Path) -> None:
    assert lr(load_job("mine.py:Mine")) == 0.1
    assert lr(load_job("mine.py:Mine", {"lr": 2.0})) == 2.0
    assert lr(load_job("mine.py:make")) == 0.5
    assert lr(load_job("mine.py:ready")) == 9.0
    assert lr(load_job(f"{folder}/mine.py:Mine")) == 0.1


def test_a_files_only_job_needs_no_name(folder: Path) -> None:
    assert lr(load_job("mine.py")) == 0.1


def test_a_job_is_found_in_a_module_of_the_working_directory(folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "inner.py").write_text(ONE)
    assert lr(load_job("package.inner:Mine")) == 0.1


def test_a_job_may_import_what_stands_beside_it(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "beside_it.py").write_text("VALUE = 7.0\n")
    (folder / "deep" / "job.py").write_text(
        "import lambdaml\nfrom beside_it import VALUE\nclass Mine(lambdaml.Job):\n    lr = VALUE\n"
    )
    assert lr(load_job("deep/job.py")) == 7.0


def test_two_files_of_one_name_are_two_jobs(folder: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        (folder / name).mkdir()
        (folder / name / "job.py").write_text(f"import lambdaml\nclass Mine(lambdaml.Job):\n    lr = {value}\n")
    assert [lr(load_job(f"{name}/job.py:Mine")) for name in ("a", "b")] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none.py:Mine", "no file none.py"),
        ("mine.py:Mien", "no 'Mien' in mine.py.*'Mine'"),
        ("mine.py:number", "not a|number"),
        ("nowhere.at.all:Mine", "nowhere"),
        ("broken.py:Mine", "cannot import broken.py:Mine: SyntaxError"),
        ("raising.py:Mine", "cannot import raising.py:Mine: ZeroDivisionError"),
        ("exiting.py:Mine", "cannot import exiting.py:Mine"),
        ("two.py", "must name one job.*One, Two"),
        ("empty.py", "must name one job.*none"),
        ("nojob.py:Thing", "not a lambdaml.Job"),
        ("angry.py:Mine", "angry.py:Mine.*cannot be made"),
        ("mine.py:", "mine.py"),
    ],
)
def test_a_mistake_is_named_in_one_line(folder: Path, spec: str, message: str) -> None:
    head = "import lambdaml\n"
    (folder / "broken.py").write_text("def (\n")
    (folder / "raising.py").write_text("1 / 0\n")
    (folder / "exiting.py").write_text("raise SystemExit(3)\n")
    (folder / "two.py").write_text(head + "class One(lambdaml.Job): pass\nclass Two(lambdaml.Job): pass\n")
    (folder / "empty.py").write_text(head)
    (folder / "nojob.py").write_text("class Thing: pass\n")
    (folder / "angry.py").write_text(
        head + "class Mine(lambdaml.Job):\n    def __init__(self): raise RuntimeError('cannot be made')\n"
    )
    if spec == "mine.py:":
        assert lr(load_job(spec)) == 0.1
        return
    with pytest.raises(JobError, match=message) as caught:
        load_job(spec)
    assert "\n" not in str(caught.value)


def test_arguments_that_are_not_taken_are_named(folder: Path) -> None:
    with pytest.raises(JobError, match="speed"):
        load_job("mine.py:Mine", {"speed": 1})
    with pytest.raises(JobError, match="instance and takes no arguments"):
        load_job("mine.py:ready", {"lr": 1.0})


def test_a_file_that_failed_to_import_may_be_mended_and_tried_again(folder: Path) -> None:
    (folder / "later.py").write_text("1 / 0\n")
    with pytest.raises(JobError):
        load_job("later.py:Mine")
    (folder / "later.py").write_text(ONE)
    assert lr(load_job("later.py:Mine")) == 0.1


def test_the_fingerprint_is_of_the_source(folder: Path) -> None:
    first = fingerprint("mine.py:Mine")
    assert first == fingerprint(f"{folder}/mine.py:make")
    assert len(first) == 64
    (folder / "mine.py").write_text(ONE + "# changed\n")
    assert fingerprint("mine.py:Mine") != first


def test_the_fingerprint_of_what_does_not_exist_is_refused(folder: Path) -> None:
    for spec in ("none.py:Mine", "nowhere:Mine", "nowhere.at.all:Mine"):
        with pytest.raises(JobError):
            fingerprint(spec)


HELPED = "import lambdaml\nfrom helper import value\nclass Mine(lambdaml.Job):\n    lr = value\n"


def test_a_file_that_was_edited_is_loaded_anew_be_it_within_the_same_second(folder: Path) -> None:
    for value in (1, 2, 3):
        (folder / "mine.py").write_text(f"import lambdaml\nclass Mine(lambdaml.Job):\n    lr = {value}\n")
        assert lr(load_job("mine.py:Mine")) == value


def test_a_module_beside_the_file_that_was_edited_is_loaded_anew_and_changes_the_fingerprint(folder: Path) -> None:
    (folder / "mine.py").write_text(HELPED)
    seen = set()
    for value in (1, 2, 3):
        (folder / "helper.py").write_text(f"value = {value}\n")
        assert lr(load_job("mine.py:Mine")) == value
        seen.add(fingerprint("mine.py:Mine"))
    assert len(seen) == 3


def test_each_project_gets_its_own_helper(folder: Path) -> None:
    for number, name in enumerate(("a", "b")):
        (folder / name).mkdir()
        (folder / name / "job.py").write_text(HELPED)
        (folder / name / "helper.py").write_text(f"value = {number}\n")
    for _ in range(2):
        assert [lr(load_job(f"{name}/job.py:Mine")) for name in ("a", "b")] == [0, 1]


def test_what_is_hashed_is_the_file_and_all_below_its_folder_that_it_imports(folder: Path) -> None:
    (folder / "pkg" / "deep").mkdir(parents=True)
    texts = {
        "mine.py": "import pkg.deep.one\ndef later():\n    from other import x\nimport json, torch\n",
        "pkg/__init__.py": "",
        "pkg/deep/__init__.py": "from . import two\n",
        "pkg/deep/one.py": "from ..three import x\n",
        "pkg/deep/two.py": "",
        "pkg/three.py": "x = 1\n",
        "other.py": "x = 1\n",
        "unused.py": "",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    assert set(sources("mine.py:Mine")) == set(texts) - {"unused.py"}


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(folder: Path) -> None:
    for name in ("a", "deeper/b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "job.py").write_text(HELPED)
        (folder / name / "helper.py").write_text("value = 1\n")
    assert fingerprint("a/job.py") == fingerprint("deeper/b/job.py")


def test_a_path_may_hold_colons(folder: Path) -> None:
    (folder / "12:30").mkdir()
    (folder / "12:30" / "mine.py").write_text(ONE)
    assert lr(load_job("12:30/mine.py:Mine")) == lr(load_job("12:30/mine.py")) == 0.1


def test_a_script_that_fails_when_it_runs_for_the_second_time_is_told_of_the_guard(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that calls `ray.init()` and then trains."""
    (folder / "mine.py").write_text(ONE + "raise RuntimeError('Maybe you called ray.init twice by accident?')\n")
    with pytest.raises(JobError, match=r"^cannot import mine.py:Mine: RuntimeError: Maybe you called ray.init twice"):
        load_job("mine.py:Mine")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(folder / "mine.py"), raising=False)
    with pytest.raises(JobError, match=r"is the script that runs, so put .* if __name__ == '__main__': \(RuntimeError"):
        load_job("mine.py:Mine")


def test_a_script_that_trains_when_it_is_imported_is_refused(folder: Path) -> None:
    (folder / "mine.py").write_text(ONE + "lambdaml.train('mine.py:Mine', 'memory://x')\n")
    with pytest.raises(JobError, match="__main__"):
        load_job("mine.py:Mine")

"""docs/cli.md is what the commands say of themselves."""

from pathlib import Path

from lambdaml.cli._app import VERBS
from lambdaml.cli._errors import EXIT_CODES
from lambdaml.cli.reference import reference

CLI = Path(__file__).resolve().parents[2] / "cli"
PAGE = CLI.parent / "docs" / "cli.md"


def test_the_reference_is_up_to_date() -> None:
    assert PAGE.read_text() == reference(), "run `python -m lambdaml.cli.reference > docs/cli.md`"


def test_each_verb_has_a_file_and_is_documented() -> None:
    private = {"__init__", "__main__", "reference"}
    files = {path.stem for path in CLI.glob("*.py") if not path.stem.startswith("_")} - private
    assert {verb.__name__ for verb in VERBS} == files
    for verb in VERBS:
        assert f"## lambdaml {verb.__name__.replace('_', '-')}\n" in PAGE.read_text()


def test_each_option_and_exit_status_has_a_meaning() -> None:
    cells = [line.split(" | ") for line in reference().splitlines() if line.startswith("| ")]
    assert all(len(row[1].strip(" |")) > 3 for row in cells)
    assert {row[0].strip("| ") for row in cells} >= {str(code) for code in EXIT_CODES}

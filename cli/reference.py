"""Makes the reference of the command line from the commands themselves: `python -m lambdaml.cli.reference`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from lambdaml.cli._app import app
from lambdaml.cli._errors import EXIT_CODES

_OPENING = """\
# Command line

Made by `python -m lambdaml.cli.reference > docs/cli.md`; a test checks that it is up to date.

Results go to stdout. An error goes to stderr as one line. If the job caused it, it is broken to fit the terminal, and the
lines of the job that led to it follow. With `--json` or `--csv`, stdout holds JSON or CSV and nothing else, whatever a job prints, and progress
goes to stderr. Tables are at most as wide as the terminal, or 80 columns if there is none. `NO_COLOR` switches colours
off; `LAMBDAML_TRACEBACK=1` adds the traceback to an error.

A run is named by its URL or path. `moto://` and `memory://` stores end with the command, so `train` copies their runs
to the next free `./runs/<job>-<n>`, even when it fails or is interrupted. With `--json`, `run` is that place and
`store` is the store that was asked for.

Ctrl-C ends `train` and `resume` with status 130 within about two seconds, at any moment, and in good order: functions
publish what they have, and the last line says how to go on. The command does not wait for an evaluation, nor for
anything that takes longer than 1.5 s: functions that compute a long step leave by themselves when they have published
it, or are ended after 10 s. A second Ctrl-C quits at once. In both cases nothing that was committed is lost. SIGTERM
and SIGHUP (from a terminal that closes) do the same, with status 143 and 129; under `nohup`, SIGHUP is ignored.

If a store cannot be reached while a run goes on, the command waits for it for up to the run's patience of 10 minutes.
If it cannot be reached when the command begins, the command fails at once.
"""

_EXIT_NOTE = """
`train` and `resume` also end with 1 when the run was cancelled or ended without reaching its target."""


def reference() -> str:
    """Return the page, in Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    yield _OPENING
    yield "## Exit status"
    yield ""
    yield from _table(("status", "meaning"), ((str(code), meaning) for code, meaning in EXIT_CODES.items()))
    yield _EXIT_NOTE
    for name, command in group.commands.items():
        yield ""
        yield f"## lambdaml {name}"
        yield ""
        yield inspect.cleandoc(command.help)
        yield ""
        arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
        yield f"    lambdaml {name} {' '.join(argument.metavar for argument in arguments)} [options]"
        yield ""
        yield from _table(("argument", "meaning", "default"), (_row(parameter) for parameter in command.params))


def _row(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar}`", parameter.help, ""
    value = "" if parameter.is_flag else f" {parameter.metavar}"
    default = "" if parameter.is_flag or parameter.default is None else f"`{parameter.default}`"
    return f"`{', '.join(parameter.opts + parameter.secondary_opts)}{value}`", parameter.help, default


def _table(headings: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield "|" + "---|" * len(headings)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    print(reference(), end="")

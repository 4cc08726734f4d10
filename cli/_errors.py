"""The end of a command: every exception becomes an exit status and one line on stderr. One that came from the job fits
the terminal, and the lines of the job that led to it follow."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

import typer

from lambdaml.cli import _format
from lambdaml.cli._interrupt import INTERRUPTED
from lambdaml.errors import LambdaMLError

EXIT_CODES = {
    0: "success",
    1: "the run or the check failed",
    2: "a mistake in what was asked for",
    3: "no plan keeps the deadline and the budget",
    70: "a bug in lambdaml",
    129: "ended by SIGHUP, for example because the terminal closed",
    INTERRUPTED: "interrupted",
    143: "ended by SIGTERM",
}
"""The meaning of each exit status."""

BUG = 70

# Typer raises this class for every mistake in how a command is written, but exports only its subclass.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def guarded(command: Callable[[], int]) -> int:
    """Run a command and return its exit status, whatever happens in it."""
    try:
        code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Nobody reads any more. That is not worth a word, not even from the interpreter when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except LambdaMLError as error:
        return _complain(error, str(error), error.exit_code)
    except typer.Abort:
        print("error: nobody answered, so nothing was done", file=sys.stderr)
        return 2
    except _UsageError as error:
        print(f"error: {_usage(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        hint = "" if _wants_traceback() else " (set LAMBDAML_TRACEBACK=1 for the traceback)"
        return _complain(error, f"{type(error).__name__}: {error}{hint}", BUG)


def _usage(error: Exception) -> str:
    message: str = getattr(error, "format_message", error.__str__)()
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "lambdaml"
    return f"{_line(message)}\ntry '{where} --help'"


def _complain(error: Exception, message: str, code: int) -> int:
    if _wants_traceback():
        traceback.print_exception(error)
    notes = getattr(error, "__notes__", ())
    line = f"error: {_line(message)}"
    lines = _format.wrapped(_format.placeless(line), "  ") if notes else [line]
    for note in notes:
        lines += [f"  {line}" for line in _format.frame(_line(note), 2)]
    print("\n".join(lines), file=sys.stderr)
    return code


def _wants_traceback() -> bool:
    return bool(os.environ.get("LAMBDAML_TRACEBACK"))


def _line(message: str) -> str:
    return " ".join(message.split())

"""The verb `lambdaml replay`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from lambdaml.cli import _format, _options
from lambdaml.errors import UserError

Version = Annotated[
    int | None, typer.Option(metavar="V", help="The version, in optimizer steps; by default the last one of the log.")
]
_Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the model of that version to this file, as safetensors.")
]


_Of = Annotated[
    str | None,
    typer.Option(
        metavar="worker:K", help="The own model of a worker, if workers have some; by default the run's model."
    ),
]


_Since = Annotated[
    int | None,
    typer.Option(
        metavar="V", help="The mean of the models in all snapshots from version V on, in place of one version's."
    ),
]


def replay(run: _options.Run, version: Version = None, of: _Of = None, since: _Since = None, out: _Out = None) -> int:
    """Rebuild the model of any version from the log, bit for bit, and print its checksum."""
    from lambdaml.run import Run

    if since is not None and (version is not None or of is not None):
        raise UserError("--since is a mean over versions: leave out --version and --of")
    if since is not None:
        from lambdaml.training.trajectory import trajectory_mean

        state = trajectory_mean(Run(run), since)
    else:
        state = Run(run).replay(version, None if of is None else _worker(of))
    model = state.dump_model()
    if out is not None:
        try:
            out.write_bytes(model)
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror}") from error
    _format.print_pairs([("version", str(state.version)), ("sha256", hashlib.sha256(model).hexdigest())])
    return 0


def _worker(of: str) -> int:
    what, _, number = of.partition(":")
    if what != "worker" or not number.isdecimal():
        raise UserError(f"--of {of}: give it as in '--of worker:3'")
    return int(number)

"""The verb `lambdaml replay`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from lambdaml.cli import _options
from lambdaml.errors import UserError

Version = Annotated[
    int | None, typer.Option(metavar="V", help="The version, in optimizer steps; by default the last one of the log.")
]
_Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the model of that version to this file, as safetensors.")
]


def replay(run: _options.Run, version: Version = None, out: _Out = None) -> int:
    """Rebuild the model of any version from the log, bit for bit, and print its checksum."""
    from lambdaml.run import Run

    state = Run(run).replay(version)
    model = state.dump_model()
    if out is not None:
        try:
            out.write_bytes(model)
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror}") from error
    print(f"version {state.version}  sha256 {hashlib.sha256(model).hexdigest()}")
    return 0

"""The verb `lambdaml copy`."""

from __future__ import annotations

from typing import Annotated

import typer

from lambdaml.cli import _format, _options
from lambdaml.cli._progress import Share
from lambdaml.errors import RunFailed, UserError

_Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="The store to read: ray://name, s3://bucket/prefix, ./path ...")
]
_Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="The store to write to; objects that it already holds are left alone.")
]


def copy(source: _Source, target: _Target, as_json: _options.Json = False) -> int:
    """Copy a run, or whatever else a store holds, to another store, for example out of a Ray cluster before it ends.

    Nothing is overwritten, so a copy that was interrupted can be started again. A run may be copied while it goes on,
    but what it writes after the copy began may be missing. The exit status is 1 if the target holds other bytes at a
    key.
    """
    from lambdaml.storage import copy as copy_store
    from lambdaml.storage import open_store

    origin = open_store(source)
    try:
        total = sum(info.size_bytes for info in origin.list())
        read, size_bytes, held = 0, 0, 0
        with Share(f"copying {_format.size(total)}") as share:

            def tell(object_bytes: int, holds: bool) -> None:
                nonlocal read, size_bytes
                read, size_bytes = read + 1, size_bytes + object_bytes
                share(min(1.0, size_bytes / max(1, total)))

            goal = open_store(target)
            try:
                held = copy_store(origin, goal, tell=tell)
            finally:
                goal.close()
    finally:
        origin.close()
    if not read:
        hint = "; it began with this command (a Ray cluster that runs: ?address=auto)" if origin.ephemeral else ""
        raise UserError(f"there is nothing at {_format.shown(source)}{hint}")
    if as_json:
        _format.print_json({"objects": read, "bytes": size_bytes, "held": held, "source": source, "target": target})
    else:
        print(f"{held:,} of {read:,} objects, {_format.size(size_bytes)}, stand in {_format.shown(target)}")
    if held < read:
        raise RunFailed(f"other bytes stand at {read - held:,} keys of {_format.shown(target)}, and were left alone")
    return 0

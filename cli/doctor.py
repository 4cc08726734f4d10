"""The verb `lambdaml doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from lambdaml.cli import _format, _options

_Store = Annotated[
    str, typer.Argument(metavar="STORE", help="The store to examine: ./path, s3://bucket/prefix, moto://bucket ...")
]


def doctor(store: _Store, as_json: _options.Json = False) -> int:
    """Check whether a store gives the guarantees that runs need, and its speed, with some 500 requests on new keys."""
    from lambdaml.storage import examine, open_store

    opened = open_store(store)
    try:
        findings = examine(opened)
    finally:
        opened.close()
    if as_json:
        _format.print_json([asdict(finding) for finding in findings])
    else:
        rows = [(finding.name, "ok" if finding.ok else "BAD", finding.reason) for finding in findings]
        _format.print_table(["what", "ok", "finding"], rows, left=["what", "ok", "finding"])
    return 0 if all(finding.ok for finding in findings) else 1

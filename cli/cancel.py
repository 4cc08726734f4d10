"""The verb `lambdaml cancel`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lambdaml.cli import _format, _options

if TYPE_CHECKING:
    from lambdaml.log.status import Status
    from lambdaml.run import Run

_WAIT_S = 15.0
_LOOK_EVERY_S = 0.5


def cancel(run: _options.Run) -> int:
    """End a run for good: its functions stop, and it cannot be resumed. Everything that was committed stays."""
    from lambdaml.run import Run

    found = Run(run)
    before = found.status()
    if before.state not in ("running", "stopped"):
        print(f"the run had ended already: {before.state} at version {before.version}")
        return 0
    found.cancel()
    if before.state == "stopped":
        print(f"cancelled at version {before.version}; no function was working on it")
        return 0
    after = _wait(found)
    if after.state == "running":
        holders = ", ".join(after.functions)
        print(f"the run was asked to end, but after {_WAIT_S:.0f} s it has not: {holders} may be dead or far behind")
        print(f"look again with: lambdaml status {_format.shown(found.url)}")
        return 1
    print(f"{after.state} at version {after.version}")
    return 0


def _wait(run: Run) -> Status:
    """Wait until the log shows the end, or for `_WAIT_S`; return the status then."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        status = run.status()
        if status.state != "running" or time.monotonic() > deadline:
            return status
        time.sleep(_LOOK_EVERY_S)

"""This module finds the lines of the user's own code that an exception came through, to show them to people. It leaves
out the lines of torch, of Python and of lambdaml."""

from __future__ import annotations

import linecache
import os
import sysconfig
import traceback
from pathlib import Path

_SHOWN = 5
"""At most this many lines are shown; if there are more, those nearest to where the exception was raised."""

_OURS = str(Path(__file__).parents[1])
_OTHERS = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def own_frames(error: BaseException) -> list[str]:
    """Return a line such as `my.py:31 in loss: x = self.encode(batch)` for each frame of the user's code, the outermost
    first."""
    found = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = frame.f_code.co_filename
        if path.startswith((_OURS + os.sep, "<frozen ", *(f"{folder}{os.sep}" for folder in _OTHERS))):
            continue
        if "site-packages" in path or "dist-packages" in path:
            continue
        text = linecache.getline(path, line, frame.f_globals).strip()
        found.append(f"{_shown(path)}:{line} in {frame.f_code.co_name}{f': {text}' if text else ''}")
    return found[-_SHOWN:]


def _shown(path: str) -> str:
    here = f"{Path.cwd()}{os.sep}"
    return path.removeprefix(here)

"""Which lines of the user's own code an exception came through, for people: not those of torch, of Python or of ours."""

from __future__ import annotations

import linecache
import os
import sysconfig
import traceback
from pathlib import Path

_SHOWN = 5
"""Lines that are shown; of more, those next to where it was raised."""

_OURS = str(Path(__file__).parents[1])
_OTHERS = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def own_frames(error: BaseException) -> list[str]:
    """`my.py:31 in loss: x = self.encode(batch)` for each, the outermost first; none where all of it is others' code."""
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

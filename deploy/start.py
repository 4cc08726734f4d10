"""The first thing that a process of the handler does: it chooses its arithmetic, before any library has computed.

Attributes:
    LOADED: The time at which this process began, as far as it can tell, by `time.monotonic`.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from lambdaml.training.numerics import ONE_CORE, environment

LOADED = time.monotonic()
with suppress(OSError, ValueError, IndexError, AttributeError):  # where there is no /proc
    _ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    LOADED -= max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - _ticks / os.sysconf("SC_CLK_TCK"))

for _name, _value in {**ONE_CORE, **environment("reproducible")}.items():
    os.environ.setdefault(_name, _value)

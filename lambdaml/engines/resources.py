"""This module measures the machine: the cores and the memory that this process's container may use.

psutil tells what the whole machine has. A container's limits are in the files of its control group: version 2 has one
tree of groups, version 1 has one for each kind of resource. A group's limit applies to all groups below it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")

_NO_LIMIT_BYTES = 2**60
"""Version 1 writes a number greater than this one if memory has no limit."""


def cores() -> int:
    """Return how many cores this process may use by its affinity and its container's CPU share; at least 1."""
    import psutil

    count = float(psutil.cpu_count() or 1)
    with suppress(AttributeError):  # macOS has no affinity
        count = min(count, len(os.sched_getaffinity(0)))
    for group in _own_groups("cpu"):
        with suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text().split()
            count = min(count, float(quota) / float(period))
        with suppress(OSError, ValueError):
            quota_us, period_us = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            count = min(count, quota_us / period_us if quota_us > 0 else math.inf)
    return max(1, math.ceil(count))


def memory_bytes() -> int:
    """Return all memory that this process may use, whether it is free or not."""
    import psutil

    limits = [limit for group in _own_groups("memory") if (limit := _limit_bytes(group)) is not None]
    return min(int(psutil.virtual_memory().total), *limits, _NO_LIMIT_BYTES)


def free_memory_bytes() -> int:
    """Return the memory that this process can still get, including what the system would free for it."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for group in _own_groups("memory"):
        limit = _limit_bytes(group)
        if limit is not None:
            with suppress(OSError, ValueError):
                free = min(free, max(0, limit - _used_bytes(group)))
    return free


def _own_groups(resource: str) -> Iterator[Path]:
    """Yield the folders of this process's groups, the innermost first, up to the root that the container sees."""
    with suppress(OSError, ValueError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, resources, path = line.split(":", 2)
            if resources and resource not in resources.split(","):
                continue
            root = GROUPS / resource if resources else GROUPS
            inner = root / path.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _limit_bytes(group: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limit = int((group / name).read_text())
            return limit if limit < _NO_LIMIT_BYTES else None
    return None


def _used_bytes(group: Path) -> int:
    """Return the memory that the group uses, without cached files that the system would drop."""
    names = ("memory.current", "memory.usage_in_bytes")
    used = next(int((group / name).read_text()) for name in names if (group / name).is_file())
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return used - int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)

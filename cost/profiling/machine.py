"""What machine this is, in the numbers that decide how fast a step is."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from lambdaml.cost.profiling.profile import MachineFacts
from lambdaml.training.asked import versions

_SIZE = 512


def this_machine(device: str = "cpu") -> MachineFacts:
    """Takes some hundredths of a second; use it where tensor work is done."""
    return MachineFacts(
        architecture=platform.machine(),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        gflops=round(gflops(), 1),
        device=device,
        versions=versions(),
    )


def gflops() -> float:
    """Of this thread, multiplying float32 matrices of 512 x 512; the best of a few."""
    import torch

    matrix, best = torch.ones(_SIZE, _SIZE), float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        torch.mm(matrix, matrix)
        best = min(best, time.perf_counter() - begun)
    return 2 * _SIZE**3 / best / 1e9


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()

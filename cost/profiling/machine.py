"""The facts about this machine that decide how fast a step is."""

from __future__ import annotations

import platform
import time
from contextlib import suppress
from pathlib import Path

from lambdaml.cost.profiling.facts import MachineFacts
from lambdaml.engines.resources import cores, memory_bytes
from lambdaml.training.asked import versions

_SIZE = 512
"""The rows and columns of the matrices."""


def this_machine(device: str = "cpu") -> MachineFacts:
    """Measure this machine. Call this in the thread of tensor work, since it multiplies matrices for a moment."""
    return MachineFacts(
        architecture=platform.machine(),
        processor=_processor(),
        cores=cores(),
        memory_mb=memory_bytes() // 2**20,
        gflops=round(gflops(), 1),
        device=device,
        versions=versions(),
    )


def gflops() -> float:
    """Return this thread's Gflop/s when multiplying float32 matrices of 512 x 512, the best of a few trials."""
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

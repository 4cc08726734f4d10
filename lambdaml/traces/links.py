"""The links of a run's workers to its store, as its trace has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any


def measured_links(rows: Iterable[Mapping[str, Any]], workers: int) -> list[float]:
    """Return the median seconds that each worker's transfers took: the upload of an update, and the longest download before
    the next.

    Args:
        rows: The trace, as `lambdaml.Run.trace` returns it.

    Raises:
        ValueError: If a worker has no row with both.
    """
    found: dict[int, list[float]] = {worker: [] for worker in range(workers)}
    for row in rows:
        if row.get("upload_s") is not None and row.get("download_s") is not None:
            found[row["worker"]].append(row["upload_s"] + row["download_s"])
    for worker, seconds in found.items():
        if not seconds:
            raise ValueError(f"the trace does not say how long a transfer of worker {worker} took")
    return [median(seconds) for seconds in found.values()]

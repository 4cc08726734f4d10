"""Reports: what the header of an update says of its worker's latest rounds, in a run whose workers have models of their own.

Nobody there reads all updates. So whoever writes the log reads one header of each worker, without the model that follows
it, and learns from it what became of several rounds. A header has no checksum of its own, and so the reports have one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lambdaml.errors import BadObject
from lambdaml.log.members import demand_type, read_batches
from lambdaml.log.wire import canonical, header_of


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One round of a worker.

    Attributes:
        seq: The number of the round, and of the worker's update in it.
        generation: The fencing token of the update.
        samples: The number of samples that it used.
        loss: The mean loss of its batches.
        batches: The first of its batches and their number.
        fault: The reason for which it is rejected, or "".
        base: The digest of the model that it was computed from.
    """

    seq: int
    generation: int
    samples: int
    loss: float
    batches: tuple[int, int] | None = None
    fault: str = ""
    base: str = ""


def dump_reports(worker: int, reports: Sequence[RoundReport]) -> dict[str, Any]:
    """Return the member of a header that holds these reports."""
    rows = [
        [
            *(each.seq, each.generation, each.samples, each.loss if math.isfinite(each.loss) else None),
            *(None if each.batches is None else list(each.batches), each.fault, each.base),
        ]
        for each in reports
    ]
    return {"rows": rows, "crc32": _checksum(worker, rows)}


def load_reports(worker: int, member: Any) -> tuple[RoundReport, ...]:
    """Return the reports that a header holds, in order; none if it has no such member.

    Raises:
        TypeError, ValueError, KeyError: If it holds something else, or they were damaged.
    """
    if member is None:
        return ()
    rows = member["rows"]
    if member["crc32"] != _checksum(worker, rows):
        raise ValueError("its reports do not match their checksum")
    reports = []
    for seq, generation, samples, loss, batches, fault, base in rows:
        loss = math.nan if loss is None else loss
        report = RoundReport(seq, generation, samples, loss, read_batches(batches), fault, base)
        demand_type(report, int, "seq", "generation", "samples")
        demand_type(report, float, "loss")
        demand_type(report, str, "fault", "base")
        reports.append(report)
    return tuple(reports)


def reports_of(header: Mapping[str, Any], key: str, worker: int) -> tuple[RoundReport, ...]:
    """Return the reports in the header of an update.

    Raises:
        BadObject: If there are none, or they were damaged.
    """
    try:
        found = load_reports(worker, header.get("reports"))
    except (TypeError, ValueError, KeyError) as error:
        raise BadObject(f"{key} has a header that is not an update's: {error}") from error
    if not found:
        raise BadObject(f"{key} does not report on its worker's rounds")
    return found


def header_reports(data: bytes | memoryview, key: str, worker: int) -> tuple[tuple[RoundReport, ...], int]:
    """Return the reports at the beginning of an update's object, or the number of bytes that hold its whole header, if
    more of them must be read.

    Raises:
        BadObject: If it is no update, or was damaged.
    """
    header, size_bytes = header_of(data, key)
    return ((), size_bytes) if header is None else (reports_of(header, key, worker), size_bytes)


def _checksum(worker: int, rows: Any) -> str:
    return f"{zlib.crc32(canonical([worker, rows])):08x}"

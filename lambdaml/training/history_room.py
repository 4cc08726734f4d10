"""How often snapshots are taken, how much history a run keeps, and warnings about runs that keep too much."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from lambdaml.algorithms import ALGORITHMS
from lambdaml.codecs import Layout
from lambdaml.errors import SettingsError
from lambdaml.log.extra import EXTRAS
from lambdaml.log.retention import ROUNDS_UNDER_WAY, least_rounds
from lambdaml.settings import Settings

MAX_SNAPSHOT_EVERY = 500
INTERVAL_BYTES, LEAST_SNAPSHOT_EVERY = 2**29, 4
"""By default a snapshot is taken before the end of an epoch if the epoch's updates have more bytes than the former, but
not before each worker has made as many updates as the latter says."""

KEEP_BYTES, KEEP_SHARE = 2**31, 0.1
"""By default a run keeps this many bytes of history, or this share of the free disk if that is less. If four intervals
between snapshots have more bytes, it keeps those, but never more than half of the free disk."""

BYTES_PER_PARAMETER = 4
"""An update is assumed to take this many bytes per parameter until one has been made."""

MUCH_BYTES, USD_PER_GB_MONTH = 100e9, 0.023
"""A run is warned about if its history in a bucket may have more bytes than the former. The latter is the price of S3
Standard in us-east-1 in November 2026."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def default_interval(per_epoch: int, workers: int, parameters: int, keep_rounds: int | None = None) -> int:
    """Return the number of updates of each worker between snapshots: an epoch, or less if an epoch is large or the run
    keeps few rounds. Then it is as long as they allow, so that there are never more than three snapshots."""
    of_bytes = INTERVAL_BYTES // max(1, BYTES_PER_PARAMETER * parameters * workers)
    of_rounds = MAX_SNAPSHOT_EVERY if keep_rounds is None else max(1, (keep_rounds - ROUNDS_UNDER_WAY) // 2)
    return min(per_epoch, MAX_SNAPSHOT_EVERY, max(LEAST_SNAPSHOT_EVERY, of_bytes), of_rounds)


def rounds_of(keep: str | int | None) -> int | None:
    """Return the number of rounds that the option names; None if it names none. Bytes have a unit, and rounds have not."""
    return int(keep) if keep is not None and re.fullmatch(r"\d+", str(keep)) else None


def history_bound(
    keep: str | int | None, free_bytes: int | None, snapshot_every: int, round_bytes: int
) -> dict[str, int | None]:
    """Return the settings that bound a run's history: `keep_rounds` and `keep_bytes`, of which at most one is not None.

    Args:
        keep: The option: `all`, a number of rounds, a size such as `500M`, or None.
        free_bytes: The space that is left in the store, if that is known.
        snapshot_every: The number of rounds between two snapshots.
        round_bytes: The size of a round's updates.

    Raises:
        SettingsError: If `keep` is none of these, or too little for this run.
    """
    bound: dict[str, int | None] = {"keep_rounds": rounds_of(keep), "keep_bytes": None}
    interval_bytes, rounds = round_bytes * snapshot_every, bound["keep_rounds"]
    remedy = "take snapshots more often with snapshot_every, or keep more"
    if keep == "all":
        return bound
    if keep is None:
        free = math.inf if free_bytes is None else free_bytes
        size = max(min(KEEP_BYTES, KEEP_SHARE * free), min(4 * interval_bytes, free / 2), 1)
        return bound | {"keep_bytes": round(size)}
    if rounds:
        if rounds < least_rounds(snapshot_every):
            raise SettingsError(
                f"keep: {rounds} rounds are fewer than the {least_rounds(snapshot_every)} that two snapshots, with "
                f"{snapshot_every} rounds between them, and a lease need: {remedy}"
            )
        return bound
    size = bytes_of(str(keep)) if re.search(r"[a-z]$", str(keep), re.IGNORECASE) else 0.0
    if size < 1:
        raise SettingsError(f"keep: 'all', a number of rounds such as 16, or a size such as 500M (it is {keep!r})")
    if size < 2 * interval_bytes:
        raise SettingsError(
            f"keep: {keep} is less than the updates of two snapshots ({2 * interval_bytes:,} bytes): {remedy}"
        )
    return bound | {"keep_bytes": int(size)}


def bytes_of(text: str) -> float:
    """Convert a size such as `500M` or `2 GB` to bytes, by powers of 1024; return 0 for text that is no size."""
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    try:
        return float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    except ValueError:
        return 0.0


def extra_bytes(settings: Settings, layout: Layout) -> int:
    """Return the size of an update's extra object, of a client with as many samples as the mean; 0 if there is none.

    Args:
        layout: The layout of a gradient.
    """
    if settings.extra is None:
        return 0
    steps = ALGORITHMS.make(settings.algorithm).batches(settings.steps_per_epoch)
    return EXTRAS.make(settings.extra).size_bytes(steps, -(-settings.samples // settings.sharers), layout)


def warnings_of_room(settings: Settings, free_bytes: int | None) -> Iterator[str]:
    """Yield a warning about a run whose history will not fit, or will be expensive to keep."""
    round_bytes = BYTES_PER_PARAMETER * settings.parameters * settings.workers
    history = round_bytes * min(settings.steps, settings.rounds_kept(round_bytes))
    if settings.extra is not None:  # a pin keeps all
        one = extra_bytes(settings, Layout.flat(settings.parameters))
        history = (round_bytes + settings.workers * one) * settings.steps
    if free_bytes is not None and history > free_bytes:
        yield (
            f"the run's history may take {history / 1e9:,.1f} GB, and {free_bytes / 1e9:,.1f} GB are free: keep less, or "
            "take fewer steps. A run that fills the disk stops, and can be resumed"
        )
    if free_bytes is None and history > MUCH_BYTES:
        usd = history / 1e9 * USD_PER_GB_MONTH
        yield f"the run's history may take {history / 1e9:,.0f} GB: at S3's price {usd:,.0f} USD a month, or keep less"

"""These texts describe updates that the log rejected, or that could not be computed: which, from which samples, and
why."""

from __future__ import annotations

from collections.abc import Sequence

from lambdaml.log.records import Entry
from lambdaml.settings import Settings
from lambdaml.training.sampling import Sampler, sampler_without_data

_SHOWN = 8
"""A text names at most this many sample numbers."""


def describe(entry: Entry, sampler: Sampler | None) -> str:
    """Describe a refused update, as in `update 3 of worker 0 (samples 40, 12): loss is not finite`. Its samples are not named
    without a sampler."""
    return f"{describe_update(entry.worker, entry.seq, sampler)}: {entry.reason}"


def describe_update(worker: int, seq: int, sampler: Sampler | None) -> str:
    """Describe an update, as in `update 3 of worker 0 (samples 40, 12)`."""
    text = f"update {seq} of worker {worker}"
    return text if sampler is None else f"{text} ({_samples(sorted(_numbers(worker, seq, sampler)))})"


def summarise(entries: Sequence[Entry], settings: Settings) -> str:
    """Describe all of them in a sentence: their number, the reasons, the first one, and the samples that each of
    several was computed from."""
    sampler = sampler_without_data(settings)
    reasons = "; ".join(sorted({entry.reason for entry in entries}))
    said = f"{len(entries)} rejected ({reasons}), the first: {describe(entries[0], sampler)}"
    common = _numbers(entries[0].worker, entries[0].seq, sampler)
    for entry in entries[1:]:
        common &= _numbers(entry.worker, entry.seq, sampler)
    if len(entries) > 1 and common:
        said += f"; each of them was computed from {_samples(sorted(common))}, among others"
    workers = {entry.worker for entry in entries}
    if len(entries) > 1 and len(workers) == 1 and settings.workers > 1:
        said += f"; all are worker {workers.pop()}'s"
    return said


def _numbers(worker: int, seq: int, sampler: Sampler | None) -> set[int]:
    return set() if sampler is None else set(sampler.indices(sampler.share(worker, seq).number, seq).tolist())


def _samples(numbers: list[int]) -> str:
    named = ", ".join(map(str, numbers[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"sample{'s' if len(numbers) > 1 else ''} {named}{more}"

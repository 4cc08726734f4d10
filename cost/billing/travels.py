"""The part of a bill that travelling models took, in a run with a tuner (`lambdaml.log.tuning`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from lambdaml.cost.billing.attribution import PhaseCost
from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.log.travel import travel_bytes
from lambdaml.storage import ObjectInfo


def travel_cost(run: RunReader, objects: Iterable[ObjectInfo]) -> PhaseCost | None:
    """Return what travelling models took, as far as the log tells of them; None if the run is not tuned.

    Each was created once and read once by each worker. What a function that died did twice is not in it; nor are the
    seconds in which models were judged, which are in the phase `other`.

    Args:
        objects: The run's objects. If some travelling models still stand there, all had the size of the largest.
    """
    if run.settings.tune is None:
        return None
    trips = sum(commit.tuned is not None and commit.tuned.state is not None for commit in run.log())
    standing = (info.size_bytes for info in objects if info.key.startswith(keys.TRAVEL))
    size_bytes, gets = max(standing, default=travel_bytes(run.settings.parameters)), trips * run.settings.workers
    requests = defaultdict(int, {"create": trips, "get": gets})
    return PhaseCost(gets, 0.0, requests, trips * size_bytes, gets * size_bytes)

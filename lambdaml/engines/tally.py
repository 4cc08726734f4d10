"""Counts what a run has spent by what its bucket holds, for functions that keep the cap of a launch.

Whoever started them may be gone (`lambdaml.engines.lambda_engine`). A function that has ended wrote what it used. One that
has not is known up to the last part of its trace, or up to the moment in which its life was claimed. The seconds since
then count, too, but no more of them than a living function stays silent, and requests at the latest rate of
the function that counts.
"""

from __future__ import annotations

import math

from lambdaml.engines.accounts import total
from lambdaml.engines.caps import Spent, portion_of
from lambdaml.log import keys
from lambdaml.log.launches import Launch, life_of, prefix_of
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import read_many
from lambdaml.log.trace_parts import meter_reading, unpack_rows
from lambdaml.log.usage import Usage
from lambdaml.storage import MeterReading, Store
from lambdaml.worker.tracing import FLUSH_S


class Tally:
    """The account of a run, whose newest launch is this one.

    Args:
        store: The run's bucket.
        launch: The launch.
    """

    def __init__(self, store: Store, launch: Launch) -> None:
        run = RunReader(store)
        self._store = store
        self._launch = launch
        self._prefix = prefix_of(launch.token)
        self._began = launch.began()
        self._silent_s = max(FLUSH_S, run.settings.lease_s)
        self._ended = {each.function: each for each in run.usage() if not each.function.startswith(self._prefix)}

    def if_stopped(self, now: float, ahead_s: float, lately: MeterReading, lately_s: float) -> Spent:
        """Return what the run will have spent if its functions go on for some seconds more.

        Args:
            now: The time, by the store's clock.
            ahead_s: The seconds that each function goes on.
            lately, lately_s: The latest requests of the function that counts, and the seconds in which it made them.
        """
        self._look_for_ends()
        told = self._told(now)
        known = [*self._ended.values(), *(each for each, _ in told)]
        shown = {life_of(each.function) for each in known if each.function.startswith(self._prefix)}
        starting = [at for life, at in self._launch.claimed().items() if life not in shown]
        silences_s = [*(silent_s for _, silent_s in told), *(now - at for at in starting)]
        more_s = [silent_s + ahead_s if silent_s < self._silent_s else self._silent_s for silent_s in silences_s]
        ended_s = [each.seconds for each in self._ended.values() if not each.launcher]
        told_s = [each.seconds for each, _ in told] + [0.0] * len(starting)
        seconds = now - self._began + ahead_s
        return Spent(
            seconds,
            math.fsum(each.seconds for each in known if each.launcher) + seconds,
            (*ended_s, *(so_far + more for so_far, more in zip(told_s, more_s, strict=True))),
            total(known) + portion_of(lately, math.fsum(more_s) / lately_s),
            commits=0,
        )

    def _look_for_ends(self) -> None:
        listed = (info.key for info in self._store.list(keys.USAGE))
        fresh = [key for key in listed if key.removeprefix(keys.USAGE).removesuffix(".json") not in self._ended]
        for usage in read_many(self._store, fresh, Usage.read):
            if usage is not None:
                self._ended[usage.function] = usage

    def _told(self, now: float) -> list[tuple[Usage, float]]:
        """Return what functions that have not ended have told, each with the seconds since then."""
        parts = {info.key.split("/")[1]: info for info in self._store.list(keys.TRACE + self._prefix)}
        latest = [(name, info) for name, info in parts.items() if name not in self._ended]
        found = read_many(self._store, [info.key for _, info in latest], unpack_rows)
        told = []
        for (name, info), rows in zip(latest, found, strict=True):
            for row in [row for row in rows or () if row["kind"] == "meter"][-1:]:
                usage = Usage(name, row["seconds"], 0, meter_reading(row), complete=False)
                told.append((usage, now - info.modified))
        return told

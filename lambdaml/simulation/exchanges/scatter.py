"""Scatter in closed form: each slice of the updates is added up by one function; see `lambdaml.patterns.scatter`.

Up to `READERS` slices and up to as many readers of their sums are followed. If there are more, the other slices have the
times of some of these, which are drawn for each round, and so have the other functions: they differ in nothing but their
own updates. No update is rejected, so there is one attempt. A slice is added up as a whole when all of it has arrived, even
if that does not fit into a function's window.
"""

from __future__ import annotations

import numpy as np

from lambdaml.log import keys
from lambdaml.simulation.draws import Floats
from lambdaml.simulation.exchanges import READERS, Published
from lambdaml.simulation.network import Network, in_order
from lambdaml.simulation.scenario import CatchUp, Scenario
from lambdaml.simulation.watch import Watch
from lambdaml.worker.poll_timer import OWN_UPDATE_FIRST_S


class ScatterRounds:
    """The exchange in rounds.

    Args:
        scenario: The run's input and its counts.
        latency_s: For each function, the latency that it measured at its start, in seconds.
        uploads: The networks of functions towards the store.
        slices: The number of slices; 0 for one for each worker.
    """

    updates_added = 0

    def __init__(self, scenario: Scenario, latency_s: Floats, uploads: Network, slices: int = 0) -> None:
        workers, functions = scenario.settings.workers, scenario.functions
        self._scenario, self._uploads, self._count = scenario, uploads, slices or workers
        self._downloads = Network(functions, scenario.bytes_per_s, scenario.connection_bytes_per_s)
        self._latency_s, self._warm = latency_s.copy(), False
        self._host = np.arange(workers) % functions
        self._reducer = np.arange(self._count) * workers // self._count % functions
        followed = self._reducer[:READERS]
        self._followed = np.argsort(followed, kind="stable")  # slices, in the order of the functions that add them up
        self._adder = followed[self._followed]
        self._share = self._count / followed.size
        self._place, self._update = np.nonzero(self._host != self._adder[:, None])
        self._slices = Watch(scenario, self._adder[self._place], self._latency_s, self._share, together=True)
        self._readers = min(functions, READERS)
        self._reader, self._piece = np.nonzero(self._reducer != np.arange(self._readers)[:, None])
        self._pieces = Watch(scenario, self._reader, self._latency_s, functions / self._readers, together=True)
        self._uploads_s: Floats | None = None
        self._slice_bytes = scenario.update_bytes / self._count
        self._piece_bytes = scenario.size_bytes[keys.REDUCED] + scenario.row_bytes * workers / self._count

    def decided(self, published: Published) -> Floats:
        """Return when each function has the sums of all slices."""
        scenario, functions, before = self._scenario, self._scenario.functions, self._uploads_s
        arrived = self._read_slices(published)
        add_s = scenario.costs.apply_update_s * arrived.shape[1] / self._count * scenario.factors()[self._adder]
        scenario.counted.busy_s += float(add_s.sum()) * self._share
        made = in_order(self._adder, arrived.max(axis=1), add_s, published.core_s.copy())
        sent = self._uploads.moved(self._adder, made, self._piece_bytes)
        half_s = scenario.writes.many(made.size) / 2
        stands = scenario.write_limit.serve(sent + half_s, self._share)
        self._uploads_s = stands + half_s - made
        decided = self._read_pieces(published.own_s, stands, half_s)
        if before is not None:
            waited = made[:, None] - arrived + before[:, None]
            held = [waited[:, self._host == reader].min(axis=1).max() for reader in range(self._readers)]
            self._pieces.said((np.array(held) + self._latency_s[: self._readers])[self._reader])
        if functions > self._readers:
            decided = np.append(decided, scenario.rng.choice(decided, functions - self._readers))
        return np.maximum(decided, published.own_s)

    def catch_up(self, rounds: int) -> CatchUp:
        """Return what a function does to catch up on so many rounds: it reads their sums."""
        return CatchUp(0, rounds * self._count, self._piece_bytes, self._scenario.costs.apply_s * rounds)

    def _read_slices(self, published: Published) -> Floats:
        """Return when each worker's slice has arrived where it is added up, for the followed slices."""
        begin, looking = published.begin_s, self._adder[self._place]
        cold = np.minimum(begin + OWN_UPDATE_FIRST_S, begin if self._warm else published.own_s)
        found = self._slices.find(begin[looking], cold[looking], published.stands_s[self._update])
        self._warm = True
        if published.said_s is not None:
            self._slices.said(published.said_s[self._update])
        arrived: Floats = np.tile(published.known_s, (self._adder.size, 1))
        arrived[self._place, self._update] = self._downloads.moved(looking, found, self._slice_bytes)
        return arrived

    def _read_pieces(self, own_s: Floats, stands_s: Floats, half_s: Floats) -> Floats:
        """Return when each of the followed readers has the sums of all slices."""
        drawn = self._scenario.rng.integers(stands_s.size, size=self._count)
        drawn[self._followed] = np.arange(stands_s.size)
        stands, known = stands_s[drawn], (stands_s + half_s)[drawn]
        decided = np.full(self._readers, -np.inf)
        mine = np.flatnonzero(self._reducer < self._readers)
        np.maximum.at(decided, self._reducer[mine], known[mine])
        start = own_s[self._reader]
        found = self._pieces.find(start, start, stands[self._piece])
        np.maximum.at(decided, self._reader, self._downloads.moved(self._reader, found, self._piece_bytes))
        return decided

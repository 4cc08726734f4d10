"""A tree in closed form: the holders of nodes add up, and every function reads the root; see `lambdaml.patterns.tree`.

Every look of every function is followed, since a round has only 2(N - 1) gets. Two things are left out: a node above the
lowest level reads all its children at once, even if they do not fit into its window; and a function adds nothing up
before it has computed the updates of all its workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lambdaml.log import keys
from lambdaml.log.bracket import Bracket
from lambdaml.simulation.draws import Floats, Ints
from lambdaml.simulation.exchanges import Published
from lambdaml.simulation.network import Network, in_order
from lambdaml.simulation.scenario import CatchUp, Scenario
from lambdaml.simulation.watch import Watch
from lambdaml.worker.poll_timer import OWN_UPDATE_FIRST_S


@dataclass(frozen=True, slots=True)
class _Round:
    """A round, for each function.

    Attributes:
        begin_s: The moment at which it begins.
        cold_s: The moment of the first looks as long as nothing is known about any object.
        core_s: The moment from which the function's core is free.
        add_s: The seconds that it takes to add something.
    """

    begin_s: Floats
    cold_s: Floats
    core_s: Floats
    add_s: Floats


@dataclass(frozen=True, slots=True)
class _Objects:
    """The objects of one level in a round.

    Attributes:
        stands_s: The moment from which each can be read.
        known_s: The moment from which its maker knows that.
        said_s: The seconds that it says its maker took from the beginning of the round; None if none says so yet.
        upload_s: The seconds that it says the maker's put before took; zero if there was none.
        waited_s: For each worker, the seconds that its update had been there when the object's put began.
    """

    stands_s: Floats
    known_s: Floats
    said_s: Floats | None
    upload_s: Floats
    waited_s: Floats


@dataclass(slots=True)
class _Level:
    """The nodes of a level above the workers.

    Attributes:
        maker: The function that makes each node.
        parent: The node of each child.
        first: The first child of each node.
        remote: The children that are made by other functions than their parents.
        child_bytes: The bytes of each child.
        size_bytes: The bytes of each node.
        watch: The looks for the remote children.
        child_of: The child through which each worker's update reaches the level.
        uploads_s: The seconds of each node's last put; None before there was one.
    """

    maker: Ints
    parent: Ints
    first: Ints
    remote: Ints
    child_bytes: Floats
    size_bytes: Floats
    watch: Watch
    child_of: Ints
    uploads_s: Floats | None = None


class TreeRounds:
    """The exchange in rounds.

    Args:
        scenario: The run's input and its counts.
        latency_s: For each function, the latency that it measured at its start, in seconds.
        uploads: The networks of functions towards the store.
        fan_in: The number of children of a node.
    """

    updates_added = 0

    def __init__(self, scenario: Scenario, latency_s: Floats, uploads: Network, fan_in: int) -> None:
        workers, functions = scenario.settings.workers, scenario.functions
        self._scenario, self._uploads = scenario, uploads
        self._downloads = Network(functions, scenario.bytes_per_s, scenario.connection_bytes_per_s)
        self._latency_s, self._warm = latency_s.copy(), False
        self._levels: list[_Level] = []
        number = np.arange(workers)
        child, child_bytes = number % functions, np.full(workers, float(scenario.update_bytes))
        for power in (fan_in**level for level in range(1, Bracket.tree(fan_in, workers).levels + 1)):
            maker, parent = np.arange(0, workers, power) % functions, np.arange(child.size) // fan_in
            remote = np.flatnonzero(child != maker[parent])
            rows = np.bincount(number // power).astype(np.float64)
            size = scenario.size_bytes[keys.REDUCED] + scenario.row_bytes * rows
            watch = Watch(scenario, maker[parent[remote]], self._latency_s)
            first, child_of = np.arange(0, child.size, fan_in), number // (power // fan_in)
            self._levels.append(_Level(maker, parent, first, remote, child_bytes, size, watch, child_of))
            child, child_bytes = maker, size
        self._readers = np.flatnonzero(np.arange(functions) != child[0])
        self._root_watch = Watch(scenario, self._readers, self._latency_s)

    def decided(self, published: Published) -> Floats:
        """Return when each function has the root."""
        scenario, begin, own = self._scenario, published.begin_s, published.own_s
        cold = np.minimum(begin + OWN_UPDATE_FIRST_S, begin if self._warm else own)
        add_s = scenario.costs.apply_update_s * scenario.factors()
        current = _Round(begin, cold, published.core_s.copy(), add_s)
        zero = np.zeros(scenario.settings.workers)
        objects = _Objects(published.stands_s, published.known_s, published.said_s, zero, zero)
        for number, level in enumerate(self._levels):
            objects = self._make(level, objects, current, streaming=not number)
        self._warm = True
        return self._read_root(objects, own)

    def catch_up(self, rounds: int) -> CatchUp:
        """Return what a function does to catch up on so many rounds: it reads their roots."""
        return CatchUp(0, rounds, float(self._levels[-1].size_bytes[0]), self._scenario.costs.apply_s * rounds)

    def _make(self, level: _Level, children: _Objects, current: _Round, streaming: bool) -> _Objects:
        """Make the nodes of a level from their children. At the lowest level these are added as they arrive."""
        scenario, remote, reader = self._scenario, level.remote, level.maker[level.parent]
        looking = reader[remote]
        found = level.watch.find(current.begin_s[looking], current.cold_s[looking], children.stands_s[remote])
        if children.said_s is not None:
            level.watch.said(children.said_s[remote])
        arrived = children.known_s.copy()
        arrived[remote] = self._downloads.moved(looking, found, level.child_bytes[remote])
        if streaming:
            ready = _running_maximum(arrived, level.parent)
        else:
            ready = np.maximum.reduceat(arrived, level.first)[level.parent]
            scenario.counted.bytes_received += self._beyond_base(level.child_bytes[remote])
        joined = in_order(reader, ready, current.add_s[reader], current.core_s)
        scenario.counted.busy_s += float(current.add_s[reader].sum())
        there = arrived
        if not streaming:
            put_s = joined - children.upload_s - self._latency_s[reader]  # about when the child's put began
            there = put_s[level.child_of] - children.waited_s
        return self._put(level, np.maximum.reduceat(joined, level.first), there, current)

    def _put(self, level: _Level, made_s: Floats, there_s: Floats, current: _Round) -> _Objects:
        """Put the nodes of a level. `there_s` is when the update of each worker was there."""
        scenario, maker, before = self._scenario, level.maker, level.uploads_s
        sent = self._uploads.moved(maker, made_s, level.size_bytes)
        half_s = scenario.writes.many(maker.size) / 2
        stands = scenario.write_limit.serve(sent + half_s)
        known = stands + half_s
        level.uploads_s = known - made_s
        scenario.counted.bytes_sent += self._beyond_base(level.size_bytes)
        said = None if before is None else made_s - current.begin_s[maker] + before
        upload_s = np.zeros(maker.size) if before is None else before
        waited = made_s[level.parent[level.child_of]] - there_s
        return _Objects(stands, known, said, upload_s, waited)

    def _read_root(self, root: _Objects, own_s: Floats) -> Floats:
        """Let every function find the root, from when it has given all its updates on."""
        readers, functions = self._readers, own_s.size
        decided = np.full(functions, float(root.known_s[0]))
        start, size = own_s[readers], np.full(readers.size, self._levels[-1].size_bytes[0])
        found = self._root_watch.find(start, start, np.full(readers.size, root.stands_s[0]))
        decided[readers] = self._downloads.moved(readers, found, size)
        self._scenario.counted.bytes_received += self._beyond_base(size)
        if root.said_s is not None:
            waited = np.full(functions, np.inf)
            np.minimum.at(waited, np.arange(root.waited_s.size) % functions, root.waited_s)
            self._root_watch.said(waited[readers] + self._latency_s[readers] + root.upload_s[0])
        return decided

    def _beyond_base(self, size_bytes: Floats) -> int:
        """Return the bytes of nodes beyond those that each sum has, which the script counts."""
        return round(float((size_bytes - self._scenario.size_bytes[keys.REDUCED]).sum()))


def _running_maximum(values: Floats, group: Ints) -> Floats:
    """Return the running maximum of the values of each group. Groups follow each other."""
    apart = group * (np.ptp(values) + 1.0)
    running: Floats = np.maximum.accumulate(values + apart) - apart
    return running

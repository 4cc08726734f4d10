"""Tree: the updates of K workers are added up by one function, K such sums by one, and so on up to the root.

A node of level l covers K^l workers, and the function that holds the first of them makes it. Its object holds the sum in
the run's bracket, and the headers of the updates, from which every function makes the commit. So a round takes N puts of
updates, some N / (K - 1) of sums, N - 1 gets by those who add up and N - 1 gets of the root. With K = N the tree is a star.

A node that leaves out an update which must be rejected says so in its update's row. If the function that makes a node
dies, the one that takes over its worker makes it; if both do, they write the same sum, and the first object counts.
"""

from __future__ import annotations

from dataclasses import replace

from lambdaml.log.bracket import Bracket
from lambdaml.log.commits import step_entries
from lambdaml.log.partial import Partial
from lambdaml.parts import Parts
from lambdaml.patterns.rounds import RoundExchange
from lambdaml.schedules import in_rounds
from lambdaml.worker.shared import Shared
from lambdaml.worker.window import WINDOW_BYTES
from lambdaml.worker.world import Task

Node = tuple[int, int]
"""A node of the tree: its level, and its number on that level."""


class Tree:
    """Sums are added up in a tree."""

    def __init__(self, fan_in: int) -> None:
        if fan_in < 2:
            raise ValueError(f"a node adds up 2 sums or more, not {fan_in}")
        self.fan_in = fan_in

    def bracket(self, workers: int) -> Bracket:
        """Return the bracket in which it adds up the updates of so many workers."""
        return Bracket.tree(self.fan_in, workers)

    def slices(self, workers: int) -> int:
        """Return 0: updates are written as a whole."""
        return 0

    def misfit(self, parts: Parts, workers: int) -> str:
        """Return why a run with these parts cannot use it, or ""."""
        if not in_rounds(parts.schedule, workers):
            return "adds up whole rounds, and this schedule has none: use gather"
        return "" if parts.rule.transform(workers, 1) is None else "cannot add up what this staleness rule corrects"

    def exchange(self, shared: Shared) -> TreeExchange:
        """Return one function's part."""
        return TreeExchange(shared, self.bracket(shared.settings.workers))


class TreeExchange(RoundExchange):
    """The nodes that this function makes, each a coroutine, and one that looks for the root."""

    def __init__(self, shared: Shared, bracket: Bracket) -> None:
        super().__init__(shared)
        self._bracket = bracket
        self._tasks: dict[Node, Task] = {}
        self._watch: Task | None = None

    @property
    def _top(self) -> Node:
        return self._bracket.levels, 0

    def needed(self, worker: int) -> bool:
        """Return whether the vectors of a worker that is held here are added up here."""
        return (1, worker // self._bracket.group) in self._tasks

    def makes(self, commit: int, name: str) -> bool:
        """Return whether this function makes the node of this name in a round."""
        level, number = name.split(".")
        return (int(level), int(number)) in self._tasks and commit >= self._shared.tail

    def adds(self) -> list[str]:
        """Return the names of the nodes that this function makes, if updates may be there before their round begins."""
        return [_name(node) for node in self._tasks] if self._shared.replica.parts.delay else []

    def attend(self, deciding: bool) -> None:
        """Make the nodes whose first workers are held here, and look for the root."""
        shared = self._shared
        nodes = {node for worker in shared.leases.held for node in self._nodes_of(worker)} if deciding else set()
        for node in set(self._tasks) - nodes:
            self._tasks.pop(node).cancel()
        for node in sorted(nodes - set(self._tasks)):
            self._tasks[node] = shared.spawn(self._make(*node))
        self._attend_updates()
        if self._watch is None:
            self._watch = shared.spawn(self._find_root())

    def _attend_updates(self) -> None:
        """Look for the updates that are added up here, unless the log goes further: then their roots exist."""
        shared = self._shared
        behind = shared.known.commit < shared.tail
        leaves = [] if behind else [self._children(*node) for node in self._tasks if node[0] == 1]
        self._updates.look_for({worker for leaf in leaves for worker in leaf} - set(shared.leases.held))

    def _nodes_of(self, worker: int) -> list[Node]:
        """Return the nodes that are made by whoever holds the worker."""
        group, levels = self._bracket.group, range(1, self._bracket.levels + 1)
        return [(level, worker // group**level) for level in levels if worker % group**level == 0]

    def _children(self, level: int, number: int) -> range:
        """Return the numbers of a node's children on the level below, where level 0 are the workers."""
        group, workers = self._bracket.group, self._shared.settings.workers
        return range(number * group, min((number + 1) * group, -(-workers // group ** (level - 1))))

    async def _make(self, level: int, number: int) -> None:
        """Make a node in each round that has no root yet."""
        shared = self._shared
        await shared.until(lambda: shared.known.commit >= shared.tail)
        self._attend_updates()
        while True:
            commit, began = shared.known.commit, shared.world.now()
            partial = await (
                self._add_updates(commit, number) if level == 1 else self._add_nodes(commit, level, number)
            )
            if partial is not None:
                made = await self.write(partial, _name((level, number)), began)
                if (level, number) == self._top:
                    self.arrive(made)
            await shared.until(lambda commit=commit: shared.known.commit > commit)  # type: ignore[misc]

    async def _add_updates(self, commit: int, number: int) -> Partial | None:
        """Add up a group's updates in order, as they arrive; None if the round is over before."""
        shared, known, replica = self._shared, self._shared.known, self._shared.replica
        adder, rows = replica.summing(), []
        for worker in self._children(1, number):
            key = worker, known.next_seq[worker]
            await shared.until(lambda key=key: self.known(key) or known.commit > commit)  # type: ignore[misc]
            if known.commit > commit:
                return None
            header = update = self._updates.arrived.get(key) or self._own[key]
            if not update.loaded and not update.fault:
                update = await self.read(*key)
            update = replace(update)  # it keeps its body if the window frees the header's meanwhile
            (entry,) = step_entries(known, shared.rule, [header])
            if entry.fate == "applied":
                await self.sum_up(lambda entry=entry, update=update: adder.add(entry, update))  # type: ignore[misc]
            fault = entry.reason if entry.fate == "rejected" else ""
            rows.append(replace(header, body=replica.besides(update), fault=fault, loaded=False))
            shared.window.free(header)
        return Partial(commit, rows, adder.finish(), waited_s=[row.arrived_s or 0.0 for row in rows])

    async def _add_nodes(self, commit: int, level: int, number: int) -> Partial | None:
        """Add up the sums of a node's children in order; None if the round is over before."""
        shared, replica = self._shared, self._shared.replica
        adder, rows, moments = replica.summing(), [], []
        children = [(level - 1, child) for child in self._children(level, number)]
        at_once = max(2, WINDOW_BYTES // max(1, replica.update_bytes))
        for start in range(0, len(children), at_once):
            due = children[start : start + at_once]
            for child in await shared.world.gather(*[self._child(commit, node) for node in due]):
                if child is None:
                    return None
                applied = [
                    each for each in step_entries(shared.known, shared.rule, child.updates) if each.fate == "applied"
                ]
                if applied:
                    await self.sum_up(lambda applied=applied, child=child: adder.join(applied, child.sum))  # type: ignore[misc]
                rows += child.updates
                read_s = shared.world.now() - (child.upload_s or 0.0) - shared.latency_s
                moments += [read_s - waited_s for waited_s in child.waited_s]
        return Partial(commit, rows, adder.finish(), waited_s=moments)

    async def _child(self, commit: int, node: Node) -> Partial | None:
        """Return the sum of a node in this round, made here or elsewhere; None if the round is over before."""
        first = node[1] * self._bracket.group ** node[0]
        return await self.obtain(commit, _name(node), first, since_given=node == self._top)

    async def _find_root(self) -> None:
        """Look for the root of each round, unless it is made here."""
        shared = self._shared
        while True:
            commit = shared.known.commit
            await shared.until(lambda: shared.unapplied < 2 and shared.known.stop is None)
            root = await self._child(commit, self._top)
            if root is not None:
                self.arrive(root)
            await shared.until(lambda commit=commit: shared.known.commit > commit or shared.known.stop is not None)  # type: ignore[misc]


def _name(node: Node) -> str:
    return f"{node[0]}.{node[1]:05d}"

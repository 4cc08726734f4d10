"""Tree: the updates of K workers are added up by one function, K such sums by one, and so on up to the root.

A node of level l covers K^l workers, and the function that holds the first of them makes it. Its object holds the sum in
the run's bracket, and the headers of the updates, from which every function makes the commit. So a round takes N puts of
updates, some N / (K - 1) of sums, N - 1 gets by those who add up and N - 1 gets of the root. With K = N the tree is a star.

A node that leaves out an update which must be rejected says so in its update's row. If the function that makes a node
dies, the one that takes over its worker makes it; if both do, they write the same sum, and the first object counts.
"""

from __future__ import annotations

from dataclasses import replace

from lambdaml.log import keys
from lambdaml.log.bracket import Bracket
from lambdaml.log.commits import step_entries
from lambdaml.log.partial import Partial
from lambdaml.log.reads import demand_present
from lambdaml.log.records import Commit, Update
from lambdaml.parts import Parts
from lambdaml.patterns.gather import GatherExchange
from lambdaml.schedules import in_rounds
from lambdaml.worker.looking import Looks
from lambdaml.worker.poll_timer import FLOATS, PollTimer
from lambdaml.worker.reading import read
from lambdaml.worker.shared import Shared
from lambdaml.worker.window import WINDOW_BYTES, Id
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

    def misfit(self, parts: Parts, workers: int) -> str:
        """Return why a run with these parts cannot use it, or ""."""
        if not in_rounds(parts.schedule, workers):
            return "adds up whole rounds, and this schedule has none: use gather"
        return "" if parts.rule.transform(workers, 1) is None else "cannot add up what this staleness rule corrects"

    def exchange(self, shared: Shared) -> TreeExchange:
        """Return one function's part."""
        return TreeExchange(shared, self.bracket(shared.settings.workers))


class TreeExchange:
    """The nodes that this function makes, each a coroutine, and one that looks for the root."""

    def __init__(self, shared: Shared, bracket: Bracket) -> None:
        self.arrived: dict[Id, Update] = {}
        self.news = 0
        self._shared = shared
        self._bracket = bracket
        self._looks = Looks(shared)
        self._updates = GatherExchange(shared)
        self._own: dict[Id, Update] = {}  # headers of updates that were published here and are added up elsewhere
        self._root: Partial | None = None
        self._tasks: dict[Node, Task] = {}
        self._paces: dict[Node, PollTimer[float]] = {}
        self._made: dict[Node, Partial] = {}
        self._uploads_s: dict[Node, float] = {}
        self._watch: Task | None = None

    @property
    def _top(self) -> Node:
        return self._bracket.levels, 0

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

    def add(self, update: Update) -> None:
        """Note that an update became known: it was read, or published by this function."""
        if (1, update.worker // self._bracket.group) in self._tasks:
            self._updates.add(update)
        else:
            self._shared.release(update.id)
            update.let_go()
            self._own[update.id], update.arrived_s = update, self._shared.world.now()
            self._shared.changed()

    def take(self, commit: Commit) -> dict[Id, Update]:
        """Return the updates that get their fate in this commit, and forget them."""
        for update in self._updates.take(commit).values():
            self._shared.window.free(update)
        for entry in commit.entries:
            self._own.pop((entry.worker, entry.seq), None)
        taken, self.arrived = self.arrived, {}
        return taken

    def total(self, commit: Commit) -> Partial | None:
        """Return the sum of the updates that this commit applies, and forget it."""
        root, self._root = self._root, None
        return root

    async def recover(self, worker: int) -> int:
        """Find the updates that earlier functions published for a worker that this function now holds."""
        return await self._updates.recover(worker)

    async def read(self, worker: int, seq: int) -> Update:
        """Return an update that exists according to the log."""
        return await self._updates.read(worker, seq)

    def forecast_s(self, commit: Commit) -> float:
        """Return 0: nobody waits for the log."""
        return 0.0

    def counted(self) -> dict[str, int]:
        """Return the reads since the last call."""
        updates = self._updates.counted()
        return {name: count + updates[name] for name, count in self._looks.counted().items()}

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
                await self._write(partial, (level, number), began)
            await shared.until(lambda commit=commit: shared.known.commit > commit)  # type: ignore[misc]

    async def _write(self, partial: Partial, node: Node, began: float) -> None:
        """Create a node's object, and use the one that then exists."""
        shared, world = self._shared, self._shared.world
        now = world.now()
        partial.waited_s = [now - moment for moment in partial.waited_s]
        partial.ready_s, partial.upload_s = now - began, self._uploads_s.get(node)
        key, data = _key(partial.commit, node), await world.background(partial.pack)
        standing = await world.store.create(key, data)
        self._uploads_s[node] = world.now() - now
        if standing is not None:
            partial = demand_present(await read(world, key, Partial.read, standing), key)
        self._made[node] = partial
        if node == self._top:
            self._arrive(partial)
        shared.changed()

    async def _add_updates(self, commit: int, number: int) -> Partial | None:
        """Add up a group's updates in order, as they arrive; None if the round is over before."""
        shared, known, replica = self._shared, self._shared.known, self._shared.replica
        adder, rows = replica.summing(), []
        for worker in self._children(1, number):
            key = worker, known.next_seq[worker]
            await shared.until(lambda key=key: self._known(key) or known.commit > commit)  # type: ignore[misc]
            if known.commit > commit:
                return None
            header = update = self._updates.arrived.get(key) or self._own[key]
            if not update.loaded and not update.fault:
                update = await self.read(*key)
            (entry,) = step_entries(known, shared.rule, [header])
            if entry.fate == "applied":
                await shared.world.compute(lambda entry=entry, update=update: adder.add(entry, update))  # type: ignore[misc]
            fault = entry.reason if entry.fate == "rejected" else ""
            rows.append(replace(header, body=replica.besides(update), fault=fault, loaded=False))
            shared.window.free(header)
        return Partial(commit, rows, adder.finish(), [row.arrived_s or 0.0 for row in rows])

    def _known(self, update: Id) -> bool:
        return update in self._updates.arrived or update in self._own

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
                    await shared.world.compute(lambda applied=applied, child=child: adder.join(applied, child.sum))  # type: ignore[misc]
                rows += child.updates
                read_s = shared.world.now() - (child.upload_s or 0.0) - shared.latency_s
                moments += [read_s - waited_s for waited_s in child.waited_s]
        return Partial(commit, rows, adder.finish(), moments)

    async def _child(self, commit: int, node: Node) -> Partial | None:
        """Return the sum of a node in this round, made here or elsewhere; None if the round is over before."""
        known = self._shared.known
        while known.commit <= commit:
            if not self._makes(commit, node):
                if (found := await self._look(commit, node)) is not None:
                    return found
                continue
            await self._shared.until(
                lambda: self._has(commit, node) or known.commit > commit or node not in self._tasks
            )
            if self._has(commit, node):
                return self._made[node]
        return None

    def _makes(self, commit: int, node: Node) -> bool:
        """Return whether this function makes the node in this round."""
        return node in self._tasks and commit >= self._shared.tail

    def _has(self, commit: int, node: Node) -> bool:
        return node in self._made and self._made[node].commit == commit

    async def _look(self, commit: int, node: Node) -> Partial | None:
        """Look for another function's node until it is there; None if the round is over before.

        The root rests on what this function gives to the round, so its time counts from then. If it counted from the
        start of the round, a function that is late would delay the root, learn that, and be later in the next round.
        """
        shared, key = self._shared, _key(commit, node)
        pace = self._paces.setdefault(node, PollTimer(FLOATS))
        behind, top = commit < shared.tail, node == self._top
        if top and not behind:
            await shared.until(lambda: self._gave(commit), timeout_s=shared.settings.lease_s)

        async def fetch() -> Partial | None:
            data, _ = await self._looks.get(key)
            return None if data is None else await read(shared.world, key, Partial.read, data)

        found = await self._looks.find(
            key,
            fetch,
            pace,
            lambda: shared.known.commit <= commit and not self._makes(commit, node),
            worker=node[1] * self._bracket.group ** node[0],
            behind=behind,
        )
        if found is not None and found.upload_s is not None:
            pace.said(found.upload_s + (self._least_wait_s(found) + shared.latency_s if top else found.ready_s))
        return found

    def _gave(self, commit: int) -> bool:
        """Return whether this function has given all its updates to the round, or the round is over."""
        known, held = self._shared.known, self._shared.leases.held
        return known.commit > commit or all(self._known((worker, known.next_seq[worker])) for worker in held)

    def _least_wait_s(self, root: Partial) -> float:
        """Return how long the last of this function's updates had been there when the put of the root began."""
        held = self._shared.leases.held
        pairs = zip(root.updates, root.waited_s, strict=True)
        return min((waited_s for update, waited_s in pairs if update.worker in held), default=0.0)

    async def _find_root(self) -> None:
        """Look for the root of each round, unless it is made here."""
        shared = self._shared
        while True:
            commit = shared.known.commit
            await shared.until(lambda: shared.unapplied < 2 and shared.known.stop is None)
            root = await self._child(commit, self._top)
            if root is not None and commit == shared.known.commit:
                self._arrive(root)
            await shared.until(lambda commit=commit: shared.known.commit > commit or shared.known.stop is not None)

    def _arrive(self, root: Partial) -> None:
        shared = self._shared
        if root.commit != shared.known.commit or self._root is not None:
            return
        self._root = root
        for update in root.updates:
            update.arrived_s = shared.world.now()
            self.arrived[update.id] = update
        self.news += 1
        shared.warm = True
        shared.changed()


def _key(commit: int, node: Node) -> str:
    return keys.reduced(commit, f"{node[0]}.{node[1]:05d}")

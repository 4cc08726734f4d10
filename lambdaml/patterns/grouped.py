"""The exchange of a run whose workers average models of their own in groups (`lambdaml.schedules.groups`).

For each worker that a function works as, it reads the updates of the worker's group in the round, and takes their mean as
the worker's next model. A round takes N puts and N (G - 1) gets. Whoever writes the log also reads one header of each
worker for each log entry (`lambdaml.patterns.headers`), and the N updates of a round before each snapshot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lambdaml.errors import LeaseLost
from lambdaml.log import keys
from lambdaml.log.own_models import OwnModel
from lambdaml.log.records import DAMAGED, Commit, Update
from lambdaml.patterns.headers import Headers
from lambdaml.patterns.plain import PlainExchange
from lambdaml.worker.averages import fetched, model_before, reports_before, source_of, take_mean
from lambdaml.worker.checking import checked_update
from lambdaml.worker.log_reader import LogReader
from lambdaml.worker.looking import Looks
from lambdaml.worker.machine import Machine
from lambdaml.worker.poll_timer import FLOATS, PollTimer
from lambdaml.worker.shared import Shared
from lambdaml.worker.window import Id
from lambdaml.worker.world import Task, World

_PATIENT_S = 5.0
"""A function does not look for a log entry for this long, if its own workers have not come to the end of it. The run may have
been stopped before."""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Stands for the updates of a commit, which were averaged before. It is a `lambdaml.worker.machine.Total`.

    Attributes:
        shared: The state of the function.
        whole: Whether the machine takes the run's model.
    """

    shared: Shared
    whole: bool

    async def apply(self, world: World, machine: Machine, commit: Commit) -> None:
        """Advance the log state, and take the mean of all models if it is needed."""
        await world.compute(lambda: machine.pass_over(commit))
        if self.whole:
            await take_mean(self.shared, machine, commit)


@dataclass(slots=True)
class _Round:
    """A group whose models are averaged.

    Attributes:
        turn: The round.
        group: Its workers.
        due: The place in the group of the update that is added next.
        found: The updates that were read and not added yet, by worker.
        download_s: The longest time that a read took.
    """

    turn: int
    group: Sequence[int]
    due: int = 0
    found: dict[int, Update] = field(default_factory=dict)
    download_s: float = 0.0


class GroupExchange(PlainExchange):
    """One function's part."""

    def __init__(self, shared: Shared) -> None:
        own = shared.replica.own
        assert own is not None
        self._shared, self._own, self._source = shared, own, source_of(shared, shared.replica)
        self._looks = Looks(shared)
        self._reader = LogReader(shared)
        self._headers = Headers(shared, self._looks)
        self._paces: dict[int, PollTimer[float]] = {}
        self._sent: dict[Id, Update] = {}  # updates that were published here, until they are averaged
        self._newest = self._headers.newest
        self._began: dict[int, float] = {}  # the moment at which such a worker could begin its newest update
        self._last: Commit | None = None
        self._averaging: dict[Id, tuple[Sequence[int], Task]] = {}  # by the first worker of a group and the round

    @property
    def arrived(self) -> dict[Id, Update]:
        """The updates that headers tell of and that have no fate yet."""
        return self._headers.arrived

    @property
    def news(self) -> int:
        """A number that grows with each header that arrives."""
        return self._headers.news

    def attend(self, deciding: bool) -> None:
        """Read headers if this function writes the log, and forget what is known of workers that it no longer holds."""
        held = self._shared.leases.held
        for worker in set(self._newest) - set(held):
            del self._newest[worker]
            self._own.drop(worker)
        for (_, turn), (group, task) in list(self._averaging.items()):
            if not held.keys() & set(group):
                task.cancel()
                del self._averaging[group[0], turn]
                for update in [self._sent[each, turn] for each in group if (each, turn) in self._sent]:
                    self._forget(update)
        self._headers.attend(deciding)

    def add(self, update: Update) -> None:
        """Note that a worker that is held here published an update. Its group is averaged then."""
        shared, (worker, seq) = self._shared, update.id
        self._headers.published(update)
        shared.leases.heard(worker)
        shared.window.hold(update, shared.replica.held_bytes(update), (seq, 0))
        if shared.window.fits():
            self._sent[update.id] = update
        else:  # there must be room to read those of others; it is read again when it is due
            shared.window.free(update)
        self._average(worker, seq)
        shared.changed()

    def ready(self, worker: int, seq: int) -> bool:
        """Return whether the worker's model is here from which this update is computed."""
        return self._own.holds(worker, seq)

    def take(self, commit: Commit) -> dict[Id, Update]:
        """Return what headers told of the updates that get their fate in this commit, and forget it."""
        return self._headers.take(commit)

    def total(self, commit: Commit) -> PassedOver:
        """Return what stands for the updates of this commit. Whoever writes the log needs the run's model for snapshots, and
        for the result."""
        shared, self._last = self._shared, commit
        done = shared.known.progress
        due = shared.settings.snapshot_due(done - len(commit.entries), done)
        return PassedOver(shared, shared.writes_log and (due or commit.stop is not None))

    async def next(self) -> Commit | None:
        """Return the log entry that follows the known ones, or None if it does not exist yet. Nobody waits for it, so it is
        not looked for, for some time, while it cannot exist by what is known here."""
        shared, known = self._shared, self._shared.known
        if self._newest and known.commit >= shared.tail:
            await shared.until(
                lambda: self._headers.passed(known.next_seq[0]) or shared.writes_log, timeout_s=_PATIENT_S
            )
        return await self._reader.next()

    async def lead(self) -> None:
        """Take the run's model, unless this function did when it wrote the end of the log."""
        shared, last = self._shared, self._last
        if last is not None and self._own.mean_at != shared.known.commit:
            await take_mean(shared, shared.replica, last)

    def forecast_s(self, commit: Commit) -> float:
        """Return the seconds from now until another commit will be decided: as many as since the one before."""
        return self._headers.interval_s

    def counted(self) -> dict[str, int]:
        """Return nothing: reads are counted with the updates that they are for."""
        return {}

    async def recover(self, worker: int) -> int:
        """Find the updates that earlier functions published for a worker that this function now holds, and its model.

        Returns:
            The sequence number to go on with.
        """
        shared = self._shared
        await shared.until(lambda: shared.queued.commit >= shared.tail)
        generation = shared.leases.held.get(worker)
        if generation is None:
            raise LeaseLost(f"worker {worker} was taken over before it could begin")
        seq = shared.known.next_seq[worker]
        if generation > 1:
            after = keys.update(worker, seq - 1) if seq else ""
            found = await shared.world.store.list(keys.updates(worker), after=after)
            seq = max([seq, *[keys.update_id(info.key)[1] + 1 for info in found]])
            shared.warm = shared.warm or seq > 0
        self._newest[worker] = seq - 1
        if seq:
            self._average(worker, seq - 1)
        else:
            self._take(worker, await model_before(self._source, shared.replica, worker, 0))
        shared.changed()
        return seq

    async def read(self, worker: int, seq: int) -> Update:
        """Return an update that exists according to the log."""
        return await fetched(self._shared, worker, seq)

    def _take(self, worker: int, model: OwnModel) -> None:
        self._own.take(worker, model)
        self._began[worker] = self._shared.world.now()
        self._shared.changed()

    def _average(self, worker: int, turn: int) -> None:
        """Begin to average the models of a worker's group in a round, unless that goes on."""
        group = self._own.grouping.around(turn, worker)
        if (group[0], turn) not in self._averaging:
            task = self._shared.spawn(self._mix(_Round(turn, group)))
            self._averaging[group[0], turn] = group, task

    async def _mix(self, round_: _Round) -> None:
        """Average the models of a group, and hand the mean to those of its workers that are held here."""
        shared, turn = self._shared, round_.turn
        tasks = [shared.spawn(self._find(round_, place)) for place in range(len(round_.group))]
        try:
            mean, added = shared.replica.rounds.averaging({}), list[Update]()
            for place, member in enumerate(round_.group):
                round_.due = place
                shared.changed()
                await shared.until(lambda: member in round_.found)
                update = round_.found.pop(member)
                if not update.fault:
                    await shared.world.compute(lambda update=update: mean.add(update))  # type: ignore[misc]
                self._forget(update)
                added.append(update)
        finally:
            for task in tasks:
                task.cancel()
            for update in round_.found.values():  # if this ends early
                self._forget(update)
        await shared.until(lambda: not shared.hold or shared.known.stop is not None)
        if shared.known.stop is not None:
            return
        start, model = shared.world.now(), None
        if not all(update.fault for update in added):
            model = await shared.world.compute(lambda: OwnModel.of(turn + 1, mean.finish()))
        apply_s = shared.world.now() - start
        await self._hand_out(round_, added, model)
        self._averaging.pop((round_.group[0], turn), None)
        shared.waits.progress()
        shared.tracer.applied([each.id for each in added], round_.download_s, apply_s, self._looks.counted())

    async def _hand_out(self, round_: _Round, added: Sequence[Update], model: OwnModel | None) -> None:
        """Give the mean of a group to those of its workers that are held here and go on from it. If there is none, each goes on
        from the model that it had."""
        machine = self._shared.replica
        for update in added:
            worker, turn = update.id
            if self._newest.get(worker, -1) != turn or self._own.holds(worker, turn + 1):
                continue
            reports = update.reports
            if update.fault == DAMAGED:
                reports = await reports_before(self._source, machine, worker, turn + 1)
            mine = model
            if mine is None and not self._own.holds(worker, turn):
                mine = await model_before(self._source, machine, worker, turn + 1)
            if self._newest.get(worker, -1) == turn:
                mine = mine or self._own.of(worker, turn)
                self._take(worker, replace(mine, seq=turn + 1, reports=reports))

    async def _find(self, round_: _Round, place: int) -> None:
        """Find the update of a group's worker, published here or read."""
        shared, member, turn = self._shared, round_.group[place], round_.turn
        held, update = shared.leases.held, None
        while update is None:
            await shared.until(lambda: member not in held or self._newest.get(member, -1) >= turn)
            update = self._sent.get((member, turn))
            if update is None:
                update = await self._look(round_, place)
        if (said := update.upload_s) is not None and member not in held:
            self._pace(member).said(update.ready_s + said)
        round_.found[member] = update
        shared.changed()

    async def _look(self, round_: _Round, place: int) -> Update | None:
        """Wait for an update of a worker that other functions hold, or read one that is there."""
        shared, member, turn = self._shared, round_.group[place], round_.turn

        def may_read() -> bool:
            return shared.window.fits() if round_.due == place else shared.window.fits_two()

        async def fetch() -> Update | None:
            while not may_read():  # nothing that is not due takes the last room
                await shared.until(may_read)
            shared.window.reserve((member, turn))
            update = None
            try:
                data, get_s = await self._looks.get(keys.update(member, turn))
                if data is not None:
                    update = await checked_update(shared, data, member, turn)
                    update.download_s = get_s
                    round_.download_s = max(round_.download_s, get_s)
                    shared.window.hold(update, shared.replica.held_bytes(update), (turn, place))
                    shared.leases.heard(member)
            finally:
                if update is None:
                    shared.release((member, turn))
            return update

        mine = [self._began.get(worker, math.inf) for worker in round_.group if worker in self._newest]
        return await self._looks.find(
            keys.update(member, turn),
            fetch,
            self._pace(member),
            lambda: member not in shared.leases.held or self._newest.get(member, -1) >= turn,
            worker=member,
            behind=self._newest.get(member, -1) >= turn or shared.known.next_seq[member] > turn,
            since_s=min(mine, default=math.inf),
        )

    def _pace(self, worker: int) -> PollTimer[float]:
        return self._paces.setdefault(worker, PollTimer(FLOATS))

    def _forget(self, update: Update) -> None:
        self._sent.pop(update.id, None)
        self._shared.window.free(update)

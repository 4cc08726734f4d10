"""A discrete-event kernel that runs `async` code on a clock that jumps from event to event. No real time passes.

A coroutine hands the kernel what it waits for: a number of seconds, or a `Future`. The kernel keeps the coroutines that
wait for a moment in a heap and those that may continue now in a queue, and resumes one after the other. Ties are broken
by the order in which they came up, so one program with one seed has one history.

Compare simpy's core, whose processes are generators of events. Here they are coroutines, so code that also runs under
asyncio can run unchanged.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from types import coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Cancelled(BaseException):
    """The exception that is raised inside a cancelled task, where it waits."""


class Killed(BaseException):
    """The exception raised in every task of a killed group, where it waits and in all that it awaits from then on."""


class Livelock(RuntimeError):
    """The error of tasks that take turn after turn while the clock stands still."""


MAX_TURNS = 1_000_000
"""The turns that tasks may take at one moment."""


@coroutine
def sleep(seconds: float) -> Generator[float, None, None]:
    """Wait for this many seconds of the kernel's clock. With 0, wait until all that may continue now has done so."""
    yield seconds


class Future(Generic[T]):
    """A value that will be there later. Any number of tasks may await it."""

    __slots__ = ("_error", "_kernel", "_value", "_waiters", "done")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._waiters: list[tuple[KernelTask, int]] = []
        self._value: T | None = None
        self._error: BaseException | None = None
        self.done = False

    def set(self, value: T | None = None, error: BaseException | None = None) -> None:
        """Settle the future once; later calls change nothing."""
        if self.done:
            return
        self.done, self._value, self._error = True, value, error
        for task, stamp in self._waiters:
            if stamp == task.stamp:
                self._kernel.resume(task)
        self._waiters.clear()

    @coroutine
    def wait(self) -> Generator[Future[T], None, T]:
        """Return the value once it is there, or raise the error with which the future was settled."""
        if not self.done:
            yield self
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def add(self, task: KernelTask) -> None:
        """Resume this task when the future is settled, if it still waits for that."""
        self._waiters.append((task, task.stamp))


class KernelTask:
    """A coroutine that the kernel runs beside others, as part of a group.

    Attributes:
        result: The future that is settled with what the coroutine returned or raised.
    """

    __slots__ = ("group", "result", "stamp", "steps")

    def __init__(self, kernel: Kernel, steps: Coroutine[Any, Any, Any], group: Group) -> None:
        self.steps = steps
        self.group = group
        self.result: Future[Any] = Future(kernel)
        self.stamp = 0  # the stamp of the current wait; an event of an earlier one is stale

    def cancel(self) -> None:
        """Raise `Cancelled` where the task waits, in its next turn."""
        self.group.kernel.resume(self, Cancelled())


class Group:
    """The tasks of one function, with their own random stream. A group can be killed, frozen and thawed.

    Attributes:
        last_turn: The number of turns of its tasks right after which the group is killed, wherever they wait then.
        on_kill: The function that is called when the group was killed.
    """

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.name = name
        self.random = random.Random(int.from_bytes(hashlib.blake2b(f"{kernel.seed}/{name}".encode()).digest()[:8]))
        self.tasks: dict[KernelTask, None] = {}
        self.dead = False
        self.turns = 0
        self.last_turn: int | None = None
        self.on_kill: Callable[[], None] = lambda: None
        self._frozen: list[tuple[KernelTask, int, BaseException | None]] | None = None

    def spawn(self, steps: Coroutine[Any, Any, Any]) -> KernelTask:
        """Run a coroutine as part of this group."""
        task = KernelTask(self.kernel, steps, self)
        self.tasks[task] = None
        self.kernel.resume(task)
        return task

    def kill(self) -> None:
        """End all tasks where they wait, as SIGKILL does.

        They may run no more than their `finally` clauses. Those reach nothing outside, since every operation of a dead
        group must raise `Killed`.
        """
        if self.dead:
            return
        self.dead = True
        for task in list(self.tasks):
            self.kernel.end(task)
        self.tasks.clear()
        self.on_kill()

    def freeze(self) -> None:
        """Stop running tasks, but remember what happens to them meanwhile."""
        self._frozen = self._frozen if self._frozen is not None else []

    def thaw(self) -> None:
        """Continue to run tasks."""
        missed, self._frozen = self._frozen or [], None
        for task, stamp, error in missed:
            self.kernel.requeue(task, stamp, error)

    def held(self, task: KernelTask, stamp: int, error: BaseException | None) -> bool:
        """Return whether this turn of a task must wait for `thaw`."""
        if self._frozen is None:
            return False
        self._frozen.append((task, stamp, error))
        return True


def task_names(ready: Iterable[tuple[KernelTask, int, BaseException | None]]) -> str:
    """Return the groups of tasks that may continue, for messages."""
    return ", ".join(sorted({task.group.name for task, _, _ in ready})) or "nobody"


class Kernel:
    """The clock, and the tasks that wait for it.

    Args:
        seed: The seed of every group's random stream.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.now = 0.0
        self.turns = 0
        self._serial = 0
        self._ready: deque[tuple[KernelTask, int, BaseException | None]] = deque()
        self._heap: list[tuple[float, int, KernelTask | None, int, Callable[[], None] | None]] = []

    def group(self, name: str) -> Group:
        """Return a new group, whose random stream depends on its name and the kernel's seed."""
        return Group(self, name)

    def resume(self, task: KernelTask, error: BaseException | None = None) -> None:
        """Let a task continue in its next turn, with an error raised where it waits."""
        task.stamp += 1
        self._ready.append((task, task.stamp, error))

    def requeue(self, task: KernelTask, stamp: int, error: BaseException | None) -> None:
        """Give a task the turn that it missed, unless the turn is out of date."""
        self._ready.append((task, stamp, error))

    def at(self, moment: float, action: Callable[[], None]) -> None:
        """Call something at a moment, on behalf of no task."""
        self._serial += 1
        heapq.heappush(self._heap, (max(moment, self.now), self._serial, None, 0, action))

    def run(self, until: float = float("inf"), done: Callable[[], bool] = lambda: False) -> None:
        """Run until nothing is left to do, the clock would pass `until`, or `done()` holds."""
        ready, heap, pop = self._ready, self._heap, heapq.heappop
        limit = self.turns + MAX_TURNS
        while not done():
            if ready:
                self._turn(*ready.popleft())
                if self.turns > limit:
                    raise Livelock(f"{MAX_TURNS} turns at {self.now:.6f} s: a task of {task_names(ready)} never waits")
                continue
            if not heap:
                return
            limit = self.turns + MAX_TURNS
            if heap[0][0] > until:
                self.now = until
                return
            self.now, _, task, stamp, action = pop(heap)
            if action is not None:
                action()
            elif task is not None and stamp == task.stamp:
                self._turn(task, stamp, None)

    def _turn(self, task: KernelTask, stamp: int, error: BaseException | None) -> None:
        if stamp != task.stamp or task.group.dead or task.group.held(task, stamp, error):
            return
        group = task.group
        self.turns += 1
        group.turns += 1
        try:
            wish = task.steps.send(None) if error is None else task.steps.throw(error)
        except StopIteration as stop:
            self._ended(task, stop.value, None)
        except (Cancelled, Killed) as ended:
            self._ended(task, None, ended)
        except Exception as failure:
            self._ended(task, None, failure)
        else:
            task.stamp += 1
            if type(wish) is Future:
                wish.add(task)
            elif wish <= 0:
                self._ready.append((task, task.stamp, None))
            else:
                self._serial += 1
                heapq.heappush(self._heap, (self.now + wish, self._serial, task, task.stamp, None))
        if group.turns == group.last_turn:
            group.kill()

    def end(self, task: KernelTask) -> None:
        """Raise `Killed` in a task now. Its group must be dead, so that it cannot wait again."""
        task.stamp += 1
        try:
            task.steps.throw(Killed())
        except BaseException:  # whatever a dying task raises dies with it
            return
        raise RuntimeError(f"{task.steps} went on although it was killed")

    def _ended(self, task: KernelTask, value: Any, error: BaseException | None) -> None:
        task.stamp += 1
        task.group.tasks.pop(task, None)
        task.result.set(value, error)

    async def gather(self, group: Group, work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Run all coroutines at once, and return their results in order, or raise the first error in that order."""
        tasks = [group.spawn(steps) for steps in work]
        return [await task.result.wait() for task in tasks]

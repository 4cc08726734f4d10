"""Shows the progress of a run: a picture made from its events, and two ways to show it.

On a terminal the picture stays at the bottom while news scrolls by above it; elsewhere it is a line now and then.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lambdaml.cli import _format

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.status import Status

    from lambdaml import events
    from lambdaml.settings import Settings

LINE_EVERY_S = 2.0
"""The least seconds between two lines of progress if there is no terminal."""

REFRESH_PER_S = 8
RECENT_UPDATES = 200
RECENT_COMMITS = 20
RATE_OVER_S = 10.0

_LEFT_OR_SAID_WHY = (0, 1, 2)
"""The exit statuses of functions that finished, left in time, or reported an error, with which the command ends."""


@dataclass(slots=True)
class Picture:
    """The state of the run according to its events; `place` is the name that its user gave it."""

    place: str
    settings: Settings | None = None
    functions: int = 0
    started: int = 0
    version: int = 0
    done: int = 0
    metrics: str = ""
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_COMMITS))
    staleness: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT_UPDATES))
    pace: deque[tuple[float, int, int]] = field(default_factory=deque)
    waiting: dict[int, float] = field(default_factory=dict)
    cut_off: set[str] = field(default_factory=set)
    """The names of the functions that cannot reach the store; an empty name is this process."""
    warned: set[str] = field(default_factory=set)
    heard: bool = False
    """Whether any event has come from a function or was about one."""

    def copy(self) -> Picture:
        """Return a copy of the picture as it is now."""
        return replace(
            self,
            losses=self.losses.copy(),
            staleness=self.staleness.copy(),
            pace=self.pace.copy(),
            waiting=self.waiting.copy(),
            cut_off=self.cut_off.copy(),
        )

    def take(self, event: events.Event, now: float) -> str | None:
        """Learn from an event at `now` seconds; return news that deserves a line of its own, or None."""
        self.heard = self.heard or bool(event.function)
        take = getattr(self, f"_take_{event.event}", None)
        news: str | None = take(event, now) if take else None
        return news

    def _take_run(self, event: events.RunEvent, now: float) -> str:
        self.settings = settings = event.settings
        self.functions = event.functions
        until = f"until {settings.target}" if settings.target else f"{settings.steps} steps"
        return (
            f"{_format.shown(self.place)}: {settings.schedule}, {_format.workers(settings)} "
            f"on {self.functions} functions, {until}"
        )

    def _take_started(self, event: events.StartedEvent, now: float) -> str | None:
        self.started += 1
        return f"{event.function} takes its place" if self.started > self.functions else None

    def _take_ended(self, event: events.EndedEvent, now: float) -> str | None:
        code = event.code
        self.cut_off.discard(event.function)
        if code in _LEFT_OR_SAID_WHY:
            return None
        reason = event.reason or (f"signal {-code}" if code < 0 else f"status {code}")
        return f"{event.function} died ({reason})"

    def _take_room(self, event: events.RoomEvent, now: float) -> str:
        seconds = _format.duration(event.seconds)
        return f"no room for a function, which needs {event.needs}, since {seconds}: ask for less or add nodes"

    def _take_sent(self, event: events.SentEvent, now: float) -> str:
        size, files = _format.size(event.size_bytes), event.files
        return f"sent to Ray's nodes: {event.folder}, {files} file{'s' if files > 1 else ''}, {size}"

    def _take_takeover(self, event: events.TakeoverEvent, now: float) -> str:
        return f"{event.function} takes over worker {event.worker}, which fell silent"

    def _take_waiting(self, event: events.WaitingEvent, now: float) -> str:
        self.waiting[event.worker] = now - event.seconds
        return f"waiting for worker {event.worker} since {_format.duration(event.seconds)}"

    def _take_outage(self, event: events.OutageEvent, now: float) -> str | None:
        first = not self.cut_off
        self.cut_off.add(event.function)
        patience = _format.duration(event.patience_s)
        return f"the store cannot be reached, waiting for up to {patience}: {event.error}" if first else None

    def _take_recovered(self, event: events.RecoveredEvent, now: float) -> str | None:
        self.cut_off.discard(event.function)
        seconds = _format.duration(event.seconds)
        return None if self.cut_off else f"the store can be reached again, after {seconds}"

    def _take_metrics(self, event: events.MetricsEvent, now: float) -> str:
        values = _format.metrics(event.metrics)
        self.metrics = f"{values} at version {event.version}"
        return f"version {event.version}: {values}"

    def _take_warning(self, event: events.WarningEvent, now: float) -> str | None:
        if event.text in self.warned:
            return None
        self.warned.add(event.text)
        return f"warning: {event.text}"

    def _take_plan(self, event: events.PlanEvent, now: float) -> str:
        return event.line

    def _take_commit(self, event: events.CommitEvent, now: float) -> str | None:
        self.version, self.done = event.version, event.progress
        self.waiting.clear()
        if event.training_loss is not None:
            self.losses.append(event.training_loss)
        self.staleness.extend(event.staleness)
        self.pace.append((now, self.done, self.version))
        while self.pace[0] is not self._since(now):
            self.pace.popleft()
        return f"version {self.version}: rejected {'; '.join(event.rejected)}" if event.rejected else None

    @property
    def target(self) -> str | None:
        return None if self.settings is None else self.settings.target

    def _since(self, now: float) -> tuple[float, int, int]:
        """Return the first commit of the last `RATE_OVER_S`, or an earlier one so that there are at least two."""
        recent = next((moment for moment in self.pace if now - moment[0] <= RATE_OVER_S), self.pace[-1])
        return recent if recent is not self.pace[-1] else self.pace[max(0, len(self.pace) - 2)]

    def left_s(self, now: float) -> float | None:
        """Return the seconds left at the pace of the recent past up to `now`; None if a target decides the end."""
        settings = self.settings
        if len(self.pace) < 2 or settings is None or settings.target:
            return None
        first, last = self._since(now), self.pace[-1]
        # quorum counts optimizer steps, the others the updates of all workers
        counted = 2 if settings.schedule.startswith("quorum") else 1
        total = settings.steps * (1 if counted == 2 else settings.workers)
        moved = last[counted] - first[counted]
        return max(0, total - last[counted]) * (now - first[0]) / moved if moved else None

    def updates_per_s(self, now: float) -> float | None:
        """Return the updates per second in the recent past up to `now`, so the rate falls while nothing happens."""
        if len(self.pace) < 2 or now == self._since(now)[0]:
            return None
        first = self._since(now)
        return (self.pace[-1][1] - first[1]) / (now - first[0])

    def facts(self, now: float) -> list[str]:
        """Return all facts that are known at `now`, in a few words each."""
        facts = [f"version {self.version}"]
        if self.losses:
            facts.append(f"training loss {statistics.fmean(self.losses):.4g}")
        if self.metrics:
            facts.append(self.metrics)
        rate = self.updates_per_s(now)
        if rate is not None:
            facts.append(f"{rate:.3g} updates/s")
        if self.pace and now - self.pace[-1][0] > RATE_OVER_S:
            facts.append(f"last commit {_format.duration(now - self.pace[-1][0])} ago")
        if self.staleness:
            from lambdaml.log.summary import Staleness

            recent = Staleness.of(list(self.staleness))
            facts.append(f"staleness p50 {recent.p50:.0f} p95 {recent.p95:.0f}")
        left_s = self.left_s(now)
        if left_s is not None:
            facts.append(f"{_format.duration(left_s)} left")
        if self.target:
            facts.append(f"until {self.target}")
        return facts

    def line(self, now: float) -> str:
        """Return the facts in one line of the output, without those that news and the first line have told.

        If the line would be too long, it lacks the rate, or more.
        """
        facts = [fact for fact in self.facts(now) if fact not in (self.metrics, f"until {self.target}")]
        while len(line := ", ".join(facts)) > _format.columns():
            del facts[2]
        return line

    def waits(self, now: float) -> str:
        """Say which workers the run waits for at `now`, and how long it has; empty if it waits for none."""
        return ", ".join(
            f"worker {w} since {_format.duration(now - since)}" for w, since in sorted(self.waiting.items())
        )


class Progress:
    """Shows a run's events on a console; `take` may be called from any thread.

    Nothing is printed while the lock is held, since a console has a lock of its own and holds it while it asks for
    the picture.

    Args:
        console: The console of stdout, or of stderr if stdout is for JSON.
        place: The run's URL, as its user wrote it.
    """

    def __init__(self, console: Console, place: str) -> None:
        self._console = console
        self._picture = Picture(place)
        self._lock = threading.Lock()
        self._line_at = float("-inf")
        self._stopping = False
        self._stopped = False
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(self, console=self._console, refresh_per_second=REFRESH_PER_S, transient=True)
            self._live.start()
            sys.breakpointhook = self._debug
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Show no more."""
        if self._live is not None:
            sys.breakpointhook = sys.__breakpointhook__
            self._live.stop()

    def _debug(self, *args: Any, **options: Any) -> Any:
        """Handle a `breakpoint()` of the job: from now on the debugger has the terminal."""
        self.close()
        if "PYTHONBREAKPOINT" in os.environ:
            return sys.__breakpointhook__(*args, **options)  # noqa: T100
        from pdb import Pdb

        return Pdb(nosigint=True).set_trace(sys._getframe(1))

    def take(self, event: events.Event) -> None:
        """Show an event.

        Raises:
            KeyboardInterrupt: Once after `stop`, in the main thread only.
        """
        now = time.monotonic()
        with self._lock:
            news = self._picture.take(event, now)
            facts_due = self._live is None and event.event == "commit" and now - self._line_at >= LINE_EVERY_S
            if facts_due and not news:
                self._line_at = now
        if not news and facts_due:
            news = self._now().line(now)
        if news:
            self.say(news)
        if self._stopping and not self._stopped and threading.current_thread() is threading.main_thread():
            self._stopped = True
            raise KeyboardInterrupt

    def say(self, line: str) -> None:
        """Print a line above the picture."""
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def stop(self) -> None:
        """Make `take` end the run, since somebody pressed Ctrl-C."""
        self._stopping = True
        if self.heard:
            self.say("stopping: functions publish what they have; Ctrl-C again quits at once")

    @property
    def begun(self) -> bool:
        """Whether the run has begun, according to its events."""
        return self._now().settings is not None

    @property
    def heard(self) -> bool:
        """Whether there are functions, or have been."""
        return self._now().heard

    def _now(self) -> Picture:
        with self._lock:
            return self._picture.copy()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        picture = self._now()
        now = time.monotonic()
        facts = picture.facts(now) if picture.version else ["starting"]
        waits = picture.waits(now)
        yield Text(" · ".join(["stopping"] if self._stopping else facts), style="bold")
        if waits:
            yield Text(f"waiting for {waits}", style="yellow")


class Share:
    """Says on stderr how much of a piece of work is done, once it has taken two seconds.

    The work calls it with the share that is done, from any thread.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._begun: tuple[float, float] | None = None
        self._said_at = time.monotonic()
        self._status: Status | None = None
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Show no more."""
        if self._status is not None:
            self._status.stop()

    def __call__(self, share: float) -> None:
        """Show that this share is done.

        Raises:
            KeyboardInterrupt: After `stop`, so that the work ends.
        """
        if self._stopped:
            raise KeyboardInterrupt
        now = time.monotonic()
        if self._begun is None:
            self._begun, self._said_at = (now, share), now
        if now - self._said_at < (LINE_EVERY_S if self._status is None else 1 / REFRESH_PER_S):
            return
        self._said_at = now
        (began, first), line = self._begun, f"{self._what}: {share:.0%} done"
        if share > first:
            line += f", {_format.duration((now - began) * (1 - share) / (share - first))} left"
        self.say(line)

    def say(self, line: str) -> None:
        """Show a line; on a terminal it replaces the one before."""
        from rich.console import Console

        console = Console(stderr=True, highlight=False, markup=False)
        if not console.is_terminal:
            console.print(line, soft_wrap=True)
        elif self._status is None:
            self._status = console.status(line)
            self._status.start()
        else:
            self._status.update(line)

    def stop(self) -> None:
        """Make the next call end the work, since somebody pressed Ctrl-C."""
        self._stopped = True

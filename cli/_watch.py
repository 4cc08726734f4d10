"""Follows a run by what its bucket holds, whoever works on it and wherever."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from lambdaml.cli import _view
from lambdaml.cli._interrupt import raising

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from lambdaml.cost.billing.prices import PriceBook
    from lambdaml.cost.reporting.spending import Purse
    from lambdaml.engines.invoke import Invoker
    from lambdaml.traces.observer import Observer
    from lambdaml.traces.seen import Seen

LOOK_S = 0.5
"""What is shown changes this often, in seconds."""

LINE_S = 10.0
"""The seconds between two lines where there is no terminal."""


class Watched:
    """A run that somebody watches, for `rich` to show.

    Args:
        url: The run's URL.
        prices: The prices of what it uses.
    """

    def __init__(self, url: str, prices: PriceBook | None) -> None:
        from lambdaml.cost.reporting.spending import Purse
        from lambdaml.traces.observer import Observer

        self.observer: Observer = Observer(url)
        self._purse: Purse = Purse(self.observer.run, prices)
        self.seen: Seen = self.observer.seen()

    def lines(self, width: int, height: int) -> list[_view.Line]:
        """Return the picture."""
        spending = self._purse.spending(self.seen)
        return _view.view(self.seen, spending, self.observer.run.settings, width, height)

    def to_dict(self) -> dict[str, Any]:
        """Return the picture as plain values, for JSON."""
        return {**self.seen.to_dict(), "spending": self._purse.spending(self.seen).to_dict()}

    def page(self) -> str:
        """Return a page that shows the picture and brings itself up to date."""
        from lambdaml.cost.reporting.live import live_page

        return live_page(*self._told())

    def live(self) -> str:
        """Return what changes on that page, as JSON."""
        from lambdaml.cost.reporting.live import live_part

        return live_part(*self._told(), self.to_dict())

    def _told(self) -> tuple[Seen, list[tuple[str, str]], str]:
        seen = self.seen  # another thread may put a newer one in its place
        words = _view.words(seen, self._purse.spending(seen), self.observer.run.settings)
        return seen, words, _view.stall(seen) if seen.stalled else ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        for style, line in self.lines(options.max_width, options.size.height - 1):
            yield Text(line, style=style, no_wrap=True)


def watch(watched: Watched, invoker: Callable[[], Invoker] | None, web: bool) -> None:
    """Show a run until it has ended, or until nobody works on it: on a terminal as a picture, elsewhere in lines on
    stderr.

    Args:
        watched: The run.
        web: Whether browsers on this machine are shown it, too.
        invoker: A callable that returns what starts functions on Lambda again that have all fallen silent; None if
            nobody is to be started.

    Raises:
        UserError: If functions are to be started, and the run was never launched on Lambda.
        KeyboardInterrupt: If Ctrl-C was pressed. The run goes on.
    """
    try:
        with raising(), _served(watched) if web else nullcontext():
            if sys.stdout.isatty():
                from rich.live import Live

                with Live(watched, transient=True, refresh_per_second=1 / LOOK_S):
                    _follow(watched, Keeper(watched.observer, invoker), lambda: None)
            else:
                _follow(watched, Keeper(watched.observer, invoker), _Lines(watched).show)
    except KeyboardInterrupt:
        print("the run goes on", file=sys.stderr)
        raise


@contextmanager
def _served(watched: Watched) -> Iterator[None]:
    from lambdaml.cli._web import Web

    watched.page()  # if it cannot be made, that is said before anything begins
    with Web(watched.page, watched.live) as web:
        print(f"look at {web.url}", file=sys.stderr, flush=True)
        yield
        web.end()


def _follow(watched: Watched, keeper: Keeper, show: Callable[[], None]) -> None:
    while True:
        watched.seen = watched.observer.look()
        if watched.seen.over or (watched.seen.state == "stopped" and not keeper.keep()):
            watched.seen = watched.observer.finish()
            return
        show()
        time.sleep(LOOK_S)


class _Lines:
    """Prints a line now and then, and at once when something stalls."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._said = float("-inf")
        self._before: tuple[int, bool] = (-1, False)

    def show(self) -> None:
        """Print a line if it is time for one, and something has changed."""
        seen, now = self._watched.seen, time.monotonic()
        told = (seen.version, seen.stalled)
        if seen.stalled and not self._before[1] or (told != self._before and now - self._said >= LINE_S):
            self._said, self._before = now, told
            print(_view.sentence(seen), file=sys.stderr, flush=True)


class Keeper:
    """Starts functions on Lambda again whenever all have fallen silent, if that is asked for.

    Args:
        observer: Whoever looks at the run.
        invoker: See `watch`.

    Raises:
        UserError: If functions are to be started, and the run was never launched on Lambda.
    """

    def __init__(self, observer: Observer, invoker: Callable[[], Invoker] | None) -> None:
        from lambdaml.errors import UserError
        from lambdaml.log.launches import Launch

        self._run, self._invoker = observer.run, invoker
        self._kept = float("-inf")
        self._found = None if invoker is None else Launch.newest(self._run.store)
        if invoker is not None and self._found is None:
            raise UserError(f"{self._run.url} was not launched on Lambda: 'lambdaml resume' goes on with it")

    def keep(self) -> bool:
        """Start the functions again, at most once in a lease's time; return whether that is asked for at all."""
        from lambdaml.engines.invoke import Work, keep

        if self._invoker is None or self._found is None:
            return False
        lease_s = self._run.settings.lease_s
        if time.monotonic() - self._kept > lease_s:
            self._kept = time.monotonic()
            started = keep(self._run.store, lease_s, self._found[0], Work.of_event(self._found[1]), self._invoker())
            print(f"nobody worked on the run: {started} functions were started again", file=sys.stderr)
        return True

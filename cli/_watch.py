"""Follows a run by what its bucket holds, whoever works on it and wherever."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lambdaml.cli._interrupt import raising
from lambdaml.cli._progress import Progress

if TYPE_CHECKING:
    from lambdaml.engines.bulletin import Bulletin
    from lambdaml.engines.invoke import Invoker
    from lambdaml.events import Event
    from lambdaml.log.reader import RunReader

_LOOK_S = 0.5


def watch(url: str, invoker: Callable[[], Invoker] | None) -> None:
    """Show the progress of a run on stderr until it has ended, or until nobody works on it.

    Args:
        url: The run.
        invoker: A callable that returns what starts functions on Lambda again that have all fallen silent; None if
            nobody is to be started.

    Raises:
        UserError: If functions are to be started, and the run was never launched on Lambda.
    """
    from rich.console import Console

    with Progress(Console(stderr=True), url) as progress:
        try:
            with raising():
                _follow(url, progress, invoker)
        except KeyboardInterrupt:
            progress.close()
            print("the run goes on", file=sys.stderr)
            raise


def _follow(url: str, progress: Progress, invoker: Callable[[], Invoker] | None) -> None:
    from lambdaml.engines.bulletin import Bulletin
    from lambdaml.engines.invoke import Work, keep
    from lambdaml.errors import UserError
    from lambdaml.events import RunEvent
    from lambdaml.log.launches import Launch
    from lambdaml.log.reader import RunReader
    from lambdaml.log.status import status

    run = RunReader(url)
    found = Launch.newest(run.store)
    if invoker is not None and found is None:
        raise UserError(f"{run.url} was not launched on Lambda: 'lambdaml resume' goes on with it")
    bulletin = Bulletin(run.store, run.settings, found[0].token if found else "")
    now = status(run)
    progress.take(RunEvent(run=url, settings=run.settings, functions=len(now.functions)))
    news, checked = _news(run, bulletin), time.monotonic()
    while not bulletin.over and (now.state == "running" or invoker is not None):
        for event in next(news):
            progress.take(event)
        if time.monotonic() - max(bulletin.moved, checked) > run.settings.lease_s or now.state != "running":
            now, checked = status(run), time.monotonic()
            if invoker is not None and found is not None and now.state != "running":
                started = keep(run.store, run.settings.lease_s, found[0], Work.of_event(found[1]), invoker())
                progress.say(f"nobody worked on the run: {started} functions were started again")
        time.sleep(_LOOK_S)


def _news(run: RunReader, bulletin: Bulletin) -> Iterator[list[Event]]:
    """Yield what has happened since the last call, again and again."""
    from lambdaml.engines.bulletin import FUNCTIONS_S
    from lambdaml.events import MetricsEvent

    looked, known = time.monotonic(), max(run.last_metrics(), default=-1)
    while True:
        events = list(bulletin.news())
        if time.monotonic() - looked > FUNCTIONS_S or bulletin.over:
            looked = time.monotonic()
            fresh = {version: values for version, values in run.last_metrics().items() if version > known}
            events += [MetricsEvent(version=version, metrics=values) for version, values in fresh.items()]
            known = max([known, *fresh])
        yield events

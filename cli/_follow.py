"""Runs `train` or `resume` while it shows the progress, and says at the end what the result is and where the run is."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lambdaml.cli import _format
from lambdaml.cli._interrupt import NOTHING_DONE, PATIENCE_S, WITHIN_S, at_once, interruptible
from lambdaml.cli._progress import Progress

if TYPE_CHECKING:
    from lambdaml.events import Emit
    from lambdaml.run import Run
    from lambdaml.settings import Settings
    from lambdaml.storage import Store
    from lambdaml.training.driver import TrainResult

Work = Callable[["Store", "Emit"], "TrainResult"]

_ENDS = {
    "steps": "all steps taken",
    "target": "target reached",
    "cancelled": "cancelled",
    "patience": "no better for too long",
    "replanned": "ended to be planned again",
}


def follow(url: str, work: Work, as_json: bool) -> int:
    """Do `work` on the store at `url`, show its progress, print a summary, and return the exit status.

    A run in a store that ends with this process is copied to the next free `runs/<job>-<n>`, however it ended. Whatever
    `work` raises is passed on.

    Raises:
        RunFailed: If the run did not do what was asked of it.
    """
    with at_once(NOTHING_DONE):
        from rich.console import Console

        import lambdaml.run  # noqa: F401  # the last words after Ctrl-C need it, and should not wait for an import
        from lambdaml.errors import JobFailed, RunNotFound
        from lambdaml.storage import open_store

        store = open_store(url)

    try:
        with Progress(Console(stderr=as_json), url) as progress:

            def last_words() -> None:
                progress.close()
                progress.say(_stopped(_kept(store)))

            with interruptible(
                progress.stop,
                last_words,
                lambda: _stopped_somewhere(url, progress.begun),
                patience_s=lambda: PATIENCE_S if progress.heard else 0.0,
                within_s=float("inf") if store.ephemeral else WITHIN_S,
            ):
                try:
                    result = work(store, progress.take)
                except Exception as error:
                    progress.close()
                    run = _kept(store) if store.ephemeral else None
                    if run is not None:
                        progress.say(f"the run was kept: {_format.shown(run.url)}")
                    if isinstance(error, JobFailed) and progress.begun:
                        error.add_note(
                            f"'lambdaml logs {_format.shown(run.url if run else url)}' shows what it printed"
                        )
                    raise
                run = _kept(store)
                if run is None:
                    raise RunNotFound(f"{_format.shown(url)} is not there any more: was it deleted?")
        if as_json:
            _format.print_json({**result.to_dict(), "run": run.url, "store": url})
        else:
            _format.print_pairs(_summary(result, run))
        _demand_success(result, run)
        return 0
    finally:
        store.close()


def _kept(store: Store) -> Run | None:
    """Return the run in the store that keeps it from now on, or None if there is no run."""
    from lambdaml.errors import RunNotFound
    from lambdaml.run import Run
    from lambdaml.storage import copy, open_store

    try:
        run = Run(store)
    except RunNotFound:
        return None
    if not store.ephemeral:
        return run
    from lambdaml.log import keys
    from lambdaml.training.asked import free_place

    with free_place(run.settings.job.spec) as url:
        place = open_store(url)
        # Functions that were not waited for may still write. Snapshots are copied first, so that the log covers each.
        copy(store, place, keys.SNAPSHOTS)
        copy(store, place)
        return Run(place)


def _stopped(run: Run | None) -> str:
    if run is None:
        return "stopped before the run had begun: there is nothing to resume"
    return f"stopped at version {run.status().version}; go on with: lambdaml resume {_format.shown(run.url)}"


def _stopped_somewhere(url: str, begun: bool) -> str:
    """Return the same message without asking the store."""
    resume = f"lambdaml resume {_format.shown(url)}"
    return f"stopped; go on with: {resume}" if begun else f"stopped; if the run had begun, go on with: {resume}"


def met(result: TrainResult, target: str | None) -> bool:
    """Return whether the result meets the target; without a target it does not."""
    from lambdaml.settings import reached

    return target is not None and bool(result.metrics) and reached(target, result.metrics)


def _demand_success(result: TrainResult, run: Run) -> None:
    """Fail the command if the run did not do what was asked of it.

    Raises:
        RunFailed: If the run was stopped, or ended without reaching its target.
    """
    from lambdaml.errors import RunFailed

    target = run.settings.target
    if result.stop == "replanned" and not met(result, target):
        job, place = run.settings.job.spec, _format.shown(f"{run.url}@{result.version}")
        raise RunFailed(
            f"the run ended to be planned again; go on with: lambdaml train {shlex.quote(job)} --from {place}"
        )
    if result.stop not in ("steps", "target", "patience", "replanned"):
        raise RunFailed(f"the run was {_ENDS.get(result.stop, result.stop)}")
    if target is not None and not met(result, target):
        raise RunFailed(f"the run ended without reaching its target {target}")


def _end(result: TrainResult, settings: Settings) -> str:
    """Say why a run ended."""
    from lambdaml.training.gains import Yardstick

    patience = settings.patience_evaluations
    yardstick = Yardstick.of_run(result.best.metrics if result.best else (), settings.target)
    if result.stop != "patience" or patience is None or yardstick is None:
        return _ENDS.get(result.stop, result.stop)
    return f"stopped: {yardstick.no_gain(patience)}"


def _summary(result: TrainResult, found: Run) -> Iterator[tuple[str, str]]:
    run, end = _format.shown(found.url), _end(result, found.settings)
    sent, received = (_format.size(result.bytes[way]) for way in ("sent", "received"))
    yield "result", f"{_format.metrics(result.metrics)} at version {result.version} ({end})"
    if result.best is not None and result.best.version != result.version:
        yield "best", f"{_format.metrics(result.best.metrics)} at version {result.best.version}"
    yield "updates", f"{result.updates:,} ({_format.counts(result.fates)}), {result.samples:,} samples"
    if result.rejections:
        yield "rejections", result.rejections
    yield "staleness", _format.staleness(result.staleness)
    yield "requests", f"{sum(result.requests.values()):,} ({_format.counts(result.requests)})"
    yield "bytes", f"{sent} sent, {received} received"
    yield "time", _format.duration(result.seconds)
    yield "run", run
    yield "check it", f"lambdaml verify {run}"
    yield "look at it", f"lambdaml report {run}"

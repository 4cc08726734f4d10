"""Runs that begin where another one stands: with its weights, its optimizer and its learning-rate schedule.

All else is their own: log, updates and versions count from zero, and the data is dealt out anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambdaml import keys
from lambdaml.errors import SettingsError
from lambdaml.settings import Origin
from lambdaml.snapshot import RULE, State

if TYPE_CHECKING:
    from lambdaml.replica import Replica


def find_origin(spec: str) -> Origin:
    """`URL`, whose result it is or else the newest snapshot, or `URL@VERSION`.

    Raises:
        RunNotFound: there is no such run.
        SettingsError: it has no such version.
    """
    from lambdaml.run import Run

    url, at, number = spec.rpartition("@")
    if not (at and number.isdecimal()):
        url, number = spec, ""
    run = Run(url)
    _, last, _ = run.tail()
    if number:
        if int(number) > (last.last_version if last else 0):
            raise SettingsError(f"{url} has no version {number}: the last is {last.last_version if last else 0}")
        return Origin(run=run.url, version=int(number))
    if last is not None and last.stop is not None and last.stop.version is not None:
        return Origin(run=run.url, version=last.stop.version)
    return Origin(
        run=run.url, version=max((keys.number(info.key) for info in run.store.list(keys.SNAPSHOTS)), default=0)
    )


def go_on_from(replica: Replica, origin: Origin) -> None:
    """Have a fresh replica begin with the origin's state. What a staleness rule remembers comes along if it is the same
    rule for as many workers.

    Raises:
        RunNotFound, SettingsError, BadObject: the origin is not there any more.
        JobError: it has another model or optimizer.
    """
    from lambdaml.run import Run

    run = Run(origin.run, replica.job)
    data = run.store.get(keys.snapshot(origin.version))
    state = State.load(data, keys.snapshot(origin.version)) if data is not None else run.replay(origin.version)
    fresh = replica.state()
    alike = (run.settings.staleness, run.settings.workers) == (replica.settings.staleness, replica.settings.workers)
    tensors = {name: tensor for name, tensor in state.tensors.items() if alike or not name.startswith(RULE)}
    if not alike:
        tensors |= {name: tensor for name, tensor in fresh.tensors.items() if name.startswith(RULE)}
    replica.load(State(tensors, {**state.meta, "view": fresh.meta["view"]}))

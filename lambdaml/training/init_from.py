"""Runs that begin where another one stands: with its weights, its optimizer and its learning-rate schedule.

All else is their own: log, updates and versions count from zero, and the data is dealt out anew.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lambdaml.errors import JobError, RunNotFound, SettingsError
from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.log.snapshot import FROZEN_DIGEST, RULE_PREFIX, State, read_state
from lambdaml.settings import RunVersion
from lambdaml.storage.errors import BadStoreURL
from lambdaml.training.replay import rebuild

if TYPE_CHECKING:
    from lambdaml.training.replica import Replica


def find_version(spec: str) -> RunVersion:
    """`URL`, whose result it is or else the newest snapshot, or `URL@VERSION`.

    Raises:
        RunNotFound: there is no such run.
        SettingsError: it has no such version.
    """
    url, number = spec, ""
    if (parts := re.fullmatch(r"(.+)@(\d+)", spec)) and not _is_run(spec):
        url, number = parts[1], parts[2]
    run = RunReader(url)
    if number:
        if int(number) > (newest := run.version()):
            raise SettingsError(f"{url} has no version {number}: the last is {newest}")
        return RunVersion(run=run.url, version=int(number))
    last = run.tail()[1]
    if last is not None and last.stop is not None and last.stop.version is not None:
        return RunVersion(run=run.url, version=last.stop.version)
    return RunVersion(run=run.url, version=run.newest_snapshot())


def _is_run(url: str) -> bool:
    try:
        RunReader(url)
    except (RunNotFound, BadStoreURL):
        return False
    return True


def begin_from(replica: Replica, origin: RunVersion) -> None:
    """Have a fresh replica begin with the origin's state. Staleness rules begin anew: what they remember is of the origin's
    versions and workers.

    Raises:
        RunNotFound, SettingsError, BadObject: the origin is not there any more.
        JobError: it has another model, optimizer or scheduler.
    """
    run = RunReader(origin.run)
    state = read_state(run.store, keys.snapshot(origin.version))
    if state is None:
        job = None if run.settings.job.fingerprint else replica.job  # if its job was an object
        state = rebuild(run, origin.version, job)  # in whatever class: the new run begins with a snapshot of it
    if (state.meta["scheduler"] is None) != (replica.scheduler is None):
        raise JobError(f"either this job or that of {origin.run} has a learning-rate scheduler, and the other has none")
    fresh = replica.shared_state()
    tensors = {name: tensor for name, tensor in state.all_tensors.items() if not name.startswith(RULE_PREFIX)}
    tensors |= {name: tensor for name, tensor in fresh.tensors.items() if name.startswith(RULE_PREFIX)}
    replica.load(State(tensors, {**state.meta, "log_state": fresh.meta["log_state"], FROZEN_DIGEST: None}))

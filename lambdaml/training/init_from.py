"""A run can begin with the state of another run: with its weights, its optimizer and its learning-rate schedule.

All else is its own: log, updates and versions count from zero, the data is dealt out afresh, and workers remember
nothing. From a run of another algorithm only the weights and buffers are taken, since its optimizer is another one.
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
    """Find the version that `URL` or `URL@VERSION` names; a plain URL names the run's result, or else its newest
    snapshot.

    Raises:
        RunNotFound: If there is no such run.
        SettingsError: If the run has no such version.
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
    """Load the origin's state into a fresh replica. The staleness rule starts without memory, since the origin's memory
    is about other versions and workers.

    Raises:
        RunNotFound, SettingsError, BadObject: If the origin no longer exists or cannot be read.
        JobError: If the origin has another model, optimizer or scheduler.
    """
    from lambdaml.training.inner_rates import inner_step
    from lambdaml.training.replica import INNER_SCHEDULE

    run = RunReader(origin.run)
    state = read_state(run.store, keys.snapshot(origin.version))
    if state is None:
        job = None if run.settings.job.fingerprint else replica.job  # the origin's job may have been an object
        state = rebuild(run, origin.version, job)  # any numerics class will do: the new run begins with a snapshot
    fresh = replica.shared_state()
    same = run.settings.algorithm == replica.settings.algorithm
    if same and (state.meta["scheduler"] is None) != (fresh.meta["scheduler"] is None):
        raise JobError(f"either this job or that of {origin.run} has a learning-rate scheduler, and the other has none")
    own = (RULE_PREFIX,) if same else (RULE_PREFIX, "optimizer", "scheduler")
    tensors = {name: tensor for name, tensor in state.all_tensors.items() if not name.startswith(own)}
    tensors |= {name: tensor for name, tensor in fresh.tensors.items() if name.startswith(own)}
    meta = {**state.meta, "log_state": fresh.meta["log_state"], FROZEN_DIGEST: None}
    if not same:
        meta |= {name: fresh.meta[name] for name in ("optimizer", "scheduler")}
    elif replica.scheduler is None and meta["scheduler"] is not None:
        before = inner_step(state.meta["log_state"]["samples"], run.settings)
        meta["scheduler"] = {INNER_SCHEDULE: meta["scheduler"][INNER_SCHEDULE] + before}
    replica.load(State(tensors, meta))

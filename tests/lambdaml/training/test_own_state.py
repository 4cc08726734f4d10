"""A worker's own model is rebuilt from the bucket as the worker had it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.errors import BadObject, SettingsError
from lambdaml.log import keys
from lambdaml.training.own_state import own_state, own_values
from lambdaml.training.replay import commits_from, replica_at
from lambdaml.training.replica import Replica
from tests.lambdaml.lab import Made, equal, table, train

WORKERS, STEPS = 3, 12
JOB = Made(lambda: nn.Linear(6, 3), lambda ps: torch.optim.SGD(ps, lr=0.1), dataset=lambda: table(60))


def gaia(**options: Any) -> lambdaml.Run:
    asked = {"algorithm": "local:1,ahead=yes,outer=sum", "codec": "significant:0.3", "keep": "all"}
    run = train(JOB, **{"workers": WORKERS, "steps": STEPS, "functions": 2, "snapshot_every": 4} | asked | options)
    return lambdaml.Run(run.store, JOB)


def followed(run: lambdaml.Run) -> dict[tuple[int, int], np.ndarray]:
    """The own models of all workers after each commit, by version and worker, from a replay that computes everything."""
    replica, found = replica_at(run, 0, JOB), {}
    due: dict[int, list[tuple[int, int]]] = {}
    entries = list(commits_from(run, 0))
    for _, updates in entries:
        for update in updates.values():
            due.setdefault(update.base_commit, []).append(update.id)
    for commit, updates in entries:
        for worker, seq in sorted(due.get(replica.log_state.commit, [])):
            replica.update(worker, seq)
        replica.apply(commit, updates)
        for worker in range(WORKERS):
            found[replica.version, worker] = own_values(replica, worker, made_by(replica, worker))
    return found


def made_by(replica: Replica, worker: int) -> int:
    return next(seq for seq in range(STEPS + 1) if replica.memories.holds(worker, seq))


def values(state: Any) -> np.ndarray:
    return np.concatenate([state.tensors[f"model/{name}"].numpy().ravel() for name in ("weight", "bias")])


@pytest.mark.parametrize("schedule", ["bsp", "ssp:2", "pipeline:1"])
def test_it_is_the_shared_one_with_what_the_worker_has_not_sent(schedule: str) -> None:
    run = gaia(schedule=schedule, functions=1)
    found = followed(run)
    ahead = 0
    for (version, worker), expected in sorted(found.items()):
        own = own_state(run, worker, version, JOB)
        assert own.version == version and values(own).tobytes() == expected.tobytes(), (version, worker)
        ahead += values(own).tobytes() != values(run.replay(version)).tobytes()
    assert ahead > len(found) / 2
    last = own_state(run, 1, job=JOB)
    assert values(last).tobytes() == found[run.version(), 1].tobytes()


def test_it_begins_with_the_newest_memory_that_serves() -> None:
    run, plain = gaia(recover_s=1e-6), gaia()
    assert list(run.store.list(keys.MEMORY)) and not list(plain.store.list(keys.MEMORY))
    for version in (3, STEPS):
        assert equal(own_state(run, 2, version, JOB).tensors, own_state(plain, 2, version, JOB).tensors)


def test_a_worker_that_computes_from_the_shared_model_has_no_other() -> None:
    for options in ({"algorithm": "local:1"}, {"algorithm": "local:1", "codec": "fp32"}, {"codec": "significant:0"}):
        run = gaia(**options)
        assert equal(own_state(run, 0, 5, JOB).tensors, run.replay(5).tensors)


def test_what_cannot_be_rebuilt_is_refused_in_a_line() -> None:
    run = gaia()
    for worker, version, said in ((3, 5, "no worker 3"), (-1, 5, "no worker -1"), (0, 99, "no version 99")):
        with pytest.raises(SettingsError, match=said):
            own_state(run, worker, version, JOB)
    turns = gaia(workers=4, schedule="cohort:2")
    with pytest.raises(SettingsError, match="take turns"):
        own_state(turns, 0, job=JOB)
    run.store.delete([keys.update(0, 2)])
    with pytest.raises(BadObject, match=r"updates/00000/0000000002"):
        own_state(run, 0, 5, JOB)

"""Local steps of workers that differ in speed, in the virtual world with real tensors: `local:auto`, delayed Nesterov."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from torch import nn

from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.log.records import Update
from lambdaml.log.snapshot import State
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.real import Timed, first_snapshot
from lambdaml.simulation.stragglers import STRAGGLERS
from lambdaml.simulation.stub_replica import Costs
from lambdaml.training.evaluation import evaluate
from lambdaml.training.verify import verify
from tests.lambdaml.lab import Made, Tiny, settings_of, table

STEP_S = 0.1


def run_of(job: Job, stragglers: str, workers: int, **options: Any) -> RunReader:
    """A run of one worker for each function, whose steps take modelled times."""
    settings, costs = settings_of(job, workers=workers, **options), Costs(step_s=STEP_S)
    virtual = VirtualRun(
        settings,
        workers,
        costs,
        Channel.parse("s3-express"),
        Platform.parse("local"),
        STRAGGLERS.make(stragglers),
        machine=lambda virtual, world: Timed(job, settings, costs, world.charge, world.now),
        start=first_snapshot(job, settings),
    )
    virtual.run()
    return virtual.run_of()


def updates_of(run: RunReader) -> dict[int, list[Update]]:
    found: defaultdict[int, list[Update]] = defaultdict(list)
    for info in run.store.list(keys.UPDATES):
        data = run.store.get(info.key)
        assert data is not None
        update = Update.read(data, info.key)
        found[update.worker].append(update)
    return found


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_with_auto_slow_workers_take_fewer_steps_so_that_rounds_take_the_same_time(schedule: str) -> None:
    """The first update has as many steps for all, since nobody's speed is known yet."""
    run = run_of(Tiny(), "slow:0,4", 3, steps=4, algorithm="local:auto,most=4", schedule=schedule)
    updates = updates_of(run)
    taken = {worker: [update.batches[1] for update in mine] for worker, mine in updates.items()}
    assert [counts[0] for counts in taken.values()] == [4, 4, 4]
    assert [counts[-1] for counts in taken.values()] == [1, 4, 4]
    for mine in updates.values():
        assert [update.batches[0] for update in mine[1:]] == [sum(update.batches) for update in mine[:-1]]
    first, last = ([mine[seq].compute_s for mine in updates.values()] for seq in (0, -1))
    assert max(first) / min(first) == pytest.approx(4)
    assert max(last) / min(last) == pytest.approx(1)
    assert verify(run, job=Tiny()).faults == []


def test_with_auto_nobody_computes_more_batches_than_the_run_has() -> None:
    updates = updates_of(run_of(Tiny(), "slow:0,4", 3, steps=3, batches=10, algorithm="local:auto,most=4"))
    taken = {worker: [update.batches for update in mine] for worker, mine in updates.items()}
    assert taken == {0: [(0, 4), (4, 1), (5, 1)], 1: [(0, 4), (4, 4), (8, 2)], 2: [(0, 4), (4, 4), (8, 2)]}


def test_a_fixed_number_of_steps_leaves_the_straggler_behind() -> None:
    run = run_of(Tiny(), "slow:0,4", 3, steps=2, algorithm="local:4")
    for seq in range(2):
        seconds = [mine[seq].compute_s for mine in updates_of(run).values()]
        assert max(seconds) / min(seconds) == pytest.approx(4)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def entropy(model: nn.Module) -> dict[str, float]:
    x, y = table(256).tensors
    return {"loss": nn.functional.cross_entropy(model(x), y).item()}


def test_asynchronous_diloco_needs_momentum_that_is_delayed() -> None:
    """Momentum of stale updates overshoots; with the rule `nesterov` it changes once for every N updates."""
    job = Made(network, dataset=lambda: table(256), evaluate=entropy)

    def loss(algorithm: str, staleness: str) -> list[float]:
        run = run_of(job, "lognormal:0.3", 8, steps=5, algorithm=algorithm, schedule="asp", staleness=staleness)
        snapshots = [info.key for info in run.store.list(keys.SNAPSHOTS)]
        states = [State.load(run.store.get(key) or b"", key) for key in (snapshots[0], snapshots[-1])]
        assert verify(run, job=job).faults == []
        return [evaluate(job, state)["loss"] for state in states]

    delayed, plain = loss("local:4,outer=sgd:0.7", "nesterov"), loss("local:4,outer=nesterov", "constant")
    print(delayed, plain)
    assert delayed[1] < delayed[0] / 2
    assert delayed[1] < plain[1] / 2

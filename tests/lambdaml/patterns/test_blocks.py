"""Slices that are objects of their own: the same bits, bounded memory, and the same promises."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

import lambdaml
from lambdaml.log import keys
from lambdaml.log.blocks import dump_vector, load_vector, read_update
from lambdaml.log.gc import gc
from lambdaml.log.records import Update
from lambdaml.simulation import stub_replica
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.faults import Verdict, try_seeds
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from lambdaml.training import slices
from lambdaml.worker.room import Room
from tests.lambdaml.patterns.test_exchange import Normed
from tests.lambdaml.simulation.scenes import settings_for


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every update were large."""
    monkeypatch.setattr(slices, "APART_BYTES", 0)


def trained(name: str, job: Any = Normed, **options: Any) -> tuple[str | None, lambdaml.Run]:
    settings: dict[str, Any] = {"workers": 5, "steps": 6, "functions": 3, "engine": "inline", "snapshot_every": 2}
    result = lambdaml.train(job, f"memory://{name}", **settings | options)
    return result.model_sha256, lambdaml.Run(f"memory://{name}")


def count(run: lambdaml.Run, prefix: str) -> int:
    return len(list(run.store.list(prefix)))


@pytest.mark.parametrize("pattern", ["scatter", "scatter:2", "scatter:11"])
@pytest.mark.parametrize("codec", ["fp32", "int8"])
@pytest.mark.usefixtures("apart")
def test_the_bits_are_those_of_gather_and_the_run_verifies(pattern: str, codec: str) -> None:
    name = f"blocks-{pattern}-{codec}".replace(":", "")
    options: dict[str, Any] = {"codec": codec, "error_feedback": 0.0}
    shared, run = trained(name, pattern=pattern, **options)
    alone, _ = trained(f"{name}-gather", **options)
    assert shared is not None and shared == alone
    parts = int(pattern.partition(":")[2] or 5)
    assert count(run, keys.BLOCKS) == 6 * 5 * parts and count(run, keys.SUMS) == count(run, keys.REDUCED) == 6 * parts
    assert all(info.size_bytes < 6000 for info in run.store.list(keys.UPDATES)), "headers and buffers alone"
    report = run.verify()
    assert report.faults == [] and report.sums == 6 * parts


@pytest.mark.usefixtures("apart")
def test_a_run_whose_workers_remember_what_they_sent_keeps_whole_objects() -> None:
    _, run = trained("blocks-memory", pattern="scatter", codec="int8", error_feedback=1.0)
    assert count(run, keys.BLOCKS) == 0 and run.verify().faults == []


@pytest.mark.usefixtures("apart")
def test_a_rejected_update_takes_a_second_attempt_without_it() -> None:
    options: dict[str, Any] = {"max_update_norm": 8.0, "max_rejected": 40}
    shared, run = trained("blocks-rejected", pattern="scatter", **options)
    alone, other = trained("blocks-rejected-gather", **options)
    rejected = [entry for commit in run.log() for entry in commit.refused]
    assert 0 < len(rejected) < 29 and shared == alone
    assert rejected == [entry for commit in other.log() for entry in commit.refused]
    assert any(info.key.endswith(".1") for info in run.store.list(keys.SUMS))
    assert run.verify().faults == []


@pytest.mark.usefixtures("apart")
def test_what_a_horizon_lets_go_is_deleted_and_a_run_can_be_collected() -> None:
    _, run = trained("blocks-keep", pattern="scatter", steps=40, keep=12)
    first = min(keys.block_id(info.key)[1] for info in run.store.list(keys.BLOCKS))
    assert first > 10
    assert first == min(keys.reduced_commit(info.key) for info in run.store.list(keys.SUMS))
    _, run = trained("blocks-gc", pattern="scatter")
    assert gc(run)
    assert count(run, keys.BLOCKS) == count(run, keys.SUMS) == 0


@pytest.mark.usefixtures("apart")
def test_an_update_is_read_whole_for_those_who_need_that() -> None:
    _, run = trained("blocks-read", pattern="scatter:3")
    update = read_update(run.store, keys.update(2, 1))
    assert update is not None and update.apart is not None and update.apart.count == 3
    header = Update.read(run.store.get(keys.update(2, 1)) or b"", keys.update(2, 1))
    assert set(update.body) - set(header.body) == {part.name for part in update.apart.parts}
    assert read_update(run.store, keys.update(2, 99)) is None


def test_the_vector_of_another_sum_is_no_vector_of_this_one() -> None:
    data = dump_vector(3, "00001.0", {"sum": np.ones(4, np.float32)})
    assert load_vector(data, keys.vector(3, "00001.0"))["sum"].tolist() == [1, 1, 1, 1]
    for other in (keys.vector(3, "00002.0"), keys.vector(4, "00001.0")):
        with pytest.raises(lambdaml.errors.BadObject, match="holds the vector of"):
            load_vector(data, other)


def large(update_bytes: int, workers: int, count: int, steps: int = 3) -> VirtualRun:
    settings = settings_for("bsp", workers, steps).model_copy(
        update={"pattern": f"scatter:{count}", "parameters": update_bytes // 4, "patience_s": 1e5}
    )
    costs = Costs(step_s=1.0, update_bytes=update_bytes, apply_update_s=update_bytes / 1e9)
    virtual = VirtualRun(settings, workers, costs, Channel.parse("s3-standard"), Platform.parse("lambda-arm:1769"))
    assert virtual.run(1e6)
    return virtual


def test_five_gigabytes_are_exchanged_with_less_than_two_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[Room] = []

    class Noted(Room):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            rooms.append(self)

    monkeypatch.setattr("lambdaml.worker.shared.Room", Noted)
    large(5 * 10**9, 4, 20)
    most = max(room.most_bytes for room in rooms)
    piece = 5 * 10**9 // 20
    assert most <= 3 * (piece + 1)
    assert most + 2 * piece < 2e9, "with the sum of the slice that is added up, and its object"


def broken(seeds: range) -> list[Verdict]:
    stub_replica.APART_BYTES = -1  # type: ignore[misc]  # in a process of its own
    return [verdict for seed in seeds for verdict in scattered(seed)]


def scattered(seed: int) -> list[Verdict]:
    from lambdaml.simulation.faults import FaultScenario

    for schedule in ("bsp", "ssp:0"):
        if FaultScenario.draw(seed, schedule).pattern.startswith("scatter"):
            return try_seeds([seed], schedule)
    return []


def test_fault_schedules_break_no_promise() -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        chunks = [range(start, start + 250) for start in range(0, 1000, 250)]
        found = [verdict for verdicts in pool.map(broken, chunks) for verdict in verdicts]
    assert not found, "\n".join(f"{verdict.command}: {verdict.broken}" for verdict in found[:5])


def test_room_is_bounded_and_one_that_is_larger_than_the_limit_goes_alone() -> None:
    class Tasks:
        def __init__(self) -> None:
            self.changed = self
            self.waited = 0

        def set(self) -> None:
            pass

        async def until(self, condition: Any) -> bool:
            self.waited += 1
            room.give("a")
            return bool(condition())

    tasks: Any = Tasks()
    room = Room(tasks)
    room.limit_bytes = 10

    async def use() -> None:
        await room.take("a", 6)
        await room.take("b", 5)
        room.move("b", "c")
        room.give("b")
        assert (room.used_bytes, room.most_bytes, tasks.waited) == (5, 6, 1)
        room.give("c")
        await room.take("a", 50)
        assert (room.used_bytes, room.most_bytes, tasks.waited) == (50, 50, 1)

    try:
        use().send(None)
    except StopIteration:
        pass

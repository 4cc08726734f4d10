"""What was damaged on its way is read again; what is damaged at its place is named."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.errors import BadObject
from lambdaml.events import Event
from lambdaml.log import keys, reads
from lambdaml.log.reads import PAUSES_S, read_many, read_now, read_twice
from lambdaml.log.trace_parts import pack_rows, unpack_rows
from lambdaml.storage import MemoryStore, Store
from lambdaml.storage.draws import Draws
from lambdaml.worker.reading import read
from tests.lambdaml.lab import Tiny, memory

STEPS = 8
GOOD = b"whole"


def unpack(data: bytes | memoryview, key: str) -> bytes:
    if bytes(data) != GOOD:
        raise BadObject(f"{key} is damaged")
    return bytes(data)


class Bad(MemoryStore):
    """Every read of a key is damaged until it was asked for so many times."""

    def __init__(self, times: int) -> None:
        super().__init__(secrets.token_hex(6))
        self.times, self.asked = times, 0

    def get(self, key: str) -> Any:
        self.asked += 1
        data = super().get(key)
        return b"%d" % self.asked if data is not None and self.asked <= self.times else data


class World:
    """A world whose clock only sleep moves."""

    def __init__(self, store: Store) -> None:
        self.store = self
        self.slept: list[float] = []
        self._store = store

    async def get(self, key: str) -> Any:
        return self._store.get(key)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("lambdaml.log.reads.time.sleep", slept.append)
    return slept


@pytest.fixture
def first_reads_damaged(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """With `?faults=damage:0.5`: whoever opens the store gets each object damaged at the first time of asking. With
    `lost:0.1` behind that the answer to each first create is lost, too. Tells how many reads were damaged."""
    struck, counts = [0], Draws.unit

    def unit(self: Draws, op: str, key: str) -> float:
        where = counts(self, op, key)
        if op not in ("get", "create") or self._met[op, key] > 1:
            return 0.75 + where / 5
        if op == "create":
            return 0.55
        struck[0] += 1
        return where / 2

    monkeypatch.setattr(Draws, "unit", unit)
    monkeypatch.setattr(reads, "PAUSES_S", (0.001, 0.001, 0.001, 0.001))
    return lambda: struck[0]


@pytest.fixture(scope="module")
def plain() -> lambdaml.TrainResult:
    return lambdaml.train(Tiny, memory().url, workers=3, steps=STEPS, snapshot_every=2, target="accuracy>=2")


def damaged_place() -> str:
    return f"memory://{secrets.token_hex(6)}?faults=damage:0.5"


def test_a_function_reads_again_after_growing_pauses_of_its_worlds_clock() -> None:
    world = World(store := Bad(times=3))
    store.put("k", GOOD)
    assert asyncio.run(read(world, "k", unpack)) == GOOD  # type: ignore[arg-type]
    assert (store.asked, world.slept) == (4, list(PAUSES_S[:3]))
    assert sorted(PAUSES_S) == list(PAUSES_S)


def test_others_read_again_as_often(slept: list[float]) -> None:
    store = Bad(times=len(PAUSES_S))
    store.put("k", GOOD)
    assert read_now(store, "k", unpack) == GOOD
    assert (store.asked, slept) == (len(PAUSES_S) + 1, list(PAUSES_S))


def test_what_stays_damaged_is_named(slept: list[float]) -> None:
    store = memory()
    store.put("k", b"bad")
    for found in (None, b"worse"):
        with pytest.raises(BadObject, match="k is damaged"):
            read_now(store, "k", unpack, found)
        world = World(store)
        with pytest.raises(BadObject, match="k is damaged"):
            asyncio.run(read(world, "k", unpack, found))  # type: ignore[arg-type]
        assert world.slept == list(PAUSES_S)


def test_what_is_not_there_is_no_damage_and_nor_is_what_went_meanwhile(slept: list[float]) -> None:
    assert read_now(memory(), "k", unpack) is None
    assert read_now(memory(), "k", unpack, b"bad") is None
    assert asyncio.run(read(World(memory()), "k", unpack, b"bad")) is None  # type: ignore[arg-type]
    assert read_many(memory(), ["a", "b"], unpack) == [None, None]


def test_of_many_the_damaged_ones_are_read_again(slept: list[float]) -> None:
    store = Bad(times=2)
    store.put("a", GOOD)
    store.put("c", GOOD)
    assert read_many(store, ["a", "b", "c"], unpack) == [GOOD, None, GOOD]


def test_an_object_without_a_checksum_is_read_until_two_readings_agree(slept: list[float]) -> None:
    store = Bad(times=2)
    store.put("k", GOOD)
    assert read_twice(store, "k") == GOOD
    assert store.asked == 4
    store.times = 10**6
    with pytest.raises(BadObject, match="reads differently each time"):
        read_twice(store, "k")
    assert read_twice(store, "none") is None


def test_rows_of_a_trace_are_checked() -> None:
    rows = [{"kind": "update", "x": 0.25}, {"kind": "meter", "y": "ä"}]
    data = pack_rows(rows)
    assert unpack_rows(data, "k") == rows
    assert unpack_rows(pack_rows([]), "k") == []
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 0x04
        for damaged in (bytes(flipped), data[:at]):
            with pytest.raises(BadObject, match="k does not match its checksum"):
                unpack_rows(damaged, "k")


def test_a_run_of_which_every_first_read_is_damaged_has_the_bits_of_any_other(
    plain: lambdaml.TrainResult, first_reads_damaged: Callable[[], int]
) -> None:
    url = damaged_place()
    result = lambdaml.train(Tiny, url, workers=3, steps=STEPS, snapshot_every=2, target="accuracy>=2")
    assert first_reads_damaged() > 30
    assert (result.model_sha256, result.metrics) == (plain.model_sha256, plain.metrics)
    assert result.fates["rejected"] == 0


def test_what_is_told_of_a_run_does_not_change_when_every_first_read_is_damaged(
    first_reads_damaged: Callable[[], int],
) -> None:
    url = damaged_place()
    lambdaml.train(Tiny, url, workers=3, steps=STEPS, schedule="asp", snapshot_every=2)

    def told(place: str) -> list[Any]:
        def fresh() -> lambdaml.Run:
            return lambdaml.Run(place)

        model = {name: tensor.tolist() for name, tensor in fresh().model().state_dict().items()}
        verified, usage = fresh().verify(), fresh().usage()
        report = (verified.faults, verified.updates, verified.model)
        replayed = fresh().replay(5).digest()
        state = fresh().status()
        facts = [state.state, state.version, state.metrics, state.functions, state.model]
        return [model, report, facts, usage, replayed, fresh().trace(), fresh().summary(), fresh().metrics()]

    before = first_reads_damaged()
    damaged = told(url)
    assert first_reads_damaged() > before + 100
    assert damaged == told(url.partition("?")[0])
    assert damaged[1] == ([], 3 * STEPS, True)


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_a_run_that_broke_off_is_gone_on_with_when_every_first_read_is_damaged(
    first_reads_damaged: Callable[[], int], plain: lambdaml.TrainResult, schedule: str
) -> None:
    url = damaged_place()

    def leave(event: Event) -> None:
        if event.event == "commit" and event.commit == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lambdaml.train(
            Tiny, url, workers=3, steps=STEPS, snapshot_every=2, schedule=schedule, target="accuracy>=2", on_event=leave
        )
    assert lambdaml.Run(url).gc() >= 0
    result = lambdaml.resume(url)
    assert result.stop == "steps"
    assert schedule != "bsp" or result.model_sha256 == plain.model_sha256
    assert lambdaml.Run(url.partition("?")[0]).verify().faults == []


def test_a_run_that_goes_on_from_another_reads_its_state_again(first_reads_damaged: Callable[[], int]) -> None:
    first = damaged_place()
    lambdaml.train(Tiny, first, workers=2, steps=4, snapshot_every=2)
    shas = [
        lambdaml.train(Tiny, damaged_place(), workers=2, steps=4, init_from=f"{origin}@{version}").model_sha256
        for version in (2, 3)
        for origin in (first, first.partition("?")[0])
    ]
    assert (shas[0], shas[2]) == (shas[1], shas[3])


def test_processes_on_a_store_that_damages_one_read_in_twenty_make_the_same_bits(
    plain: lambdaml.TrainResult, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/run?faults=damage:0.05&faults_seed=3"
    result = lambdaml.train(Tiny, url, workers=3, functions=2, steps=STEPS, snapshot_every=2, target="accuracy>=2")
    assert result.model_sha256 == plain.model_sha256
    assert lambdaml.Run(url).verify().faults == []


def test_a_damaged_answer_to_a_create_does_not_make_a_stranger_of_its_writer(
    plain: lambdaml.TrainResult, first_reads_damaged: Callable[[], int]
) -> None:
    """The answers to creates are lost, so each is settled by a read, which is damaged."""
    lost = damaged_place().replace("damage:0.5", "damage:0.5,lost:0.1")
    result = lambdaml.train(Tiny, lost, workers=3, steps=STEPS, snapshot_every=2, target="accuracy>=2")
    assert result.model_sha256 == plain.model_sha256
    run = lambdaml.Run(lost.partition("?")[0])
    assert max(keys.number(info.key) for info in run.store.list(keys.LEASES)) == 1

"""Patterns: each gives the bits of gather in its bracket, asks for what it says, and is found out if it errs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.commits import step_entries
from lambdaml.log.partial import Partial
from lambdaml.log.snapshot import State
from lambdaml.patterns.scatter import ScatterExchange
from lambdaml.simulation import faults
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.faults import FaultScenario, play
from lambdaml.simulation.judge import judge
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs, StubSum
from tests.lambdaml.lab import TinyWide
from tests.lambdaml.simulation.scenes import settings_for

BRACKETS = {"scatter": None, "scatter:2": None, "tree:2": "2^3", "tree:5": "5"}


class Normed(TinyWide):
    """A model whose buffers change in each forward pass, and whose last batch is smaller."""

    batch_size = 7

    def model(self) -> Any:
        from torch import nn

        return nn.Sequential(nn.Linear(6, 500), nn.BatchNorm1d(500), nn.Tanh(), nn.Linear(500, 3))


def trained(name: str, job: Any, **options: Any) -> tuple[str | None, lambdaml.Run]:
    result = lambdaml.train(
        job, f"memory://{name}", workers=5, steps=6, functions=3, engine="inline", snapshot_every=2, **options
    )
    return result.model_sha256, lambdaml.Run(f"memory://{name}")


@pytest.mark.parametrize("pattern", BRACKETS)
@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_a_pattern_gives_the_bits_of_gather_in_its_bracket_and_verifies(pattern: str, codec: str) -> None:
    bracket, name = BRACKETS[pattern], f"{pattern}-{codec}".replace(":", "")
    shared, run = trained(f"exchange-{name}", Normed, pattern=pattern, codec=codec)
    alone, _ = trained(f"gather-{name}", Normed, bracket=bracket, codec=codec)
    assert shared is not None and shared == alone
    report = run.verify()
    assert report.faults == []
    assert report.sums >= 6, "the sums were compared with a replay"


def planted(pattern: str, change: Any, **options: Any) -> list[str]:
    """The faults that are found in a run after one of its shared objects was changed."""
    _, run = trained(f"planted-{pattern}".replace(":", ""), Normed, pattern=pattern, **options)
    key = [info.key for info in run.store.list(keys.REDUCED)][-1]
    data = run.store.get(key)
    assert data is not None
    run.store.put(key, change(bytes(data), key))
    return run.verify().faults


@pytest.mark.parametrize("pattern", BRACKETS)
@pytest.mark.parametrize("algorithm", ["local:3", "local:3,outer=nesterov"])
def test_displacements_weigh_in_a_pattern_what_they_weigh_in_gather(pattern: str, algorithm: str) -> None:
    name = f"{pattern}-{algorithm}".replace(":", "")
    shared, _ = trained(f"exchange-{name}", Normed, pattern=pattern, algorithm=algorithm)
    alone, _ = trained(f"gather-{name}", Normed, bracket=BRACKETS[pattern], algorithm=algorithm)
    assert shared is not None and shared == alone


@pytest.mark.parametrize("pattern", ["tree:2", "scatter"])
def test_a_shared_sum_that_was_forged_is_found(pattern: str) -> None:
    def forge(data: bytes, key: str) -> bytes:
        partial = Partial.read(data, key)
        partial.sum = {name: array * 2 for name, array in partial.sum.items()}
        return partial.pack()

    (fault,) = planted(pattern, forge)
    assert "is not the sum of the updates" in fault


def test_a_folded_model_that_was_forged_is_found() -> None:
    def forge(data: bytes, key: str) -> bytes:
        state = State.load(data, key)
        state.tensors["model/3.bias"] += 1
        return state.dump()

    (fault,) = planted("fold", forge, schedule="asp")
    assert "is not the model that the log makes" in fault


def test_a_tree_of_another_bracket_gives_other_bits() -> None:
    """Otherwise the test above would show nothing."""
    assert trained("bits-2", Normed, pattern="tree:2")[0] != trained("bits-5", Normed, pattern="tree:5")[0]


@pytest.mark.parametrize("schedule", ["asp", "ssp:2", "quorum:3"])
def test_a_folded_run_verifies_and_its_functions_follow(schedule: str) -> None:
    sha256, run = trained(f"fold-{schedule}".replace(":", ""), Normed, pattern="fold", schedule=schedule)
    assert sha256 is not None
    report = run.verify()
    assert report.faults == [] and report.sums > 0
    assert any(info.key.endswith("/fold") for info in run.store.list(keys.REDUCED))


def calm(pattern: str, workers: int, steps: int, schedule: str = "bsp") -> tuple[VirtualRun, Counter[str]]:
    """A run with one function a worker on a store of constant latency, and its requests under updates/ and reduced/."""
    settings = settings_for(schedule, workers, steps).model_copy(update={"pattern": pattern})
    counts: Counter[str] = Counter()

    class Counting:
        def strike(self, op: str, key: str, now: float, uniform: Any) -> str:
            if key.startswith((keys.UPDATES, keys.REDUCED)):
                counts[op] += 1
            return ""

    costs = Costs(step_s=0.5, update_bytes=1000)
    virtual = VirtualRun(settings, workers, costs, Channel.parse("20ms"), Platform.parse("local"), injector=Counting())
    assert virtual.run(600)
    for life in virtual.lives:
        counts["miss"] += life.world.store.meter.snapshot().requests.get("get_miss", 0)
    return virtual, counts


@pytest.mark.parametrize(
    ("pattern", "workers", "creates", "gets"),
    [
        ("gather", 8, 8, 8 * 7),
        ("scatter", 8, 2 * 8, 2 * 8 * 7),
        ("scatter:2", 8, 8 + 2, 2 * (2 * 7)),
        ("tree:8", 8, 8 + 1, 2 * 7),
        ("tree:2", 8, 8 + 4 + 2 + 1, 2 * 7),
        ("tree:3", 8, 8 + 3 + 1, 2 * 7),
    ],
)
def test_a_round_takes_the_requests_that_its_pattern_says(pattern: str, workers: int, creates: int, gets: int) -> None:
    steps = 10
    _, counts = calm(pattern, workers, steps)
    assert counts["create"] == steps * creates
    found = counts["get"] + counts["get_range"]
    assert steps * gets <= found <= steps * gets + counts["miss"]


def test_a_commit_that_is_folded_is_read_once_by_each_function() -> None:
    virtual, counts = calm("fold", 6, 10, "asp")
    commits = len(virtual.log())
    assert counts["create"] == 60 + commits
    # the writer reads the others' updates, and each of the others one model a commit
    assert 50 + 5 * commits <= counts["get"] + counts["miss"]
    assert counts["get"] <= 50 + 5 * commits + counts["miss"]


def scenario(pattern: str, bad: float = 0.0, seed: int = 5) -> FaultScenario:
    return FaultScenario(
        seed, "bsp", workers=4, functions=4, steps=4, snapshot_every=2, lease_s=4.0, bad=bad, pattern=pattern
    )


@pytest.mark.parametrize("pattern", ["tree:2", "scatter"])
def test_an_update_that_is_rejected_is_in_no_sum(pattern: str) -> None:
    virtual, end = play(scenario(pattern, bad=0.4))
    assert judge(virtual, end) == []
    rejected = [entry for commit in virtual.log() for entry in commit.refused]
    assert rejected and any(commit.applied for commit in virtual.log())


@pytest.mark.parametrize("pattern", ["tree:2", "scatter"])
def test_a_verdict_that_gets_lost_is_found(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if pattern == "scatter":
        pieces = ScatterExchange._pieces

        async def forgetful(self: ScatterExchange, commit: int, attempt: int) -> Any:
            found = await pieces(self, commit, attempt)
            return found and [replace(piece, faults={}) for piece in found]

        monkeypatch.setattr(ScatterExchange, "_pieces", forgetful)
    else:

        def lenient(known: Any, rule: Any, updates: Any) -> Any:
            for update in updates:
                update.fault = ""
            return step_entries(known, rule, updates)

        monkeypatch.setattr("lambdaml.patterns.tree.step_entries", lenient)
    broken = [text for seed in range(6) for text in judge(*play(scenario(pattern, bad=0.4, seed=seed)))]
    assert any("must be rejected" in text or "adds up" in text or "another state" in text for text in broken)


@pytest.mark.parametrize("pattern", ["tree:2", "scatter"])
def test_an_update_that_is_added_twice_is_found(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add = StubSum.add

    def twice(self: StubSum, entry: Any, update: Any) -> None:
        add(self, entry, update)
        if update.id == (2, 1):
            add(self, entry, update)

    monkeypatch.setattr(StubSum, "add", twice)
    broken = judge(*play(scenario(pattern)))
    assert any("adds up" in text for text in broken)
    assert any("another state" in text for text in broken)


@pytest.mark.parametrize("pattern", ["tree:2", "tree:3", "scatter", "scatter:2"])
def test_a_shared_sum_survives_faults(pattern: str) -> None:
    for seed in range(40):
        drawn = replace(FaultScenario.draw(seed, "bsp"), workers=4, pattern=pattern)
        assert judge(*play(drawn)) == [], seed


@pytest.mark.parametrize("schedule", ["asp", "quorum:2", "ssp:1"])
def test_a_folded_run_survives_faults(schedule: str) -> None:
    for seed in range(40):
        drawn = replace(FaultScenario.draw(seed, schedule), pattern="fold")
        assert judge(*play(drawn)) == [], seed


def test_fault_schedules_draw_every_pattern() -> None:
    drawn = {FaultScenario.draw(seed).pattern for seed in range(200)}
    assert drawn == set(faults.PATTERNS_TRIED)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": "tree:1"}, "2 sums or more"),
        ({"pattern": "tree:2", "schedule": "asp"}, "adds up whole rounds"),
        ({"pattern": "scatter", "schedule": "quorum:2"}, "adds up whole rounds"),
        ({"pattern": "fold"}, "one function decides commits"),
        ({"pattern": "scatter", "codec": "topk:0.1"}, "can only be read as a whole"),
        ({"pattern": "tree:2", "staleness": "dc"}, "cannot add up"),
        ({"pattern": "tree:2", "bracket": "flat"}, "in the bracket 2^3"),
        ({"pattern": "scatter", "codec": "sparse"}, "only 3 that can be read alone"),
        ({"bracket": "1"}, "groups of 2 or more"),
    ],
)
def test_what_a_pattern_cannot_do_is_refused_before_the_run(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match="pattern|bracket") as found:
        trained("refused", TinyWide, **options)
    assert words in str(found.value)

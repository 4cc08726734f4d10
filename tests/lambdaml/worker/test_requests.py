"""The declared scripts of requests against what functions really ask of the store, in the virtual world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lambdaml.log import keys
from lambdaml.schedules import SCHEDULES
from lambdaml.schedules.groups import Groups
from lambdaml.simulation.engine import FaultPlan, VirtualRun
from lambdaml.simulation.virtual import VirtualStore
from lambdaml.worker.requests import (
    AGREED,
    END,
    LEAVE,
    LOGGED,
    RECALL,
    REMEMBER,
    SNAPSHOT,
    START,
    SUCCEED,
    Script,
    count_requests,
    exchanged,
    grouped,
    table,
)
from tests.lambdaml.simulation.scenes import scene

Asked = Counter[tuple[str, str]]

OF_TIME = {
    ("get_miss", keys.LOG),
    ("get_miss", keys.UPDATES),
    ("get_miss", keys.REDUCED),
    ("get_miss", keys.STOP),
    ("get_miss", keys.CONTROLS),
    ("head", keys.RUN),
}
"""Looks that come too early, and those for a wish to stop; how many there are is a matter of time."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Asked]:
    """Requests by function, each by its kind and by what its key begins with."""
    seen: dict[str, Asked] = {}
    request = VirtualStore._request

    async def noted(self: Any, op: Any, key: str, sent: int, effect: Callable[[], Any]) -> Any:
        result = await request(self, op, key, sent, effect)
        kind = "get_miss" if op in ("get", "get_range") and result is None else op
        seen.setdefault(self._world.group.name, Counter())[kind, key[: key.find("/") + 1] or key] += 1
        return result

    monkeypatch.setattr(VirtualStore, "_request", noted)
    return seen


def expected(script: Script, **units: int) -> Asked:
    found: Asked = Counter()
    for kind, about, per in script:
        found[kind, about] += units.get(per.replace(" ", "_"), 0)
    return +found


def certain(requests: Asked) -> Asked:
    """Without those that are a matter of time."""
    return Counter({what: count for what, count in requests.items() if what not in OF_TIME})


@pytest.mark.parametrize("schedule, functions", [("bsp", 4), ("bsp", 2), ("asp", 4), ("asp", 2), ("quorum:4", 4)])
def test_a_run_asks_what_the_scripts_say(schedule: str, functions: int, asked: dict[str, Asked]) -> None:
    run: VirtualRun = scene(schedule, 4, 21, functions=functions, channel="5ms", kind=VirtualRun)
    assert run.run() and run.kernel.now < 15  # no second part of the trace
    log = run.log()
    made, others = sum(len(commit.entries) for commit in log), functions - 1
    published = sum(key.startswith(keys.UPDATES) for key in run.bucket.objects)
    units = {"function": functions, "worker": 4, "update": published, "commit": len(log), "snapshot": 2, "run": 1}
    script = (*START, *(AGREED if schedule == "bsp" else LOGGED), *SNAPSHOT, *END)
    found = certain(sum(asked.values(), Counter()))
    wanted = expected(script, read=made * others, entry_read=len(log) * others, **units)
    unread = wanted["get", keys.UPDATES] - found.pop(("get", keys.UPDATES))
    assert 0 <= unread <= 4 * functions  # of the last commits, which nobody needs to apply, or with one more
    entries = wanted.pop(("get", keys.LOG), 0) - found.pop(("get", keys.LOG), 0)
    assert 0 <= entries <= 2 * functions
    del wanted["get", keys.UPDATES]
    assert found == wanted


@pytest.mark.parametrize("functions", [7, 3])
@pytest.mark.parametrize("pattern", ["gather", "tree:2", "tree:3", "tree:9", "scatter", "scatter:2"])
def test_a_round_asks_what_its_pattern_says(pattern: str, functions: int, asked: dict[str, Asked]) -> None:
    rounds = 4
    run = scene("bsp", 7, rounds, functions=functions, channel="5ms", kind=VirtualRun, settings={"pattern": pattern})
    assert run.run() and len(run.log()) == rounds
    of_round = {keys.UPDATES, keys.REDUCED, keys.LOG}
    found = {what: count for what, count in certain(sum(asked.values(), Counter())).items() if what[1] in of_round}
    assert found.pop(("list", keys.LOG)) == functions
    script, units = exchanged(pattern, 7, functions)
    assert found == expected(script, **{unit: rounds * count for unit, count in units.items()})


@pytest.mark.parametrize(("schedule", "workers", "functions"), [("groups:4", 16, 16), ("groups:2,every=3", 8, 3)])
def test_rounds_of_groups_ask_what_the_script_says(
    schedule: str, workers: int, functions: int, asked: dict[str, Asked]
) -> None:
    algorithm = {"algorithm": "local:1,sends=models,inner=anew"}
    run = scene(schedule, workers, 12, functions=functions, channel="5ms", kind=VirtualRun, settings=algorithm)
    assert run.run()
    made = SCHEDULES.make(schedule)
    assert isinstance(made, Groups)
    wanted, grouping = Counter[tuple[str, str]](), made.grouping(workers, run.settings.seed)
    for start in range(0, 12, made.every):
        turns = range(start, min(start + made.every, 12))
        script, units = grouped(grouping, workers, functions, turns)
        wanted += expected(script, **units)
    of_round = {keys.UPDATES, keys.LOG}
    found = {what: count for what, count in certain(sum(asked.values(), Counter())).items() if what[1] in of_round}
    assert found.pop(("list", keys.LOG)) == functions
    snapshots = len([key for key in run.bucket.objects if key.startswith(keys.SNAPSHOTS)]) - 1
    entries = wanted.pop(("get", keys.LOG)) - found.pop(("get", keys.LOG))
    assert 0 <= entries <= functions, "of the last entry, which a function may not need"
    reads = wanted.pop(("get", keys.UPDATES)) + snapshots * workers - found.pop(("get", keys.UPDATES))
    assert 0 <= reads <= sum(units["read"] for units in [grouped(grouping, workers, functions, [11]).units])
    assert found == wanted


@pytest.mark.parametrize("functions", [6, 2])
@pytest.mark.parametrize("schedule", ["asp", "quorum:4"])
def test_a_folded_commit_asks_what_its_pattern_says(schedule: str, functions: int, asked: dict[str, Asked]) -> None:
    run = scene(schedule, 6, 10, functions=functions, channel="5ms", kind=VirtualRun, settings={"pattern": "fold"})
    assert run.run()
    found, wanted = certain(sum(asked.values(), Counter())), Counter[tuple[str, str]]()
    for commit in run.log():
        script, units = exchanged("fold", 6, functions, len(commit.entries))
        wanted += expected(script, **units)
    assert 0 <= found["create", keys.UPDATES] - wanted["create", keys.UPDATES] <= 6  # of those that came too late
    assert found["create", keys.REDUCED] == wanted["create", keys.REDUCED] == found["create", keys.LOG]
    assert found["get", keys.REDUCED] == wanted["get", keys.REDUCED] and not found["get", keys.LOG]
    remote = sum(entry.worker % functions > 0 for commit in run.log() for entry in commit.entries)
    assert remote <= found["get", keys.UPDATES] <= remote + 6


def test_trees_ask_for_far_less_than_the_other_patterns() -> None:
    """A star is a tree with one level, and so is every tree whose nodes have room for all workers."""

    def asked_for(pattern: str, workers: int) -> tuple[int, int]:
        script, units = exchanged(pattern, workers, workers)
        counts = count_requests(script, **units)
        return counts["create"], counts["get"] + counts["get_range"]

    for workers in (4, 50, 1024):
        assert asked_for("gather", workers) == (workers + 1, workers * (workers - 1))
        assert asked_for("scatter", workers) == (2 * workers + 1, 2 * workers * (workers - 1))
        assert asked_for(f"tree:{workers}", workers) == (workers + 2, 2 * (workers - 1))
        assert asked_for(f"tree:{workers + 1}", workers) == asked_for(f"tree:{workers}", workers)
    assert asked_for("tree:32", 1024) == (1024 + 32 + 1 + 1, 2 * 1023)
    assert asked_for("tree:2", 5) == (5 + 3 + 2 + 1 + 1, 2 * 4)


@pytest.mark.parametrize("algorithm", ["gradient", "local:1,inner=keep"])
@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_a_function_that_leaves_and_the_one_after_it_ask_what_the_scripts_say(
    schedule: str, algorithm: str, asked: dict[str, Asked]
) -> None:
    def lives(run: VirtualRun, name: str, index: int) -> FaultPlan:
        return FaultPlan(lifetime_s=5.0) if name == "f1.0" else FaultPlan()

    options = {"functions": 2, "channel": "5ms", "settings": {"algorithm": algorithm}}
    run = scene(schedule, 4, 40, kind=VirtualRun, fault_plan=lives, **options)
    remember, recall = ((), ()) if algorithm == "gradient" else (REMEMBER, RECALL)
    assert run.run()
    assert [life.outcome for life in run.lives if life.index == 1] == ["left", "done"]
    of_updates = {("get", keys.UPDATES), ("create", keys.UPDATES), ("get", keys.LOG)}

    def besides(name: str) -> Asked:
        return Counter({what: count for what, count in certain(asked[name]).items() if what not in of_updates})

    units = {"function": 1, "worker": 2}
    assert besides("f1.0") == expected((*START, *LEAVE, *remember), **units)
    misses = asked["f1.1"]["get_miss", keys.UPDATES]
    wanted = expected((*START, *SUCCEED, *recall, *END), **units)
    assert misses >= wanted.pop(("get_miss", keys.UPDATES)) == 2
    assert besides("f1.1") == wanted


def test_the_table_of_the_docs_is_that_of_the_scripts() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "concepts" / "cost.md"
    assert table() in page.read_text()

"""The declared scripts of requests against what functions really ask of the store, in the virtual world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lambdaml.log import keys
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
    table,
)
from tests.lambdaml.simulation.scenes import scene

Asked = Counter[tuple[str, str]]

OF_TIME = {
    ("get_miss", keys.LOG),
    ("get_miss", keys.UPDATES),
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
        kind = "get_miss" if op == "get" and result is None else op
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

"""docs/concepts/events.md lists every event and each of its fields."""

from __future__ import annotations

import ast
import re
import secrets
from pathlib import Path
from typing import Any

import lambdaml
from tests.lambdaml import lab

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = ("lambdaml/simulation/", "lambdaml/simulation/virtual.py")
"""Events of the virtual world are other ones."""


def documented() -> dict[str, set[str]]:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\| [^|]* \|$", (ROOT / "docs/concepts/events.md").read_text(), re.MULTILINE)
    return {name: {field for field in re.findall(r"`(\w+)`", fields)} for name, fields in rows}


def told() -> set[str]:
    """The names of all events in the code."""
    names = set()
    for folder in ("lambdaml", "cost", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.relative_to(ROOT).as_posix().startswith(ELSEWHERE):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("world.emit"):
                    names |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
                elif isinstance(node, ast.Dict):
                    pairs = zip(node.keys, node.values, strict=True)
                    names |= {
                        value.value
                        for key, value in pairs
                        if isinstance(key, ast.Constant) and key.value == "event" and isinstance(value, ast.Constant)
                    }
    return names


def test_every_event_is_documented_and_none_besides() -> None:
    assert set(documented()) == told()


def test_the_fields_of_events_are_those_that_are_documented() -> None:
    known, events = documented(), []
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(f"{lab.__file__}:Tiny", url, workers=2, steps=8, snapshot_every=4, on_event=events.append)
    assert {"run", "commit", "snapshot", "metrics", "usage", "ended"} <= {event["event"] for event in events}
    for event in events:
        assert set(event) - {"event"} <= known[event["event"]], event
    commit: dict[str, Any] = next(event for event in events if event["event"] == "commit")
    assert set(commit) - {"event"} == known["commit"] - {"None"}

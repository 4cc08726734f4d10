"""Events: docs/concepts/events.md lists each and its fields, they survive their way as JSON, and programs can log them."""

from __future__ import annotations

import json
import logging
import re
import secrets
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

import lambdaml
from lambdaml.events import CommitEvent, EndedEvent, Event, RunEvent, UsageEvent, WarningEvent, event_of
from lambdaml.storage import MeterReading
from lambdaml.training.eventlog import logged
from tests.lambdaml import lab

ROOT = Path(__file__).resolve().parents[2]
COMMIT = CommitEvent(function="f", commit=3, version=4, progress=8, fraction=0.5, updates=2, staleness=(0, 1))


def test_every_event_and_each_of_its_fields_is_documented_and_none_besides() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\| [^|]* \|$", (ROOT / "docs/concepts/events.md").read_text(), re.MULTILINE)
    engines = {"local", "ray"}
    documented = {name: set(re.findall(r"`(\w+)`", told)) - engines - {"evaluate"} for name, told in rows}
    kinds = {kind.__dataclass_fields__["event"].default: kind for kind in get_args(Event)}
    assert documented == {
        name: {field.name for field in fields(kind)} - {"event", "function"} for name, kind in kinds.items()
    }


def test_a_run_tells_what_is_documented_and_says_which_function_it_is_about() -> None:
    events: list[Event] = []
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(f"{lab.__file__}:Tiny", url, workers=2, steps=8, snapshot_every=4, on_event=events.append)
    assert {"run", "commit", "snapshot", "metrics", "usage", "ended"} <= {event.event for event in events}
    assert {event.event for event in events if not event.function} == {"run", "metrics", "evaluating"} & {
        event.event for event in events
    }


@pytest.mark.parametrize(
    "event",
    [
        COMMIT,
        EndedEvent(function="f", code=-9, uncounted=True),
        UsageEvent(function="f", seconds=1.5, memory_bytes=7, reading=MeterReading({"get": 2}, bytes_sent=9)),
        RunEvent(run="memory://x", settings=lab.settings_of(lab.Tiny(), workers=2), functions=1),
    ],
    ids=lambda event: event.event,
)
def test_an_event_is_the_same_after_its_way_as_json(event: Event) -> None:
    assert event_of(json.loads(json.dumps(event.to_dict()))) == event


@pytest.mark.parametrize(
    ("record", "read"),
    [
        ({**COMMIT.to_dict(), "mood": "good"}, COMMIT),
        ({"event": "eclipse", "function": "f"}, None),
        ({"event": "commit", "function": "f"}, None),
        ({"event": ["commit"]}, None),
        ({"level": "info"}, None),
        (7, None),
    ],
    ids=["field", "kind", "incomplete", "list", "other", "number"],
)
def test_what_a_newer_minor_version_or_somebody_else_says_is_left_out(record: Any, read: Event | None) -> None:
    assert event_of(record) == read


def test_events_are_logged_without_secrets_and_nothing_is_printed_by_itself(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[Event] = []
    settings = lab.settings_of(lab.Tiny(), workers=2)
    settings = settings.model_copy(update={"job": settings.job.model_copy(update={"args": {"key": "hush"}})})
    told = [
        RunEvent(run="s3://me:hush@bucket/run?secret=hush", settings=settings, functions=2),
        WarningEvent(text="odd"),
        COMMIT,
    ]
    with caplog.at_level(logging.INFO, "lambdaml"):
        for event in told:
            logged(heard.append)(event)
    assert heard == told
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("lambdaml.run", "INFO"),
        ("lambdaml.run", "WARNING"),
    ]
    assert "bucket/run" in caplog.text and "odd" in caplog.text and "hush" not in caplog.text
    assert [type(handler) for handler in logging.getLogger("lambdaml").handlers] == [logging.NullHandler]
    assert capfd.readouterr().err == ""

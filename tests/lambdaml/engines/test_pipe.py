"""What functions say on their way to the engine: whole lines, cut where they are too long, and nobody waits for the reader."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.engines.pipe import LINE_BYTES, MOST_UNSAID, Voice, line_of
from lambdaml.engines.supervise import error_event
from lambdaml.errors import JobFailed
from lambdaml.events import CommitEvent, EndedEvent, ErrorEvent, SnapshotEvent, TakeoverEvent, WarningEvent, event_of

COMMIT = CommitEvent(function="f", commit=7, version=8, progress=8, fraction=0.1, updates=4, staleness=[0] * 4)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        os.close(end)


def heard(reader: int) -> list[dict[str, Any]]:
    """All that lies in the pipe."""
    os.set_blocking(reader, False)
    data = b""
    while True:
        try:
            data += os.read(reader, 65536)
        except BlockingIOError:
            return [json.loads(line) for line in data.splitlines()]


@given(st.text(max_size=3000), st.sampled_from(["", "数据", "é", '"\n\\', "\udc80", "🙂", "x"]), st.integers(0, 2000))
def test_an_event_of_any_length_in_any_script_is_one_line_of_json(text: str, more: str, times: int) -> None:
    message = f"loss raised ValueError: {text}{more * times}"
    line = line_of(error_event("host.1-2.1", JobFailed(message)))
    assert len(line) <= LINE_BYTES + 1 and line.count(b"\n") == 1 and line.endswith(b"\n")
    found = json.loads(line)
    assert (found["event"], found["type"], found["function"]) == ("error", "JobFailed", "host.1-2.1")
    whole = message[:2000]
    assert found["message"] == whole or (found["message"].endswith("…") and whole.startswith(found["message"][:-1]))


def test_a_long_text_keeps_most_of_what_there_is_room_for() -> None:
    line = line_of(error_event("f", JobFailed("数据" * 900)))
    assert len(line) > LINE_BYTES / 2


def test_of_a_long_event_lists_go_first() -> None:
    found = json.loads(line_of(replace(COMMIT, staleness=[3] * 5000)))
    assert found == {name: value for name, value in COMMIT.to_dict().items() if not isinstance(value, list | tuple)}
    assert event_of(found) == replace(COMMIT, staleness=())


def test_nobody_waits_for_a_reader_who_stands_still_and_progress_alone_is_lost(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    voice = Voice(writer)
    for number in range(2000):
        voice.say(replace(COMMIT, commit=number))
    voice.say(SnapshotEvent(version=4, size_bytes=1))
    voice.say(replace(COMMIT, commit=2000))
    voice.say(ErrorEvent(type="RunFailed", message="no"))
    first = heard(reader)
    assert [event["commit"] for event in first] == list(range(len(first))), (
        "without a gap up to where the pipe was full"
    )
    assert 100 < len(first) < 2000
    voice.finish()
    assert voice.free
    rest = heard(reader)
    assert [event["event"] for event in rest] == ["commit", "snapshot", "error"]
    assert rest[0]["commit"] == len(first), "the first one that there was no room for"


def test_what_waits_is_bounded_but_errors_and_ends_are_never_lost(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    voice = Voice(writer)
    for number in range(10 * MOST_UNSAID):
        voice.say(WarningEvent(text=f"{number}"))
    for number in range(10):
        voice.say(ErrorEvent(type="RunFailed", function=f"{number}"))
        voice.say(EndedEvent(code=2, function=f"{number}"))
    found: list[dict[str, Any]] = []
    while not voice.free:
        found += heard(reader)
        voice.flush()
    found += heard(reader)
    assert [event["function"] for event in found if event["event"] == "error"] == [*"0123456789"]
    assert [event["function"] for event in found if event["event"] == "ended"] == [*"0123456789"]
    assert sum(event["event"] == "warning" for event in found) < 5 * MOST_UNSAID


def test_what_nobody_can_hear_any_more_is_forgotten() -> None:
    reader, writer = os.pipe()
    voice = Voice(writer)
    os.close(reader)
    voice.say(ErrorEvent(type="RunFailed"))
    voice.finish()
    assert voice.free
    os.close(writer)


def test_a_fork_does_not_say_again_what_waits_in_its_parent(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    voice = Voice(writer)
    while voice.free:
        voice.say(SnapshotEvent(version=1, size_bytes=1))
    fork = voice.of_fork()
    assert fork.free
    heard(reader)
    fork.say(TakeoverEvent(worker=1))
    assert [event["event"] for event in heard(reader)] == ["takeover"]

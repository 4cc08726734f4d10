"""Keeping functions going, seen from the engine's side: who is asked to leave, and who is waited for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from lambdaml.engines.supervise import DONE, LEFT, supervise
from lambdaml.events import CommitEvent, EndedEvent, Event


class Crew:
    """Functions `f0`, `f1` ... that say what they are told to; when they must leave they do so in order."""

    def __init__(self, says: Sequence[Event], interrupted_at: int = 100) -> None:
        self.says = list(says)
        self.interrupted_at = interrupted_at
        self.alive: list[str] = []
        self.asked_to_leave = False

    def start(self, index: int, dead: Sequence[str]) -> str:
        if index == self.interrupted_at:
            raise KeyboardInterrupt
        self.alive.append(f"f{index}")
        return f"f{index}"

    def leave(self) -> None:
        self.asked_to_leave = True
        self.says = [ended(name, LEFT) for name in self.alive]

    def events(self) -> Iterator[Event]:
        while True:
            assert self.says, "somebody is waited for, and nobody is there"
            event = self.says.pop(0)
            if event.event == "ended":
                self.alive.remove(event.function)
            yield event


def ended(name: str, code: int) -> Event:
    return EndedEvent(function=name, code=code)


def test_ctrl_c_while_functions_are_started_has_those_leave_that_were() -> None:
    crew = Crew([], interrupted_at=2)
    with pytest.raises(KeyboardInterrupt):
        supervise(crew, 3, lambda event: None)
    assert crew.asked_to_leave
    assert crew.alive == []


def test_ctrl_c_at_the_end_of_a_function_waits_for_the_others_alone() -> None:
    crew = Crew(
        [CommitEvent(function="f0", commit=0, version=1, progress=1, fraction=0.5, updates=1), ended("f0", DONE)]
    )
    heard: list[Event] = []

    def emit(event: Event) -> None:
        heard.append(event)
        if event.event == "ended" and event.function == "f0":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        supervise(crew, 2, emit)
    assert heard[-1] == ended("f1", LEFT)
    assert crew.alive == []

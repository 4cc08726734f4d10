"""Patterns: one enters as a class and a line, and none of them changes what a run comes to."""

from __future__ import annotations

import pytest

from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.records import Update
from lambdaml.patterns import PATTERNS
from lambdaml.patterns.gather import Gather, GatherExchange
from lambdaml.settings import make_settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from lambdaml.worker.shared import Shared
from tests.lambdaml.simulation.scenes import settings_for

FANS: list[int] = []


class Fan(Gather):
    """Gathers, and notes with which parameter it was made."""

    def __init__(self, fan: int = 2) -> None:
        self.fan = fan

    def exchange(self, shared: Shared) -> GatherExchange:
        noted = GatherExchange(shared)
        add = noted.add

        def note(update: Update) -> None:
            FANS.append(self.fan)
            add(update)

        noted.add = note  # type: ignore[method-assign]
        return noted


def result(pattern: str) -> bytes | None:
    settings = settings_for("bsp", 3, 5).model_copy(update={"pattern": pattern})
    virtual = VirtualRun(settings, 3, Costs(step_s=0.1), Channel.parse("5ms"), Platform.parse("local"))
    assert virtual.run()
    return virtual.bucket.get(keys.MODEL)


def test_a_pattern_of_ones_own_is_chosen_by_name_and_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PATTERNS.factories, "fan", f"{__name__}:Fan")
    monkeypatch.setattr(f"{__name__}.FANS", [])
    plain = result("gather")
    assert plain is not None and not FANS
    assert result("fan:4") == plain
    assert set(FANS) == {4} and len(FANS) >= 3 * 3 * 5


def test_a_pattern_that_does_not_exist_is_named() -> None:
    fields = settings_for("bsp", 3, 5).model_dump() | {"pattern": "gahter"}
    with pytest.raises(SettingsError, match="there is no pattern 'gahter'.*gather"):
        make_settings(**fields)

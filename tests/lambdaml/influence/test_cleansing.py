"""When the lowest clients are left out, and of which runs."""

from __future__ import annotations

import pytest

from lambdaml import Run
from lambdaml.errors import RunFailed, SettingsError
from lambdaml.influence.cleansing import Cleansing, wait_for_version
from tests.lambdaml.influence.little import Little, trained
from tests.lambdaml.lab import broken_off


def test_a_share_and_a_version_are_read() -> None:
    assert Cleansing.parse("0.1@700") == Cleansing(0.1, 700)
    assert Cleansing.parse(".25@1") == Cleansing(0.25, 1)


@pytest.mark.parametrize("text", ["0.1", "@700", "1.5@7", "1@7", "0.0@7", "0.1@0", "0.1@-3", "10%@7", "-0.1@7"])
def test_what_is_no_share_and_version_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="takes a share below 1 and a version, as in 0.1@700, not"):
        Cleansing.parse(text)


def test_a_run_that_has_the_version_is_not_waited_for() -> None:
    told: list[int] = []
    wait_for_version(broken_off(at=3), 3, told.append, sleep=lambda _: pytest.fail("it waited"))
    assert told == [4]


def test_a_run_that_stands_still_is_given_up() -> None:
    waits: list[float] = []
    with pytest.raises(RunFailed, match="has been at version 4 for .* s: does anybody work on it"):
        wait_for_version(broken_off(at=3, patience_s=20.0), 7, sleep=waits.append)
    assert 20 <= sum(waits) < 30


def test_a_run_that_has_ended_is_refused() -> None:
    run: Run = trained(Little(), steps=2)
    with pytest.raises(SettingsError, match="has ended at version 2: clients can be left out while a run goes on"):
        wait_for_version(run, 1)

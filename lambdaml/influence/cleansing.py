"""Cleansing in mid-run: the least valuable clients at a version are left out from then on.

Source: Xue et al. (arXiv 2012.10936), who leave out the 5 to 30 % of the clients that have the lowest influence.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from lambdaml.errors import RunFailed, SettingsError
from lambdaml.influence.measure import InfluenceReport
from lambdaml.log.controls import request_change
from lambdaml.log.left_out import WITHOUT
from lambdaml.log.reader import RunReader

_POLL_S = 2.0
"""The log is asked for news every so many seconds."""


@dataclass(frozen=True, slots=True)
class Cleansing:
    """Says how many clients are left out, and when.

    Attributes:
        share: The share of the clients, more than 0 and less than 1.
        version: The version at which they are chosen.
    """

    share: float
    version: int

    @staticmethod
    def parse(text: str) -> Cleansing:
        """Read a text such as `0.1@700`.

        Raises:
            SettingsError: If it is none, or the share is out of range.
        """
        found = re.fullmatch(r"(0?\.\d+)@(\d+)", text)
        if found is None or float(found[1]) <= 0 or int(found[2]) < 1:
            raise SettingsError(f"--drop-lowest takes a share below 1 and a version, as in 0.1@700, not {text!r}")
        return Cleansing(float(found[1]), int(found[2]))


def wait_for_version(
    run: RunReader,
    version: int,
    told: Callable[[int], None] = lambda _version: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until a run that goes on has reached a version.

    Args:
        run: The run.
        version: The version.
        told: A function that is told the version that the run has reached.
        sleep: A function that waits for so many seconds.

    Raises:
        SettingsError: If the run has ended.
        RunFailed: If it took no step for as long as its `patience_s` says.
    """
    reached, waited_s = -1, 0.0
    while True:
        _, last, _ = run.tail()
        now = last.last_version if last is not None else 0
        if last is not None and last.stop:
            raise SettingsError(f"{run.url} has ended at version {now}: clients can be left out while a run goes on")
        told(now)
        if now >= version:
            return
        reached, waited_s = (now, 0.0) if now > reached else (reached, waited_s + _POLL_S)
        if waited_s > run.settings.patience_s:
            raise RunFailed(f"{run.url} has been at version {now} for {waited_s:.0f} s: does anybody work on it?")
        sleep(_POLL_S)


def leave_out_lowest(run: RunReader, found: InfluenceReport, share: float) -> list[int]:
    """Ask a run that goes on to leave out the least valuable clients, beside those that it leaves out already.

    Returns:
        The clients that it is asked to leave out beside those, in rising order.

    Raises:
        SettingsError: If the run has ended, or nobody would be left.
    """
    dropped = found.lowest(share)
    request_change(run, WITHOUT, [*found.left_out, *dropped])
    return dropped

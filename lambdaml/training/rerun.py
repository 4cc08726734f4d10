"""The settings of a run that repeats another one, perhaps with clients left out."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from lambdaml.errors import SettingsError
from lambdaml.log.controls import describe_control
from lambdaml.log.reader import RunReader
from lambdaml.log.tuned import DERIVED
from lambdaml.parts import Parts, demand_clients
from lambdaml.schedules import rounds_at_once
from lambdaml.settings import Settings
from lambdaml.training.asked import versions


def rerun_settings(run: RunReader, without: Sequence[int] = (), since: int = 0) -> Settings:
    """Return the settings of a run with the same seed, samples, cohorts and arithmetic as this one. It measures nothing beside
    its updates.

    Args:
        without: The clients whose slots stay empty.
        since: The version from which on they do.

    Raises:
        SettingsError: If this run cannot be repeated bit for bit, or not without these clients.
    """
    settings, parts = run.settings, Parts.of(run.settings)
    ordered = parts.schedule.deterministic or rounds_at_once(parts.schedule)
    if not ordered or parts.algorithm.clocked:
        what = "algorithm" if ordered else "schedule"
        raise SettingsError(
            f"{run.url} cannot be repeated: with {what} {getattr(settings, what)!r} clocks decide what its steps are"
        )
    asked = (control for commit in run.log() for control in commit.controls if control.number != DERIVED)
    changes = [describe_control(control) for control in asked]
    if changes:
        raise SettingsError(f"{run.url} cannot be repeated: it was changed while it went on ({', '.join(changes)})")
    if since < 0 or (since and not without):
        raise SettingsError(f"since: the version from which on clients are left out, 0 or more (it is {since})")
    if without and settings.without:
        left_out = ",".join(map(str, settings.without))
        raise SettingsError(f"{run.url} leaves out {left_out} already: repeat the run that has all clients")
    new: dict[str, Any] = {"token": secrets.token_hex(8), "versions": versions(), "planned": None, "extra": None}
    if without:
        demand_clients(settings, without)
        new |= {"without": sorted(set(without)), "without_since": since}
    return settings.model_copy(update=new)

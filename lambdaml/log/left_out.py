"""Says which clients are left out of a run's rounds: their slots stay empty, and all else is drawn as if they took part.

A client is the worker whose data an update is computed from; in a run of cohorts, the one that takes the slot. Whoever works
in the slot of one that is left out computes nothing and publishes an update without a vector, so that nobody waits for it. Its
fate is `discarded`, and the step is the mean of the others. A round in which all are left out takes no step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambdaml.log.state import LogState
    from lambdaml.settings import Settings

LEFT_OUT = "left out"
"""The reason for which the update of a client that is left out is discarded."""

WITHOUT = "without"
"""A control entry with this name has the list of the clients that are left out from the next commit on."""


def leaves_out(settings: Settings, log_state: LogState, client: int) -> bool:
    """Return whether the slots of a client stay empty in the round that follows the log state."""
    begun = client in settings.without and log_state.version >= settings.without_since
    return begun or client in log_state.changed.get(WITHOUT, ())

"""The parts of a run as objects. run.json and options name the parts; they are made here, once, and handed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambdaml.codecs import CODECS, Codec
from lambdaml.schedules import SCHEDULES, Schedule
from lambdaml.staleness import RULES, Rule

if TYPE_CHECKING:
    from lambdaml.options import RunOptions
    from lambdaml.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """Holds a run's schedule, codec and staleness rule. None of them has a state, so all functions may share them.

    Attributes:
        schedule: The schedule.
        codec: The codec.
        rule: The staleness rule.
    """

    schedule: Schedule
    codec: Codec
    rule: Rule

    @staticmethod
    def of(names: Settings | RunOptions) -> Parts:
        """Make the parts.

        Raises:
            SettingsError: If one of them does not exist, or its parameters make no sense.
        """
        return Parts(SCHEDULES.make(names.schedule), CODECS.make(names.codec), RULES.make(names.staleness))

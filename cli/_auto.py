"""`--schedule auto`: measure, plan, and say what was chosen."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambdaml.cli._interrupt import interruptible
from lambdaml.cli._measured import measured
from lambdaml.cli._progress import Share

if TYPE_CHECKING:
    from lambdaml.cost.profile import Profile

MEASURE_S = 10.0


@dataclass(frozen=True, slots=True)
class Auto:
    """What was planned: arguments of `lambdaml.train`, and what to learn from when it has run."""

    options: dict[str, Any]
    profile: Profile
    functions: int

    def learn(self, run: str) -> None:
        """Let the next plan know how fast this machine was."""
        from lambdaml.cost.iprof import Device, busy, learn
        from lambdaml.run import Run

        functions = min(self.options["workers"], self.functions)
        rows = Run(run).trace()
        learn(self.profile, rows, Device.here(functions, busy(rows, functions)))


def planned(job: str, store: str, options: Mapping[str, Any], profile: Path | None) -> Auto:
    """The fastest way on this machine to the target or epochs of these options, with at most their workers.

    Raises:
        UserError: there is neither target nor epochs, or no plan reaches the target.
    """
    from lambdaml.cost.candidates import Space
    from lambdaml.cost.iprof import IProf
    from lambdaml.cost.plan import Wishes, make_plan
    from lambdaml.cost.profile import MEASURED, Profile

    target, epochs = options["target"], options["epochs"]
    if profile is not None:
        known = Profile.load(profile)
    else:
        known = measured(
            job,
            args=options["args"],
            store=store,
            target=None if epochs else target,
            workers=options["workers"],
            seconds=MEASURE_S,
        )
    space = Space(
        workers=(1, options["workers"]),
        channels=(MEASURED if known.store else "disk",),
        platforms=("local",),
        functions=options["functions"] or os.cpu_count(),
    )
    wishes = Wishes(target, epochs, minimise="time", space=space, snapshot_every=options["snapshot_every"])
    with Share("planning") as share, interruptible(share.stop):
        found = make_plan(known, wishes, iprof=IProf.open(known), progress=share)
    options = found.options()
    assert found.choice is not None
    print(f"planned: {found.choice.candidate}: {found.reason}", file=sys.stderr)
    return Auto(options, known, space.functions or 1)

"""`--schedule auto`: measure, plan, and say what was chosen."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from lambdaml.cli._interrupt import interruptible
from lambdaml.cli._progress import Share

MEASURE_S = 10.0


def planned(
    job: str,
    store: str,
    arguments: dict[str, Any],
    profile: Path | None,
    target: str | None,
    epochs: float | None,
    workers: int,
    functions: int | None,
) -> dict[str, Any]:
    """Arguments of `lambdaml.train` for the fastest way on this machine, with at most so many workers.

    Raises:
        UserError: there is neither target nor epochs, or no plan reaches the target.
    """
    from lambdaml.cost.candidates import Space
    from lambdaml.cost.measure import measure
    from lambdaml.cost.plan import MEASURED, Wishes, make_plan
    from lambdaml.cost.profile import Profile

    if profile is not None:
        known = Profile.load(profile)
    else:
        with Share(f"measuring {job}") as share, interruptible(share.stop):
            known = measure(
                job,
                args=arguments,
                store=store,
                target=None if epochs else target,
                workers=workers,
                seconds=MEASURE_S,
                progress=lambda done, phase: share(done),
            )
    space = Space(
        workers=(1, workers),
        channels=(MEASURED if known.store else "disk",),
        platforms=("local",),
        functions=functions or os.cpu_count(),
    )
    with Share("planning") as share, interruptible(share.stop):
        found = make_plan(known, Wishes(target=target, epochs=epochs, minimise="time", space=space), progress=share)
    options = found.options()
    assert found.choice is not None
    print(f"planned: {found.choice.candidate}: {found.reason}", file=sys.stderr)
    return options

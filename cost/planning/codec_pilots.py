"""Pilots of codecs: how many more steps the target takes if updates are encoded.

Each is a synchronous pilot (`lambdaml.cost.planning.pilot`) with the seed and the number of workers of a pilot that was
made with plain updates, so that only the codec makes a difference. The codecs of the smallest updates come first, since
they save most. Each is tried with the middle number of workers, then the largest and the smallest, then with other
seeds; one that does not reach the target is not tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lambdaml.codecs import CODECS
from lambdaml.cost.planning.pilot import PLAIN, PilotRun, pilot
from lambdaml.job import Job


def pilot_codecs(
    job: Job,
    target: str,
    plain: Sequence[PilotRun],
    update_bytes: Mapping[str, int],
    *,
    args: Mapping[str, Any] | None = None,
    seconds: float,
    progress: Callable[[float], None] = lambda share: None,
) -> list[PilotRun]:
    """Make pilots of codecs with one algorithm for about this many seconds, the most telling first.

    Args:
        target: The target of the plain pilots.
        plain: The pilots of the algorithm with plain updates.
        update_bytes: The bytes of an update by codec. Exact codecs need no pilot and get none.
        seconds: The seconds after which no further pilot begins, or a codec's first one is given up.

    Raises:
        JobFailed, JobError: If the job's own code failed.
    """
    begun, runs, missed = time.monotonic(), list[PilotRun](), set[str]()
    specs = by_promise(update_bytes)
    places = _places(plain)
    for number, (model, codec) in enumerate((place, spec) for place in places for spec in specs):
        left_s = seconds - (time.monotonic() - begun)
        if left_s <= 0:
            break
        if codec in missed:
            continue
        made = pilot(
            job,
            target,
            args=args,
            algorithm=model.algorithm,
            codec=codec,
            plan=[(model.group, 0)],
            beside=model,
            seeds=[model.seed],
            seconds=left_s,
        )
        missed |= {run.codec for run in made if run.steps is None}
        runs += made
        progress(max(1 - left_s / seconds, (number + 1) / (len(places) * len(specs))))
    return runs


def by_promise(update_bytes: Mapping[str, int]) -> list[str]:
    """Return the codecs that need a pilot, and then those that may do without; of each the smallest updates first."""
    made = {spec: CODECS.make(spec) for spec in update_bytes}
    inexact = [spec for spec in update_bytes if not made[spec].exact]
    return sorted(inexact, key=lambda spec: (not made[spec].feedback, update_bytes[spec]))


def _places(plain: Iterable[PilotRun]) -> list[PilotRun]:
    """Return the pilots to compare with, in the order of their importance: those of a seed, and then of the next."""
    fresh = [run for run in plain if run.codec == PLAIN and run.delay == 0 and run.steps is not None]
    groups = sorted({run.group for run in fresh})
    if not groups:
        return []
    order = list(dict.fromkeys([groups[len(groups) // 2], groups[-1], groups[0], *groups]))
    seeds = list(dict.fromkeys(run.seed for run in fresh))
    return sorted(fresh, key=lambda run: (seeds.index(run.seed), order.index(run.group)))

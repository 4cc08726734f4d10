"""Profiles for benchmarks. Pilots are real, and durations are set, so that a world is what its name says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lambdaml.cost.planning.pilot import pilot
from lambdaml.cost.profiling.facts import CodecFacts, JobFacts, MachineFacts, MemoryModel, ProfilingCost, StepTime
from lambdaml.cost.profiling.profile import Profile
from lambdaml.options import RunOptions
from lambdaml.training.asked import resolve_job, settings_for


def quick_profile(
    job: str, target: str, args: dict[str, Any], plan: Sequence[tuple[int, int]], step_s: float, seconds: float = 3600.0
) -> Profile:
    """Return a profile of a job whose gradient takes `step_s`, and everything else no time."""
    chosen, instance = resolve_job(job, args)
    settings = settings_for(instance, chosen, RunOptions(workers=1, steps=1))
    size = 4 * settings.parameters + 300
    batch = settings.batch_size
    return Profile(
        measured_on="set by a benchmark",
        job=JobFacts(
            chosen.spec,
            chosen.args,
            chosen.fingerprint,
            settings.samples,
            batch,
            settings.steps_per_epoch,
            settings.parameters,
            size,
            size,
        ),
        machine=MachineFacts("", "", 1, 0, 0.0, "cpu", {}),
        spent=ProfilingCost(0.0, {}, 0, {}, 0, 0),
        step_time=StepTime(step_s, 0.0, 0.0, 1.0, 1.0, 0.0, ()),
        memory=MemoryModel(400.0, 0.0),
        optimizer_s=0.0,
        snapshot_s=0.0,
        update_norm=1.0,
        codecs={"fp32": CodecFacts(size, 0.0, 0.0, 0.0)},
        store=None,
        noise=None,
        coherence=None,
        target=target,
        pilot=tuple(pilot(job, target, args=args, plan=plan, seconds=seconds)),
    )

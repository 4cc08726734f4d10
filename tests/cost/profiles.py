"""A profile as `lambdaml profile examples/digits.py` might find it, with round numbers."""

from dataclasses import replace

from lambdaml.cost.planning.pilot import PilotRun
from lambdaml.cost.profiling.facts import (
    CodecFacts,
    CoherenceFacts,
    JobFacts,
    LargeUpdate,
    MachineFacts,
    MemoryModel,
    NoisePoint,
    NoiseScale,
    ProfilingCost,
    RequestTime,
    StepPoint,
    StepTime,
    StoreFacts,
)
from lambdaml.cost.profiling.profile import Profile
from lambdaml.storage.meter import Meter


def digits() -> Profile:
    """Of the digits example on a store of 10 ms."""
    meter = Meter()
    for kind in ("create", "get", "get_miss"):
        for _ in range(10):
            meter.answered(kind, 0.010, 1024, 1024)
    points = tuple(StepPoint(b, 100, 0.0004 + 2e-6 * b, 0.0006, 0.0009, 400.0) for b in (8, 16, 32, 64, 128))
    return Profile(
        measured_on="2026-11-23T00:00:00+00:00",
        job=JobFacts("digits.py:Digits", {"hidden": 128}, "ab", 1437, 32, 45, 9610, 38_760, 39_216),
        machine=MachineFacts("x86_64", "A processor", 2, 8192, 100.0, "cpu", {"torch": "2.13.0"}),
        spent=ProfilingCost(12.0, {"steps": 4.0}, 1000, {"get": 10}, 10_240, 10_240),
        step_time=StepTime(0.0004, 2e-6, 0.1, 1.2, 1.5, 0.01, points),
        memory=MemoryModel(398.0, 0.01),
        optimizer_s=0.0002,
        snapshot_s=0.0006,
        update_norm=0.7,
        codecs={
            "fp32": CodecFacts(38_440, 0.0001, 0.0001, 0.00001),
            "bf16": CodecFacts(19_220, 0.0002, 0.0001, 0.00002),
        },
        store=StoreFacts(
            "s3://bucket/there", {"get": RequestTime(10, 0.01, 0.01, 0.01)}, 50e6, None, meter.snapshot().to_dict()
        ),
        noise=NoiseScale(100.0, 32, 1024, 32, (NoisePoint(10, 0.1, 10.0), NoisePoint(20, -0.1, 10.0))),
        coherence=CoherenceFacts(40, 1000, {1: 0.9, 8: 0.3}, {1: 0.8, 8: -0.1}, 5.5, False),
        target="accuracy>=0.95",
        pilot=(
            PilotRun(1, 0, 32, 101, ((2, 0.5), (36, 0.96)), 36, 0.2),
            PilotRun(1, 15, 32, 101, ((2, 0.1),), None, 2.0),
        ),
    )


PLAN_TARGET = "accuracy>=0.95"


def coded() -> Profile:
    """Of the digits example, with pilots of two codecs that need error feedback. One of them takes twice as many steps,
    the other does not reach the target."""
    known = digits()
    plain = [
        PilotRun(group, 0, 32, seed, (), steps, 0.1)
        for group, steps in ((1, 100), (4, 60), (16, 50))
        for seed in (1, 2)
    ]
    pilots = [
        PilotRun(4, 0, 32, 1, (), 120, 0.1, codec="topk:0.01", update_bytes=768),
        PilotRun(4, 0, 32, 1, (), None, 0.1, codec="topk:0.001", update_bytes=72),
    ]
    few = {"topk:0.01": 768, "topk:0.001": 72, "randomk:0.01": 392}
    codecs = {**known.codecs, **{name: CodecFacts(size, 0.0003, 0.0001, 0.00001) for name, size in few.items()}}
    codecs = {name: replace(facts, large=LargeUpdate(101, 0.002, 0.002, 0.0005)) for name, facts in codecs.items()}
    return replace(known, target=PLAN_TARGET, codecs=codecs, pilot=(*plain, *pilots))

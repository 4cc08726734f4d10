"""The command that runs a plan's choice.

how = how_to_run(plan)
how.command         # lambdaml train digits.py:Digits --workers 4 --functions 2 ... ; None if there is no engine
how.remarks         # sentences to read before it is run
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote

from lambdaml.cost.planning.candidates import Candidate
from lambdaml.cost.planning.elsewhere import PLATFORM_ENGINES
from lambdaml.cost.planning.plan import Plan
from lambdaml.cost.profiling.profile import MEASURED, Profile
from lambdaml.storage.url import StoreURL
from lambdaml.training.asked import places
from lambdaml.training.source import split_spec

DEFAULT_FUNCTION = "lambdaml"
"""The name of the function on AWS Lambda that `lambdaml deploy aws` makes if it is not told another one."""


@dataclass(frozen=True, slots=True)
class HowTo:
    """The way to run a plan's choice.

    Attributes:
        command: One line for a shell, or None if nothing can run it.
        remarks: Sentences to read before running it.
    """

    command: str | None
    remarks: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yield the lines to show."""
        if self.command is not None:
            yield f"To run it:\n  {self.command}"
        for remark in self.remarks:
            yield f"{remark[0].upper()}{remark[1:]}."

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def how_to_run(plan: Plan) -> HowTo:
    """Return the command for the plan's choice, which makes a run in a new place."""
    best, profile = plan.choice, plan.profile
    if best is None:
        return HowTo(None)
    platform = best.candidate.platform
    if platform.name not in PLATFORM_ENGINES:
        return HowTo(None, (f"there is no engine for {platform.name} yet: this is what it would cost",))
    engine = PLATFORM_ENGINES[platform.name] if platform.name != "local" else None
    store, remarks = _store(best.candidate, profile, engine)
    words = ["lambdaml", "train", job_word(profile.job.spec)]
    words += set_words(profile.job.args)
    options = plan.options()
    options |= {"snapshot_every": plan.objective.snapshot_every, "engine": engine, "device": profile.machine.device}
    if plan.objective.regions is not None:
        remarks += ("it starts all functions in one region: no engine starts them in several",)
    lifetime_s = platform.lifetime_s if math.isfinite(platform.lifetime_s) and engine != "lambda" else None
    options |= {"lifetime": lifetime_s, "store": store}
    if engine == "lambda":
        options |= {"function": DEFAULT_FUNCTION, "memory": platform.memory_mb}
        remarks += (f"function {DEFAULT_FUNCTION} is made by 'lambdaml deploy aws': docs/lambda.md says how",)
    if engine == "ray":
        options["address"] = "auto"
        remarks += ("it runs on a Ray cluster of such machines: deploy/ray says how to get one",)
    for name, value in options.items():
        if value is not None and name != "planned":
            words += [f"--{name.replace('_', '-')}", str(value)]
    return HowTo(shlex.join(words), remarks)


def job_word(spec: str) -> str:
    """Return the spec, with a path relative to the working folder if the file lies below it."""
    path, name = split_spec(spec)
    relative = os.path.relpath(path)
    if not os.path.isabs(path) or relative.startswith(".."):
        return spec
    return f"{relative}:{name}" if name else relative


def set_words(args: Mapping[str, Any]) -> list[str]:
    """Return the options that give these arguments to a job's constructor."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in args.items()}
    return [word for name, text in texts.items() for word in ("--set", f"{name}={text}")]


def _store(candidate: Candidate, profile: Profile, engine: str | None) -> tuple[str, tuple[str, ...]]:
    """Return a place for the run in a store like the one that was planned with, and remarks about it."""
    place, channel = next(places(profile.job.spec)), candidate.channel
    if channel.name == MEASURED and profile.store is not None:
        return _beside(StoreURL.parse(profile.store.url), profile.job.spec), ()
    if engine is not None:
        bucket = f"s3://BUCKET/runs/{os.path.basename(place)}"
        return bucket, (f"put the name of your bucket in the place of BUCKET; {channel.name} was planned with",)
    if channel.name == "disk":
        return place, ()
    name = channel.name.partition(":")[0]
    slow = StoreURL("", place, {"latency": name})
    if "bandwidth=" in channel.name:
        slow = slow.adding(bandwidth=f"{channel.bandwidth_bytes_per_s / 1e6:g}MB/s")
    return str(slow), (f"its store is a folder that is made as slow as {name}: give --store a bucket for the real one",)


def _beside(measured: StoreURL, spec: str) -> str:
    """Return a new place below the store that was measured."""
    folder = measured.location.rstrip("/")
    if measured.scheme == "file":
        location = quote(next(places(spec, unquote(folder) or "/")))
    else:
        name = os.path.basename(next(places(spec))).rpartition("-")[0]
        location = "/".join([*filter(None, [folder]), f"{name}-{datetime.now():%Y%m%d-%H%M%S}"])
    return str(StoreURL(measured.scheme, location, measured.params))

"""Make one thing of a run slow, ask `lambdaml why` what it was, and mend it to see whether the gain comes.

    python benchmarks/why.py [--only WORDS]

Eight runs are real: four workers in processes of this machine, on a store behind a latency and a bandwidth, with steps that
sleep. Five are runs of the virtual world with eight functions on Lambda. In each, one of store latency, bandwidth, one
function, compute and cold starts is several times as slow as in a healthy run that has some of each. `expected` is what
the run's own model says of exactly the mending; `real` is by how much the healthy run was shorter.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn

import lambdaml
from lambdaml.cost.reporting.levers import BYTES, COMPUTE, STARTS, STORE, WORKER
from lambdaml.cost.reporting.record import record
from lambdaml.cost.reporting.recorded import RecordedRun
from lambdaml.job import Job
from lambdaml.log.reader import RunReader
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.platform import Platform
from tests.cost.reporting.runs import recorded_run

WIDTH, WORKERS, STEPS = 256, 4, 40
HEALTHY_STORE = "latency=5ms&bandwidth=20MB/s"


class Sluggish(Job):
    """A linear model of 0.26 MB whose steps sleep.

    Args:
        step_s: The seconds of a step.
        slow_s: The seconds of a step in the one process that has created `marker` first.
        start_s: The seconds that it takes to make the model.
    """

    batch_size = 8

    def __init__(self, step_s: float = 0.02, slow_s: float = 0.02, start_s: float = 0.0, marker: str = "") -> None:
        self.step_s, self.slow_s, self.start_s, self.marker = step_s, slow_s, start_s, marker
        self.slow: bool | None = None

    def model(self) -> nn.Module:
        time.sleep(self.start_s)
        return nn.Linear(WIDTH, WIDTH)

    def dataset(self) -> torch.utils.data.Dataset[tuple[Tensor, ...]]:
        x = torch.randn(512, WIDTH, generator=torch.Generator().manual_seed(0))
        return torch.utils.data.TensorDataset(x)

    def loss(self, model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        if self.slow is None:
            self.slow = bool(self.marker) and created(self.marker)
        time.sleep(self.slow_s if self.slow else self.step_s)
        loss: Tensor = (model(batch[0]) - batch[0]).square().mean()
        return loss

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e-3)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"quality": 0.5}


def created(marker: str) -> bool:
    """Return whether this process is the one that creates the file."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True)
class Case:
    """One thing made slow.

    Attributes:
        slow: The cause that `why` must name.
        what: The run, and how it is made slow.
        run: Makes the run in a folder; whether the slow thing is mended is its second argument.
        mend: Returns the model of the slow run with that thing as in the healthy one.
    """

    slow: str
    what: str
    run: Callable[[Path, bool], RunReader]
    mend: Callable[[RecordedRun], RecordedRun]


def real(store: str = HEALTHY_STORE, schedule: str = "bsp", functions: int = 2, **slow: Any) -> Any:
    """Return what makes a real run in which these are slow."""

    def run(folder: Path, mended: bool) -> RunReader:
        args = dict(slow)
        if "slow_s" in args:
            args["marker"] = str(folder / f"marker-{mended}")
        url = f"file://{folder}/{'mended' if mended else 'slow'}?{HEALTHY_STORE if mended else store}"
        job = f"{Path(__file__).resolve()}:Sluggish"
        given = {} if mended else args
        options: dict[str, Any] = {"workers": WORKERS, "functions": functions, "steps": STEPS, "schedule": schedule}
        lambdaml.train(job, store=url, args=given, **options)
        return RunReader(url)

    return run


def virtual(schedule: str = "bsp", **slow: Any) -> Any:
    """Return what makes a virtual run in which these are slow."""
    healthy: dict[str, Any] = {"channel": "s3-express", "update_bytes": 1_000_000, "steps": 100, "schedule": schedule}
    return lambda folder, mended: recorded_run(8, **(healthy if mended else {**healthy, **slow}))


def channel(text: str) -> Callable[[RecordedRun], RecordedRun]:
    return lambda run: replace(run, channel=Channel.parse(text), network_bytes_per_s=float("inf"))


def step(step_s: float) -> Callable[[RecordedRun], RecordedRun]:
    return lambda run: replace(run, costs=replace(run.costs, step_s=step_s))


def start(start_s: float) -> Callable[[RecordedRun], RecordedRun]:
    return lambda run: replace(run, starts_s=(start_s,))


def alike(run: RecordedRun) -> RecordedRun:
    return replace(run, pace=run.pace.alike())


FINE, EXPRESS = channel("5ms:bandwidth=20MB/s"), channel("s3-express")
COLD = Platform("cold", cold_start_s=(12.0, 20.0))
CASES = (
    Case(STORE, "real bsp, 60 ms a request, not 5", real("latency=60ms&bandwidth=20MB/s"), FINE),
    Case(STORE, "real asp, 60 ms a request, not 5", real("latency=60ms&bandwidth=20MB/s", "asp"), FINE),
    Case(BYTES, "real bsp, 3 MB/s, not 20", real("latency=5ms&bandwidth=3MB/s"), FINE),
    Case(BYTES, "real ssp:2, 3 MB/s, not 20", real("latency=5ms&bandwidth=3MB/s", "ssp:2"), FINE),
    Case(WORKER, "real bsp, 1 of 4 functions 200 ms, not 20", real(functions=4, slow_s=0.2), alike),
    Case(WORKER, "real asp, 1 of 4 functions 200 ms, not 20", real(schedule="asp", functions=4, slow_s=0.2), alike),
    Case(COMPUTE, "real bsp, steps of 150 ms, not 20", real(step_s=0.15, slow_s=0.15), step(0.02)),
    Case(STARTS, "real bsp, starts of 8 s, not 0.2", real(start_s=8.0), start(0.2)),
    Case(STORE, "virtual bsp, 80 ms a request, not 5 to 8", virtual(channel="lambdaml-s3:bandwidth=85MB/s"), EXPRESS),
    Case(BYTES, "virtual asp, 5 MB/s, not 85", virtual("asp", channel="s3-express:bandwidth=5MB/s"), EXPRESS),
    Case(WORKER, "virtual bsp, function 3 takes 4 times as long", virtual(stragglers="slow:3,4"), alike),
    Case(COMPUTE, "virtual asp, steps of 600 ms, not 100", virtual("asp", step_s=0.6), step(0.1)),
    Case(STARTS, "virtual bsp, cold starts of 12 s, not 0.2", virtual(platform=COLD), start(0.2)),
)


def expected_s(run: RunReader, mend: Callable[[RecordedRun], RecordedRun]) -> float:
    """Return the gain that the run's own model expects of the mending."""
    recorded = record(run, run_rows(run), run.usage())
    base = recorded.again()
    return recorded.lasting_s(base, base) - recorded.lasting_s(mend(recorded).again(), base)


def run_rows(run: RunReader) -> list[dict[str, Any]]:
    from lambdaml.traces.attribution import trace_rows

    return trace_rows(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the cases with these words")
    only = parser.parse_args().only
    cases = [case for case in CASES if only in case.what]
    right = 0
    print("| made slow | run | named | its share | simulated again | expected | real | why took |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for case in cases:
        with tempfile.TemporaryDirectory() as name:
            run = case.run(Path(name), False)
            began = time.perf_counter()
            found = lambdaml.why(run)
            took_s = time.perf_counter() - began
            gain_s = expected_s(run, case.mend)
            mended = case.run(Path(name), True)
            healthy = record(mended, run_rows(mended), mended.usage())
        top = found.causes[0]
        right += top.what == case.slow
        times = f"{found.simulated_s:.1f} s of {found.seconds:.1f} s"
        gains = f"{gain_s:.1f} s | {found.seconds - healthy.span_s:.1f} s"
        print(
            f"| {case.slow} | {case.what} | {top.what} | {top.gain_share:.0%} | {times} | {gains} | {took_s:.1f} s |",
            flush=True,
        )
    print(f"\n{right} of {len(cases)} named right")


if __name__ == "__main__":
    main()

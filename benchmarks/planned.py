"""Compare plans with live runs: time, bill and requests of runs to a target, none of which the plan has seen.

    python benchmarks/planned.py
    python benchmarks/planned.py --patterns --jobs digits --more 0

The plan knows each job's pilots (made first), and step times, start-up and store as a profile finds them right before a
run, since machines change their pace. Sixteen live configurations, of processes on a directory store made as slow as a
cloud's, are billed as if they were functions of AWS Lambda on S3. They take turns, three times, each time with other
seeds; those that may be the fastest take more turns. Plans predict the median run, so medians are compared.

With `--patterns` the configurations are three patterns, with two numbers of workers.

The medians over the configurations must be within 12 % of time, 8 % of the bill and 3 % of requests, and for each job
the configuration that the plan ranks first must be within 10 % of the best.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import lambdaml
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.cost.planning.candidates import Candidate
from lambdaml.cost.planning.convergence import Convergence
from lambdaml.cost.planning.estimate import StopCriterion, estimate
from lambdaml.cost.planning.planner import REFINING_UPDATES
from lambdaml.cost.planning.step_cost import Shape, busy_share, mixed, simulate_step_cost
from lambdaml.cost.profiling.iprof import Device, IProf
from lambdaml.cost.profiling.profile import Profile
from lambdaml.cost.profiling.stores import measure_store
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stragglers import STRAGGLERS

EXAMPLES = Path(__file__).parent.parent / "examples"
JOBS = {
    "digits": (f"{EXAMPLES / 'digits.py'}:Digits", {"lr": 0.1}, "loss<=0.25"),
    "cnn": (f"{EXAMPLES / 'cnn.py'}:DigitsCNN", {"lr": 0.001}, "loss<=0.25"),
}
CONFIGURATIONS = [
    ("bsp", 2, "15ms", "fp32"),
    ("bsp", 4, "40ms", "bf16"),
    ("asp", 2, "40ms", "fp32"),
    ("asp", 4, "s3-standard", "fp32"),
    ("ssp:2", 3, "15ms", "bf16"),
    ("quorum:2", 3, "40ms", "fp32"),
    ("quorum:3", 4, "15ms", "fp32"),
    ("bsp", 3, "s3-standard", "fp32"),
]
UNDER_PATTERNS = [
    ("bsp", workers, "15ms", "fp32", pattern)
    for workers in (3, 4)
    for pattern in ("gather", "scatter", f"tree:{workers}")
]
Configuration = tuple[str, int, str, str] | tuple[str, int, str, str, str]
"""A schedule, a number of workers, a latency, a codec and a pattern, `gather` by default."""

EVERY = 4
"""The updates of each worker between snapshots. With more snapshots, a run stops less late by chance."""

SEEDS = 4
"""The simulations of a configuration, as many as a plan of few candidates makes."""

TURNS = 3
"""The turns of every configuration."""

MORE_TURNS = 4
"""The further turns of those whose median time, planned or live, is within `CONTENDS` of the least."""

CONTENDS = 1.25
PROFILE_S, STORE_S = 6.0, 5.0
"""The seconds for measuring a profile and a store before each run."""

BOOKED = ("s3-standard", "lambda-arm:1769")


@dataclass(frozen=True, slots=True)
class Facts:
    seconds: float
    usd: float
    requests: float


def planned(profile: Profile, channel: Channel, configuration: Configuration, tariff: Tariff) -> Facts:
    schedule, workers, _, codec, *patterns = configuration
    platform = Platform.parse("local")
    candidate = Candidate(schedule, workers, profile.job.batch_size, codec, channel, platform)
    busy = busy_share(profile.costs(codec=codec), channel, workers)
    slowdown = IProf().slowdown(Device.here(workers, busy))
    shape = Shape(
        schedule,
        workers,
        profile.job.batch_size,
        profile.job.samples,
        profile.costs(codec=codec, slowdown=slowdown),
        channel,
        profile.placed(platform, workers, slowdown),
        STRAGGLERS.make("none"),
        workers,
        *patterns,
    )
    criterion = StopCriterion(
        {"gradient": Convergence(profile.pilot, profile.noise.samples if profile.noise else None)}, None, EVERY
    )
    course = mixed([(1 / SEEDS, simulate_step_cost(shape, seed, REFINING_UPDATES)) for seed in range(1, 1 + SEEDS)])
    found = estimate(candidate, course, profile, criterion, tariff)
    return Facts(found.seconds, found.usd, found.requests)


def measured(latency: str, size: int) -> Channel:
    """Return a store as a profile finds it."""
    with tempfile.TemporaryDirectory() as folder:
        facts, *_ = measure_store(
            f"file://{folder}?latency={latency}&latency_seed=99", size, STORE_S, lambda share: None
        )
    return facts.channel()


def run(job: str, configuration: Configuration, tariff: Tariff, seed: int) -> Facts:
    schedule, workers, latency, codec, *patterns = configuration
    spec, args, target = JOBS[job]
    with tempfile.TemporaryDirectory() as folder:
        url = f"file://{folder}/run?latency={latency}&latency_seed={seed + 1}"
        options = {"workers": workers, "functions": workers, "target": target, "seed": seed, "args": args}
        options |= {"snapshot_every": EVERY, "pattern": patterns[0] if patterns else "gather"}
        result = lambdaml.train(spec, url, schedule=schedule, codec=codec, **options)
        usage = lambdaml.Run(url.partition("?")[0]).usage()
    functions = [one for one in usage if not one.function.startswith("launcher")]
    used = Quantities(
        lifetimes_s=[one.seconds for one in functions],
        requests=result.requests,
        bytes_sent=result.bytes["sent"],
        bytes_received=result.bytes["received"],
        stored_byte_s=result.bytes["sent"] * result.seconds / 2,
        wall_s=result.seconds,
    )
    return Facts(result.seconds, tariff.bill(used).usd, float(sum(result.requests.values())))


def turn(job: str, profile: Profile, configuration: Configuration, tariff: Tariff, seed: int) -> tuple[Facts, Facts]:
    """Return the live and the planned facts."""
    spec, args, target = JOBS[job]
    now = lambdaml.profile(spec, args=args, seconds=PROFILE_S)
    now = replace(now, target=target, pilot=profile.pilot, noise=profile.noise)
    channel = measured(configuration[2], 4 * profile.job.parameters)
    model = planned(now, channel, configuration, tariff)
    return run(job, configuration, tariff, seed), model


def middle(turns: Sequence[tuple[Facts, Facts]]) -> tuple[Facts, Facts]:
    """Return the medians of the live and of the planned facts."""
    real, model = zip(*turns, strict=True)
    return tuple(
        Facts(*(median(getattr(one, name) for one in each) for name in Facts.__slots__)) for each in (real, model)
    )  # type: ignore[return-value]


def tried(
    job: str, profile: Profile, tariff: Tariff, configurations: Sequence[Configuration], more: int
) -> dict[Configuration, list[tuple[Facts, Facts]]]:
    """Return all turns by configuration."""
    turns: dict[Configuration, list[tuple[Facts, Facts]]] = {configuration: [] for configuration in configurations}
    for seed in range(TURNS + more):
        seconds = {one: [facts.seconds for facts in middle(found)] for one, found in turns.items() if found}
        for configuration, found in turns.items():
            contends = seed < TURNS or any(
                own <= CONTENDS * min(each) for own, each in zip(seconds[configuration], zip(*seconds.values()))
            )
            if contends:
                found.append(turn(job, profile, configuration, tariff, seed))
                print(
                    f"  {job} {' '.join(map(str, configuration))}: {found[-1][0].seconds:.2f} s, planned {found[-1][1].seconds:.2f} s",
                    file=sys.stderr,
                    flush=True,
                )
    return turns


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=25.0, help="for the pilots of each job")
    parser.add_argument("--runs", type=int, default=len(CONFIGURATIONS), help="configurations of each job")
    parser.add_argument("--patterns", action="store_true", help="patterns in place of schedules and codecs")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--more", type=int, default=MORE_TURNS, help="further turns of what may be the fastest")
    arguments = parser.parse_args()
    configurations: Sequence[Configuration] = UNDER_PATTERNS if arguments.patterns else CONFIGURATIONS
    tariff = Tariff(PriceBook.load(), *BOOKED)
    errors: dict[str, list[float]] = {"seconds": [], "usd": [], "requests": []}
    print(f"{'':34}{'turns':>6}{'seconds':>22}{'cents':>22}{'requests':>22}\n{'':40}" + f"{'live planned':>22}" * 3)
    for job in arguments.jobs:
        spec, args, target = JOBS[job]
        profile = lambdaml.profile(spec, args=args, target=target, workers=4, seconds=arguments.seconds)
        turns = tried(job, profile, tariff, configurations[: arguments.runs], arguments.more)
        seen = {configuration: middle(found) for configuration, found in turns.items()}
        for configuration, (real, model) in seen.items():
            cells = []
            for name, scale in (("seconds", 1.0), ("usd", 100.0), ("requests", 1.0)):
                truth, guess = getattr(real, name), getattr(model, name)
                errors[name].append(abs(guess / truth - 1))
                cells.append(f"{scale * truth:.4g} {scale * guess:.4g} {guess / truth - 1:+.1%}")
            name = job + " " + " ".join(map(str, configuration))
            print(f"{name:34}{len(turns[configuration]):>6}" + "".join(f"{c:>22}" for c in cells), flush=True)
        first = min(seen.values(), key=lambda pair: pair[1].seconds)[0].seconds
        best = min(real.seconds for real, _ in seen.values())
        print(f"{job}: planned first takes {first:.2f} s, the best {best:.2f} s: {first / best - 1:+.1%}")
    print("median absolute error: " + ", ".join(f"{name} {median(off):.1%}" for name, off in errors.items()))


if __name__ == "__main__":
    main()

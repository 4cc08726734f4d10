"""Planned against live: time, bill and requests of runs to a target, none of which the plan has seen.

    python benchmarks/planned.py

The plan knows each job's pilots (made first, for a minute), and step times, start-up and store as a profile finds them
right before a configuration is tried, since machines change their pace. Sixteen live configurations, of processes on
a directory store made as slow as a cloud's, are billed as if they were functions of AWS Lambda on S3. As a plan
foretells the median run, the truth is the median of three, each with seeds of its own. Needed, as medians over the
configurations: 12 % of time, 8 % of the bill, 3 % of requests; and for each job the configuration that the plan ranks
first is within 10 % of the best.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import lambdaml
from lambdaml.cost.candidates import Candidate
from lambdaml.cost.convergence import Convergence
from lambdaml.cost.iprof import Device, IProf
from lambdaml.cost.measure import measure
from lambdaml.cost.outlook import Goal, outlook
from lambdaml.cost.pace import Shape, busy_share, mixed, pace
from lambdaml.cost.plan import REFINING_SEEDS, REFINING_UPDATES
from lambdaml.cost.prices import PriceBook
from lambdaml.cost.profile import Profile
from lambdaml.cost.stores import measure_store
from lambdaml.cost.tariff import Quantities, Tariff
from lambdaml.worlds.channel import Channel
from lambdaml.worlds.stragglers import STRAGGLERS

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
EVERY = 4
"""Updates of each worker between snapshots: the finer, the less a run stops late by chance."""

SEEDS = (0, 1, 2)
BOOKED = ("s3-standard", "lambda-arm:1769")


@dataclass(frozen=True, slots=True)
class Facts:
    seconds: float
    usd: float
    requests: float


def planned(
    profile: Profile, channel: Channel, schedule: str, workers: int, latency: str, codec: str, tariff: Tariff
) -> Facts:
    candidate = Candidate(schedule, workers, profile.job.batch_size, codec, latency, "local")
    busy = busy_share(profile.costs(codec=codec), channel, workers)
    slowdown = IProf().slowdown(Device.here(workers, busy))
    platform = profile.placed("local", workers, slowdown)
    shape = Shape(
        schedule,
        workers,
        profile.job.batch_size,
        profile.job.samples,
        profile.costs(codec=codec, slowdown=slowdown),
        channel,
        platform,
        STRAGGLERS.make("none"),
        workers,
    )
    goal = Goal(Convergence(profile.pilot, profile.noise.samples if profile.noise else None), None, EVERY)
    course = mixed([(1 / len(REFINING_SEEDS), pace(shape, seed, REFINING_UPDATES)) for seed in REFINING_SEEDS])
    found = outlook(candidate, course, profile, goal, channel, tariff)
    return Facts(found.seconds, found.usd, found.requests)


def measured(latency: str, size: int) -> Channel:
    """A store, as a profile finds it."""
    with tempfile.TemporaryDirectory() as folder:
        facts, *_ = measure_store(f"file://{folder}?latency={latency}&latency_seed=99", size, 5.0, lambda share: None)
    return facts.channel()


def live(job: str, schedule: str, workers: int, latency: str, codec: str, tariff: Tariff) -> Facts:
    """The median of a run for each seed."""
    runs = [run(job, schedule, workers, latency, codec, tariff, seed) for seed in SEEDS]
    return Facts(*(median(getattr(facts, name) for facts in runs) for name in Facts.__slots__))


def run(job: str, schedule: str, workers: int, latency: str, codec: str, tariff: Tariff, seed: int) -> Facts:
    spec, args, target = JOBS[job]
    with tempfile.TemporaryDirectory() as folder:
        url = f"file://{folder}/run?latency={latency}&latency_seed={seed + 1}"
        options = {"workers": workers, "functions": workers, "target": target, "seed": seed, "args": args}
        options["snapshot_every"] = EVERY
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30.0, help="for each profile")
    parser.add_argument("--runs", type=int, default=len(CONFIGURATIONS), help="of each job")
    arguments = parser.parse_args()
    tariff = Tariff(PriceBook.load(), *BOOKED)
    errors: dict[str, list[float]] = {"seconds": [], "usd": [], "requests": []}
    print(f"{'':34}{'seconds':>22}{'cents':>22}{'requests':>22}\n{'':34}" + f"{'live planned':>22}" * 3)
    for job, (spec, args, target) in JOBS.items():
        profile = measure(spec, args=args, target=target, workers=4, seconds=arguments.seconds)
        seen: list[tuple[Facts, Facts]] = []
        for configuration in CONFIGURATIONS[: arguments.runs]:
            now = measure(spec, args=args, seconds=10.0)
            now = replace(now, target=target, pilot=profile.pilot, noise=profile.noise)
            channel = measured(configuration[2], 4 * profile.job.parameters)
            model = planned(now, channel, *configuration, tariff)
            real = live(job, *configuration, tariff)
            seen.append((real, model))
            cells = []
            for name, scale in (("seconds", 1.0), ("usd", 100.0), ("requests", 1.0)):
                truth, guess = getattr(real, name), getattr(model, name)
                errors[name].append(abs(guess / truth - 1))
                cells.append(f"{scale * truth:.4g} {scale * guess:.4g} {guess / truth - 1:+.1%}")
            print(
                f"{job + ' ' + ' '.join(map(str, configuration)):34}" + "".join(f"{c:>22}" for c in cells), flush=True
            )
        first = min(seen, key=lambda pair: pair[1].seconds)[0].seconds
        best = min(real.seconds for real, _ in seen)
        print(f"{job}: planned first takes {first:.2f} s, the best {best:.2f} s: {first / best - 1:+.1%}")
    print("median absolute error: " + ", ".join(f"{name} {median(off):.1%}" for name, off in errors.items()))


if __name__ == "__main__":
    main()

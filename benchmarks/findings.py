"""LambdaML's findings about algorithms and schedules, on the bundled digits: shown or refuted.

    python benchmarks/findings.py
    python benchmarks/findings.py --seeds 5 --workers 16

The findings (arXiv 2105.07806, as we remember them): model averaging needs fewer rounds but is unstable for convolutional
networks; asynchronous training is unstable unless its learning rate decays. Each row is trained with several learning
rates, and shows the one with the best mean accuracy at its end, over seeds. All rows of a model use the same number of samples.
Gradients are real. Rounds, requests, seconds and dollars are modelled: eight functions on Lambda with S3 Standard, whose
speed varies (log-normal, 0.3).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import lambdaml
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.simulation.stub_replica import Costs

JOBS = Path(__file__).resolve().parent / "jobs.py"
RATES = {"LinearDigits": (0.05, 0.2, 0.8), "ConvolvedDigits": (0.05, 0.2, 0.8)}
EPOCHS, PER_EPOCH = 12, 6
"""A worker of eight has six batches in an epoch of the digits."""

COSTS = Costs(
    step_s=0.02, encode_s=0.0005, apply_s=0.0005, apply_update_s=0.0002, update_bytes=25_000, snapshot_bytes=50_000
)

ROWS = {
    "gradient, bsp": {"schedule": "bsp", "algorithm": "gradient"},
    "model averaging, bsp": {"schedule": "bsp", "algorithm": "local:epochs=1"},
    "gradient, asp": {"schedule": "asp", "algorithm": "gradient"},
    "gradient, asp, decay": {"schedule": "asp", "algorithm": "gradient", "decay": True},
}


def simulate(job: str, row: dict[str, object], lr: float, workers: int, seed: int) -> lambdaml.SimulationResult:
    """Train once."""
    options = dict(row)
    decay = bool(options.pop("decay", False))
    steps = EPOCHS if str(options["algorithm"]).startswith("local") else EPOCHS * PER_EPOCH * 8 // workers
    return lambdaml.simulate(
        f"{JOBS}:{job}",
        args={"lr": lr, "decay": decay},
        workers=workers,
        steps=steps,
        real=True,
        stragglers="lognormal:0.3",
        costs=COSTS,
        seed=seed,
        snapshot_every=steps,
        **options,  # type: ignore[arg-type]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=8)
    asked = parser.parse_args()
    tariff = Tariff(PriceBook.load(), "s3-standard", "lambda-arm")
    print(
        "| model | algorithm | best rate | accuracy, % | at the other rates, % | rounds | requests | modelled s | modelled $ |"
    )
    print("|---|---|--:|--:|---|--:|--:|--:|--:|")
    for job, rates in RATES.items():
        for name, row in ROWS.items():
            runs = {lr: [simulate(job, row, lr, asked.workers, seed) for seed in range(asked.seeds)] for lr in rates}
            found = {lr: [100 * one.run.metrics["accuracy"] for one in each] for lr, each in runs.items()}
            best = max(found, key=lambda lr: statistics.mean(found[lr]))
            others = ", ".join(f"{lr:g}: {_spread(found[lr])}" for lr in rates if lr != best)
            one = runs[best][0]
            print(
                f"| {job} | {name} | {best:g} | {_spread(found[best])} | {others} | {one.run.updates // asked.workers} | "
                f"{sum(one.run.requests.values()):,} | {one.run.seconds:.1f} | {tariff.bill(Quantities.of(one)).usd:.4f} |",
                flush=True,
            )


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.1f}"


if __name__ == "__main__":
    main()

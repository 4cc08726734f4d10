"""What a stack for AWS Lambda costs: standing there, and while a run runs."""

from __future__ import annotations

from dataclasses import dataclass

from lambdaml.cost.billing.prices import Price, PriceBook
from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.deploy.aws import ARCHITECTURES, Wish

EXAMPLE = (64, 600.0)
"""The functions and the seconds of each of the example run."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of the price basis.

    Attributes:
        what, unit: The billed thing, and the quantity of it that costs `usd`.
        usd: The US dollars, by the price book.
        how: The price of the book that they follow from, with its date.
    """

    what: str
    unit: str
    usd: float
    how: str


def costs(wish: Wish, book: PriceBook) -> list[Cost]:
    """Return what the stack costs, first what stays and then what a run uses. Prices are those of us-east-1."""
    platform = ARCHITECTURES[wish.architecture]
    duration, invocation = book[f"{platform}/duration"], book[f"{platform}/invocation"]
    put, get = book["s3-standard/put"], book["s3-standard/get"]
    image, log, storage = book["ecr/storage"], book["cloudwatch-logs/bytes-in"], book["s3-standard/storage"]
    functions, seconds = EXAMPLE
    example = Tariff(book, "s3-standard", f"{platform}:{wish.memory_mb}").bill(Quantities([seconds] * functions))
    return [
        Cost("image in ECR", "GB-month", image.usd, _basis(image)),
        Cost("runs in S3", "GB-month", storage.usd, _basis(storage)),
        Cost(
            f"a function of {wish.memory_mb:,} MB",
            "hour",
            duration.usd * wish.memory_mb / 1024 * 3600,
            _basis(duration),
        ),
        Cost("invocations", "million", invocation.usd * 1e6, _basis(invocation)),
        Cost("S3: writes and lists", "1,000", put.usd * 1000, _basis(put)),
        Cost("S3: reads, also of nothing", "1,000", get.usd * 1000, _basis(get)),
        Cost("log", "GB written", log.usd, _basis(log)),
        Cost(f"{functions} functions", f"{seconds / 60:.0f} minutes", example.usd, "the above, without S3"),
    ]


def _basis(price: Price) -> str:
    return f"{price.id} of {price.date}"

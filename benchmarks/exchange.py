"""Compare a round of our exchange with LambdaML's and with its floor, on one S3 server in one call.

    python benchmarks/exchange.py
    python benchmarks/exchange.py --workers 4 --megabytes 1 --milliseconds 40 --patterns gather,tree:2 --rounds 40

For each number of workers and each size of the model a fresh SeaweedFS serves all sides in turn: our patterns, with one
function for each worker (engine `local`, schedule `bsp`, codec `fp32`), and the two exchanges of `lambdaml_baseline.py`,
in as many processes. A latency is injected in the same way on both sides. A round is the time from a worker's start to
its next start: the median over all workers and over the rounds in the middle. Our rounds hold what a training needs
besides: a gradient, encoding, checks, the log and an optimizer step. The table states the gradient and what is done
once everything has been read, which with `gather` includes adding up. Theirs hold the exchange and nothing else.

Floors are those of `_network.py`, with latency and bandwidths as bare requests of the same client have them on the same
server, right before; a cell's floor is the smallest of its patterns'. Requests are those of all functions by their
meters, without those of starting and ending a run, divided by the rounds; looks that found nothing are among them, and
so is what is asked once a second. Dollars are those of S3 Standard.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from _network import Network, measure_network
from _together import middle
from lambdaml_baseline import SEQUENCES, measure

import lambdaml
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.storage.url import StoreURL
from lambdaml.worker.requests import END, START, count_requests
from tests.storage.servers import seaweedfs

SPEC = f"{Path(__file__).parent / 'jobs.py'}:Payload"
HEADER_BYTES = 500
KINDS = ("create", "put", "get", "get_range", "get_miss", "head", "list", "delete")
TABLE = """\
| workers, size, latency | exchange | ms a round | gradient and step | own floor | of the least floor | of theirs \
| requests a round | $ per 1,000 rounds | of theirs |
|---|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is compared: a number of workers, a size, and a latency that is injected.

    Attributes:
        floats: The number of the model's parameters.
    """

    workers: int
    floats: int
    latency_s: float

    @property
    def name(self) -> str:
        return f"{self.workers} x {self.floats / 250_000:g} MB, {self.latency_s * 1e3:g} ms"

    def url(self, server: str, path: str) -> str:
        """Return the URL of a place on the server that is as slow as this cell says."""
        url = StoreURL.parse(server)
        latency = f"{self.latency_s * 1e3:g}ms" if self.latency_s else None
        return str(StoreURL(url.scheme, f"{url.location}/{path}", url.params).adding(latency=latency))


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one exchange in a cell.

    Attributes:
        round_s: The seconds of a round.
        requests: The requests of a round by kind.
        step_s: The seconds of them that the gradient took, and what was done when all had been read.
    """

    round_s: float
    requests: Mapping[str, float]
    step_s: float = 0.0

    @property
    def usd(self) -> float:
        """The price of the requests of a round on S3 Standard."""
        counts = {kind: round(1e6 * count) for kind, count in self.requests.items()}
        return Tariff(PriceBook.load(), "s3-standard", "local").bill(Quantities(requests=counts)).usd / 1e6


def ours(server: str, cell: Cell, pattern: str, rounds: int, turn: int) -> Row:
    """Train with one of our patterns, and return what its rounds took."""
    path = f"{pattern}-{cell.latency_s:g}-{turn}".replace(":", "-")
    lambdaml.train(
        SPEC,
        cell.url(server, path),
        workers=cell.workers,
        functions=cell.workers,
        pattern=pattern,
        steps=rounds,
        snapshot_every=10**6,
        args={"floats": cell.floats},
    )
    run = lambdaml.Run(str(StoreURL.parse(cell.url(server, path)).adding(latency=None)))
    rows = run.trace()
    began = [
        [row["started_s"] for row in rows if row["worker"] == worker and "started_s" in row]
        for worker in range(cell.workers)
    ]
    around = count_requests(START, function=cell.workers, worker=cell.workers)
    around += count_requests(END, function=cell.workers, run=1)
    requests = Counter(run.requests().requests)
    requests.subtract(around)
    return Row(
        median(spent for moments in began for spent in middle(sorted(moments))),
        {kind: count / rounds for kind, count in requests.items()},
        median(row["compute_s"] + row["apply_s"] for row in rows if "apply_s" in row),
    )


def theirs(server: str, cell: Cell, sequence: str, rounds: int) -> Row:
    """Run one of LambdaML's exchanges, and return what its rounds took."""
    endpoint = StoreURL.parse(server).params["endpoint"]
    found = measure(endpoint, sequence, cell.workers, cell.floats, rounds, cell.latency_s)
    return Row(found.round_s, found.requests)


def typical(rows: Sequence[Row]) -> Row:
    """Return the medians over the turns."""
    kinds = sorted({kind for row in rows for kind in row.requests})
    return Row(
        median(row.round_s for row in rows),
        {kind: median(row.requests.get(kind, 0.0) for row in rows) for kind in kinds},
        median(row.step_s for row in rows),
    )


def compare(
    server: str, cell: Cell, patterns: Sequence[str], rounds: int, turns: int
) -> tuple[Network, dict[str, Row]]:
    """Measure all exchanges of a cell in turn, and return the network and what each took, ours first."""
    networks: list[Network] = []
    found: dict[str, list[Row]] = {name: [] for name in (*patterns, *SEQUENCES)}
    for turn in range(turns):
        bare = cell.url(server, f"bare-{cell.latency_s:g}-{turn}")
        networks.append(measure_network(bare, cell.workers, 4 * cell.floats + HEADER_BYTES))
        for name, rows in found.items():
            if name in patterns:
                rows.append(ours(server, cell, name, rounds, turn))
            else:
                rows.append(theirs(server, cell, name, rounds))
    return Network.typical(networks), {name: typical(rows) for name, rows in found.items()}


def show(cell: Cell, network: Network, rows: Mapping[str, Row], patterns: Sequence[str]) -> str:
    """Print a cell's lines of the table, and return what our best pattern is beside their best in a sentence."""
    floor_s = min(network.floor_s(pattern) for pattern in patterns)
    fastest_s = min(rows[name].round_s for name in SEQUENCES)
    cheapest_usd = min(rows[name].usd for name in SEQUENCES)
    for name, row in rows.items():
        own_floor = f"{network.floor_s(name) * 1e3:.0f}" if name in patterns else ""
        step = f"{row.step_s * 1e3:.0f}" if name in patterns else ""
        counts = ", ".join(f"{kind} {row.requests[kind]:.1f}" for kind in KINDS if row.requests.get(kind, 0) >= 0.05)
        print(
            f"| {cell.name} | `{name}` | {row.round_s * 1e3:.0f} | {step} | {own_floor} | {row.round_s / floor_s:.2f} "
            f"| {row.round_s / fastest_s:.2f} | {counts} | {row.usd * 1e3:.4f} | {row.usd / cheapest_usd:.2f} |",
            flush=True,
        )
    best = min(patterns, key=lambda name: rows[name].round_s)
    faster, cheaper = rows[best].round_s / fastest_s, rows[best].usd / cheapest_usd
    return f"{cell.name}: `{best}` takes {faster:.2f} of the time and {cheaper:.2f} of the dollars of theirs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="4,8")
    parser.add_argument("--megabytes", default="1,10", help="the bytes of the model")
    parser.add_argument("--milliseconds", default="0,40", help="the latency of a request that is injected")
    parser.add_argument("--patterns", default="gather,tree:N,scatter", help="N stands for the number of workers")
    parser.add_argument("--rounds", default="40,12", help="for each of the sizes")
    parser.add_argument("--turns", type=int, default=1)
    options = parser.parse_args()
    sizes = [float(part) for part in options.megabytes.split(",")]
    rounds = [int(part) for part in options.rounds.split(",")][: len(sizes)]
    print(f"load {os.getloadavg()[0]:.1f} at the beginning, {os.cpu_count()} cores")
    print(TABLE)
    verdicts = []
    for workers in map(int, options.workers.split(",")):
        patterns = [pattern.replace("N", str(workers)) for pattern in options.patterns.split(",")]
        for megabytes, number in zip(sizes, rounds, strict=True):
            for ms in map(float, options.milliseconds.split(",")):
                cell = Cell(workers, round(megabytes * 250_000), ms / 1e3)
                with seaweedfs(volumes=300) as server:
                    network, rows = compare(server, cell, patterns, number, options.turns)
                verdicts.append(show(cell, network, rows, patterns))
    print("\n".join(verdicts))
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()

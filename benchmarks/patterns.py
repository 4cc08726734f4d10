"""The best pattern by number of workers and size of updates, in seconds and dollars a round, by the planner's formulas.

    python benchmarks/patterns.py

Store, prices and functions are `s3-standard` and Lambda with 1,769 MB and 78.6 MB/s each. The last table compares what
`--pattern auto` would choose with the best pattern in the virtual world, in the cells of `benchmarks/floors.py`; adding up
is charged at 1 ms a MB there, so that the tables are the same on every machine. The table before it has the size of updates from
which on `scatter` is quicker than `gather`: by the formulas, by simulation in closed form, and by that of every request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from floors import STEP_S, round_s

from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import Tariff
from lambdaml.cost.planning.exchange import Route, Traffic, round_cost
from lambdaml.cost.planning.pattern_choice import choose_pattern, expected_cost, round_usd, traffic_of
from lambdaml.options import RunOptions
from lambdaml.simulation import simulate
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs

ROUTE = Route(Channel.parse("s3-standard"), 78.6e6)
ADD_S_PER_BYTE = 1e-9
SHORT, LONG, MOST_EXACT = 10, 30, 8


def main() -> None:
    """Print the tables."""
    tariff = Tariff(PriceBook.load(), "s3-standard", "lambda-arm:1769", 1769)
    print("| N | MB | best | s | $ | gather s | gather $ |\n|--:|--:|---|--:|--:|--:|--:|")
    for workers in (2**level for level in range(2, 11)):
        for size in (1e6, 1e8):
            asked, plain = RunOptions(workers=workers), Traffic(workers, workers, size, size)
            best, gather = choose_pattern(asked, plain, ROUTE, tariff), round_cost("gather", plain, ROUTE)
            print(
                f"| {workers:,} | {size / 1e6:g} | {best.pattern} | {best.cost.seconds:.3g} | {best.usd:.2g} | "
                f"{gather.seconds:.3g} | {round_usd(gather, plain, tariff):.2g} |"
            )
    print("\n| N | MB | gather $ / scatter $ |\n|--:|--:|--:|")
    for workers in (4, 8, 16, 32, 64, 128):
        for size in (5e8, 1e9, 5e9):
            big = Traffic(workers, workers, size, size)
            gather, scatter = (round_usd(round_cost(name, big, ROUTE), big, tariff) for name in ("gather", "scatter"))
            print(f"| {workers} | {size / 1e6:,g} | {gather / scatter:.2f} |")
    _crossovers()
    _cells(Tariff(PriceBook.load(), "disk", "local"))


def _crossovers() -> None:
    """Print the size from which on `scatter` is quicker than `gather`, and the planned one over the simulated ones."""
    print("\n| store | N | planned MB | closed form MB | exact MB | planned / closed form | planned / exact |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in ("40ms:bandwidth=85MB/s", "s3-standard"):
        channel = Channel.parse(name)
        route = replace(ROUTE, channel=channel)

        def planned_s(pattern: str, workers: int, size: float, route: Route = route) -> float:
            return expected_cost(pattern, Traffic(workers, workers, size, size), route).seconds

        for workers in (4, 8, 16, 32):
            planned = _crossover(planned_s, workers)
            cells = [_crossover(_simulated(channel, exact=False), workers)]
            cells += [_crossover(_simulated(channel, exact=True), workers)] if workers <= MOST_EXACT else []
            sizes = [f"{size / 1e6:.2f}" for size in (planned, *cells)] + ["-"] * (2 - len(cells))
            ratios = [f"{planned / size:.2f}" for size in cells] + ["-"] * (2 - len(cells))
            print(f"| {name} | {workers} | {' | '.join([*sizes, *ratios])} |", flush=True)


def _crossover(round_of: Callable[[str, int, float], float], workers: int) -> float:
    """Return the bytes at which both patterns take as long, by bisection between 10 kB and 100 MB."""
    low, high = 1e4, 1e8
    for _ in range(9):
        middle = (low * high) ** 0.5
        quicker = round_of("gather", workers, middle) < round_of("scatter", workers, middle)
        low, high = (middle, high) if quicker else (low, middle)
    return (low * high) ** 0.5


def _simulated(channel: Channel, exact: bool) -> Callable[[str, int, float], float]:
    """Return a function of pattern, workers and bytes: the seconds of a round with its compute, starts left out."""
    platform = replace(Platform.parse("local"), bandwidth_bytes_per_s=ROUTE.bytes_per_s)

    def round_of(pattern: str, workers: int, size: float) -> float:
        given = {"workers": workers, "pattern": pattern, "channel": channel, "platform": platform, "exact": exact}
        costs = Costs(step_s=STEP_S, update_bytes=round(size))
        ends = [
            simulate(**given, costs=costs, steps=steps, snapshot_every=10 * LONG).run.seconds for steps in (SHORT, LONG)
        ]
        return (ends[1] - ends[0]) / (LONG - SHORT)

    return round_of


def _cells(tariff: Tariff) -> None:
    """Print the choice beside the best pattern of `benchmarks/floors.py`."""
    print("\n| bandwidth | N | MB | auto | best | auto / best |\n|--:|--:|--:|---|---|--:|")
    for bandwidth in (260e6, 78.6e6):
        route = Route(Channel.parse(f"40ms:bandwidth={bandwidth / 1e6:g}MB/s"), bandwidth)
        for workers in (4, 8):
            for size in (10**6, 10**7, 10**8):
                asked = RunOptions(workers=workers)
                traffic = traffic_of(asked, workers, size, size, ADD_S_PER_BYTE * size, STEP_S)
                chosen = choose_pattern(asked, traffic, route, tariff).pattern
                found = {
                    name: round_s(name, workers, size, bandwidth, ADD_S_PER_BYTE)
                    for name in {"gather", "scatter", f"tree:{workers}", chosen}
                }
                best = min(found, key=lambda name: found[name])
                ratio = found[chosen] / found[best]
                print(
                    f"| {bandwidth / 1e6:g} MB/s | {workers} | {size / 1e6:g} | {chosen} | {best} | {ratio:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""Start functions through the tree of `lambdaml.engines.invoke` in the virtual world, against AWS's published ramp.

    python benchmarks/lambda_start.py
    python benchmarks/lambda_start.py --cold-s 2.0 2.0 --invoke-ms 50

A caller makes `CALLS_AT_ONCE` invocations at a time. For each it looks for the log's end, claims the function's life (the
latencies are those of S3 Standard) and calls Invoke. Lambda gives the n-th new environment when its ramp allows it, and
then the cold start passes. In the tree, a function calls those of its range as soon as its handler begins, which is
`--import-s` before its cold start is over, since the handler imports torch later. In the flat way, the driver alone
calls them all. The floor is ramp and cold starts alone, as if
all were asked for in the first moment.

All times are modelled and the same in every call; each function has the same cold start in the three ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from lambdaml.engines.invoke import CALLS_AT_ONCE, ranges
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.kernel import Group, Kernel, sleep
from lambdaml.simulation.platform import Platform

STORE = Channel.parse("s3-standard")
Parts = Callable[[int, int], Iterable[tuple[int, int]]]


def flat(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield a range of its own for each function, so that one caller invokes them all."""
    return ((index, index + 1) for index in range(first, last))


@dataclass(slots=True)
class Starting:
    """The start of some functions, from the driver's first call on.

    Attributes:
        platform: The platform, with its ramp and its cold starts.
        parts: A function that divides a range among the invocations of one caller.
        invoke_s: The seconds that a call of Invoke takes.
        import_s: The seconds of a cold start in which the handler runs already.
        works: The second at which each function, by its index, has started.
        levels: The number of invocations between the driver and each function.
    """

    platform: Platform
    parts: Parts
    invoke_s: float
    import_s: float
    works: dict[int, float] = field(default_factory=dict)
    levels: dict[int, int] = field(default_factory=dict)
    _kernel: Kernel = field(default_factory=Kernel)
    _asked: int = 0

    def run(self, functions: int) -> float:
        """Start them, and return the second at which the last one has started."""
        self._call(self._kernel.group("driver"), 0, functions, 1)
        self._kernel.run()
        return max(self.works.values())

    def _call(self, caller: Group, first: int, last: int, level: int) -> None:
        waiting = iter(self.parts(first, last))
        for _ in range(min(CALLS_AT_ONCE, last - first)):
            caller.spawn(self._one_after_the_other(caller, waiting, level))

    async def _one_after_the_other(self, caller: Group, waiting: Iterator[tuple[int, int]], level: int) -> None:
        for first, last in waiting:
            for kind in ("get_miss", "create"):
                await sleep(STORE.latency_s(kind, caller.random.random()))
            await sleep(self.invoke_s)
            function = self._kernel.group(str(first))
            function.spawn(self._function(function, first, last, level))

    async def _function(self, group: Group, first: int, last: int, level: int) -> None:
        kernel, start_s = self._kernel, cold_start_s(self.platform, group)
        admitted, self._asked = self.platform.start_delay_s(self._asked), self._asked + 1
        await sleep(max(0.0, admitted - kernel.now) + max(0.0, start_s - self.import_s))
        self._call(group, first + 1, last, level + 1)
        await sleep(min(start_s, self.import_s))
        assert first not in self.works, "a function is started once"
        self.works[first], self.levels[first] = kernel.now, level


def cold_start_s(platform: Platform, function: Group) -> float:
    """Return the cold start of a function, which is the same in each way to start it."""
    return platform.start_s(function.random.random)


def floor(platform: Platform, functions: int) -> float:
    """Return the second at which the last one could have started if all were asked for at once.

    Those with the longest cold starts go through the ramp first, which no order betters.
    """
    kernel = Kernel()
    starts = sorted((cold_start_s(platform, kernel.group(str(index))) for index in range(functions)), reverse=True)
    return max(platform.start_delay_s(index) + start_s for index, start_s in enumerate(starts))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--functions", type=int, nargs="+", default=[32, 256, 1000, 3000, 10_000])
    parser.add_argument("--platform", default="lambda-arm")
    parser.add_argument("--cold-s", type=float, nargs=2, help="median and 99th percentile; by default the platform's")
    parser.add_argument("--import-s", type=float, default=2.3)
    parser.add_argument("--invoke-ms", type=float, default=50.0)
    asked = parser.parse_args()
    platform = Platform.parse(asked.platform)
    same = replace(platform, cold_start_s=(platform.cold_start_s[0],) * 2)
    told = (replace(platform, cold_start_s=tuple(asked.cold_s)),) if asked.cold_s else (same, platform)
    print("cold start (median, p99)  functions  levels    tree      flat     floor   in seconds")
    for kind in told:
        for functions in asked.functions:
            tree, one = (Starting(kind, parts, asked.invoke_ms / 1000, asked.import_s) for parts in (ranges, flat))
            tree_s, flat_s = tree.run(functions), one.run(functions)
            assert sorted(tree.works) == sorted(one.works) == list(range(functions))
            cold = f"{kind.cold_start_s[0]:g} s, {kind.cold_start_s[1]:g} s"
            levels, least_s = max(tree.levels.values()), floor(kind, functions)
            print(f"{cold:25} {functions:9,} {levels:7} {tree_s:7.1f} {flat_s:9.1f} {least_s:9.1f}")


if __name__ == "__main__":
    main()

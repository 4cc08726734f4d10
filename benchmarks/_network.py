"""Measures a server with bare requests, and says what the requests of a round take at least, whoever makes them.

The formulas have a latency L, the bytes S of an update, which are those of a sum as well, the bandwidth c of a
connection, the bandwidth B of a function's network, and N functions of one worker each. What is added up on the way to
a floor is measured, not computed: S/c is a put or a get of an update, (N-1) S/B are the gets of all other updates at
once, and S/B is a put of N parts of an update at once.

| pattern | seconds of a round |
|---|---|
| gather | 2 L + S/c + (N-1) S/B |
| scatter | 4 L + S/B + 2 (N-1) S/(N B) + S/(N c) |
| tree:K | 2 L (1 + levels) + S/c + on each level (K-1) S/B + S/c + at last S/c |

On one machine, functions share cores and server, so c and B depend on how many of them transfer at once. Both are
measured for one function alone, which is what the last level of a tree is, and for all of them at once, which is
everything else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from statistics import median

from _together import run_together, wait_for_all

from lambdaml.storage import open_store

SMALL_BYTES, TRIES = 1000, 5
"""The bytes of a small object, and the number of tries for each kind of request; a further one comes first and does not
count."""


@dataclass(frozen=True, slots=True)
class Transfers:
    """The seconds that transfers take beyond a request's latency.

    Attributes:
        put_s: The put of an update.
        parts_s: The puts of N parts of an update, all at once.
        get_s: The get of an update.
        read_s: The gets of the updates of all others, all at once.
    """

    put_s: float
    parts_s: float
    get_s: float
    read_s: float

    @staticmethod
    def typical(found: Sequence[Transfers]) -> Transfers:
        """Return the medians."""
        return Transfers(*(median(getattr(each, field.name) for each in found) for field in fields(Transfers)))


@dataclass(frozen=True, slots=True)
class Network:
    """What was measured at a server with N functions.

    Attributes:
        functions: Their number N.
        latency_s: The seconds of a request for a small object.
        alone, together: The transfers of one function while the others rest, and of all functions at once.
    """

    functions: int
    latency_s: float
    alone: Transfers
    together: Transfers

    @staticmethod
    def typical(found: Sequence[Network]) -> Network:
        """Return the medians of several measurements with as many functions."""
        return Network(
            found[0].functions,
            median(each.latency_s for each in found),
            Transfers.typical([each.alone for each in found]),
            Transfers.typical([each.together for each in found]),
        )

    def floor_s(self, pattern: str) -> float:
        """Return the floor of a pattern, such as `tree:4`."""
        name, _, options = pattern.partition(":")
        n, latency_s, all_at_once = self.functions, self.latency_s, self.together
        if name == "gather":
            return 2 * latency_s + all_at_once.put_s + all_at_once.read_s
        if name == "scatter":
            return 4 * latency_s + all_at_once.parts_s + 2 * all_at_once.read_s / n + all_at_once.put_s / n
        if name == "tree":
            return self._tree_s(int(options))
        raise ValueError(f"no formula for the pattern {pattern!r}")

    def _tree_s(self, arity: int) -> float:
        seconds, nodes = self.latency_s + self.together.put_s, self.functions
        while nodes > 1:
            children, nodes = min(arity, nodes), -(-nodes // arity)
            transfers = self.alone if nodes == 1 else self.together
            share = (children - 1) / (self.functions - 1)
            seconds += 2 * self.latency_s + share * transfers.read_s + transfers.put_s
        return seconds + self.latency_s + self.together.get_s


def measure_network(url: str, functions: int, size_bytes: int) -> Network:
    """Measure what bare requests take at a store, with objects of this size and as many processes as functions."""
    found = run_together(_probe, functions, url, functions, size_bytes)
    latency_s = found[0]["small"]

    def transfers(when: str, ranks: range) -> Transfers:
        spent = (median(found[rank][f"{kind} {when}"] for rank in ranks) for kind in ("put", "parts", "get", "read"))
        return Transfers(*(max(0.0, seconds - latency_s) for seconds in spent))

    return Network(functions, latency_s, transfers("alone", range(1)), transfers("together", range(functions)))


def _probe(rank: int, url: str, functions: int, size_bytes: int) -> dict[str, float]:
    """Return the median seconds of each kind of request, first alone as the first function, then together with all."""
    store, data = open_store(url), os.urandom(size_bytes)
    others = [f"first-{other}" for other in range(functions) if other != rank]
    found: dict[str, float] = {}
    with ThreadPoolExecutor(functions) as threads:

        def read(_: int) -> None:
            assert None not in list(threads.map(store.get, others))

        def put_parts(name: str) -> None:
            names = [f"{name}-{part}" for part in range(functions)]
            list(threads.map(store.create, names, [data[: size_bytes // functions]] * functions))

        store.create(f"first-{rank}", data)
        wait_for_all()
        if rank == 0:
            tiny = data[:SMALL_BYTES]
            times = [_timed(partial(store.create, f"small-{number}", tiny)) for number in range(TRIES)]
            times += [_timed(partial(store.get, f"small-{number}")) for number in range(TRIES)]
            found["small"] = median(times)
        for when in ("alone", "together"):
            steps: dict[str, Callable[[int], object]] = {
                "put": lambda number, when=when: store.create(f"{when}-{rank}-{number}", data),  # type: ignore[misc]
                "parts": lambda number, when=when: put_parts(f"{when}-{rank}-{number}"),  # type: ignore[misc]
                "get": lambda number: store.get(others[number % len(others)]),
                "read": read,
            }
            for kind, step in steps.items():
                times = list(_turns(step, rank == 0 or when == "together"))
                found |= {f"{kind} {when}": median(times)} if times else {}
    store.close()
    return found


def _turns(step: Callable[[int], object], taking_part: bool) -> Iterator[float]:
    """Yield the seconds of each try, which begin at the same time in all processes."""
    for number in range(TRIES + 1):
        wait_for_all()
        if taking_part:
            seconds = _timed(partial(step, number))
            if number:
                yield seconds
    wait_for_all()


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

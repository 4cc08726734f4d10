"""Measure what codecs take on one core: to encode an update, to check it, and to add one or eight of them to a sum.

    python benchmarks/codec_speed.py
    python benchmarks/codec_speed.py --size 1e6 --codec sparse --codec topk:0.001

The vector has ten million normally distributed numbers, laid out as matrices of 1024 x 1024 with a bias each. Next to
each codec, try by try, numpy's argpartition alone selects a thousandth of them, and eight vectors of `fp32` are added;
a ratio is the median of those of the tries. Everything is measured in CPU seconds of one process with one thread, so
that other work on the machine counts little. `check` includes the look for numbers that are not finite, which every
replica takes.

The second table is check B5: a full sort, a partial one, and the selections of `topk` and `gaussiank`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from lambdaml.codecs import CODECS, Codec, Layout, UpdateContext, Vector
from lambdaml.log.records import Body

DENSITY, UPDATES, WIDTH = 0.001, 8, 1024
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Speed:
    """The medians of one codec.

    Attributes:
        size_bytes: The bytes of an encoded vector.
        encode_s: The seconds to encode one.
        check_s: The seconds to check one.
        add_s: The seconds to add one.
        sum_s: The seconds to make a sum of eight.
        of_argpartition: The ratio of encoding to a partial sort alone.
        of_dense: The ratio of the sum to that of eight vectors of `fp32`.
    """

    size_bytes: int
    encode_s: float
    check_s: float
    add_s: float
    sum_s: float
    of_argpartition: float
    of_dense: float


def took_s(work: Callable[[], object]) -> float:
    """Return the CPU seconds of this process for some work."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def layout_of(size: int) -> Layout:
    """Return matrices with a bias each, as many as there is room for, and one more vector."""
    each = WIDTH * WIDTH + WIDTH
    shapes = [(WIDTH, WIDTH), (WIDTH,)] * (size // each)
    return Layout((*shapes, (size % each,)) if size % each else tuple(shapes))


def vectors(size: int, count: int) -> list[Vector]:
    """Return vectors of the size of gradients."""
    return [1e-3 * np.random.default_rng(seed).standard_normal(size, np.float32) for seed in range(count)]


def total(codec: Codec, bodies: Sequence[Body], out: Vector, layout: Layout) -> None:
    """Write the mean of the bodies to `out`."""
    for number, body in enumerate(bodies):
        codec.add(body, 1 / len(bodies), out, layout, slice(0, layout.size), fresh=number == 0)


def checked(codec: Codec, body: Body, layout: Layout) -> None:
    """Check a body as replicas do."""
    assert codec.check(body, layout) == "" and np.isfinite(codec.values(body, layout)).all()


def partial_sort(magnitudes: Vector, count: int) -> Vector:
    """Return the places of the largest."""
    return np.argpartition(magnitudes, len(magnitudes) - count)[len(magnitudes) - count :]


def measure(spec: str, given: Sequence[Vector], tries: int) -> Speed:
    """Measure one codec."""
    layout, codec, dense = layout_of(len(given[0])), CODECS.make(spec), CODECS.make("fp32")
    weights = 0.03 * np.random.default_rng(99).standard_normal(layout.size, np.float32)
    context = UpdateContext(epoch=99, rate_share=lambda: 1.0, weights=lambda: weights)
    bodies = [codec.encode(vector, layout, context) for vector in given]
    plain: list[Body] = [{"gradient": vector} for vector in given]
    magnitudes, out = np.abs(given[0]), np.zeros(layout.size, np.float32)
    works: tuple[Callable[[], object], ...] = (
        partial(codec.encode, given[0], layout, context),
        partial(checked, codec, bodies[0], layout),
        partial(codec.add, bodies[0], 0.5, out, layout, slice(0, layout.size)),
        partial(total, codec, bodies, out, layout),
        partial(partial_sort, magnitudes, round(DENSITY * layout.size)),
        partial(total, dense, plain, out, layout),
    )
    times = [[took_s(work) for work in works] for _ in range(tries + 1)][1:]
    encode, check, add, whole, _, _ = (median(column) for column in zip(*times, strict=True))
    return Speed(
        sum(array.nbytes for array in bodies[0].values()),
        *(encode, check, add, whole),
        median(row[0] / row[4] for row in times),
        median(row[3] / row[5] for row in times),
    )


def speeds(specs: Sequence[str], size: int, tries: int) -> None:
    """Measure codecs, and print the table."""
    given = vectors(size, UPDATES)
    print("| codec | bytes | bits a number | encode | GB/s of fp32 | of argpartition | check | add one |", end="")
    print(" sum of 8 | of dense |\n|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for spec in specs:
        one = measure(spec, given, tries)
        print(
            f"| `{spec}` | {one.size_bytes:,} | {8 * one.size_bytes / size:.4g} | {shown(one.encode_s)} "
            f"| {f'{4 * size / one.encode_s / 1e9:.3g}' if one.encode_s > 1e-4 else '-'} | {one.of_argpartition:.2f} | {shown(one.check_s)} "
            f"| {shown(one.add_s)} | {shown(one.sum_s)} | {one.of_dense:.3f} |",
            flush=True,
        )


def selections(size: int, tries: int) -> None:
    """Measure sorts and selections of a thousandth, and print the table of B5."""
    layout, (vector,), context = layout_of(size), vectors(size, 1), UpdateContext()
    magnitudes = np.abs(vector)
    works: dict[str, Callable[[], object]] = {
        "full sort (`argsort`)": partial(np.argsort, magnitudes),
        "full sort of the numbers alone (`sort`)": partial(np.sort, magnitudes),
        "partial sort (`argpartition`)": partial(partial_sort, magnitudes, round(DENSITY * size)),
    }
    for name in ("topk", "gaussiank"):
        if name in CODECS.factories:
            works[f"`{name}:{DENSITY}`"] = partial(CODECS.make(f"{name}:{DENSITY}").encode, vector, layout, context)
    times = [[took_s(work) for work in works.values()] for _ in range(tries)]
    print("\n| selection of a thousandth | time | of argpartition | quicker than a full sort by |\n|---|---|---|---|")
    for number, name in enumerate(works):
        of_partial, of_sort = (median(row[number] / row[other] for row in times) for other in (2, 0))
        here = median(row[number] for row in times)
        print(f"| {name} | {shown(here)} | {of_partial:.2f} | {1 / of_sort:.1f} |", flush=True)


def shown(seconds: float) -> str:
    """Return milliseconds."""
    return f"{seconds * 1e3:.3g} ms"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=float, default=1e7, help="the numbers of the vector")
    parser.add_argument("--tries", type=int, default=9)
    parser.add_argument("--codec", action="append", help="only this codec; by default all variants worth trying")
    asked = parser.parse_args()
    specs, size = asked.codec or CODECS.variants(), round(asked.size)
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read when numpy is imported, so by another process
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(speeds, specs, size, asked.tries).result()
        pool.submit(selections, size, max(3, asked.tries // 3)).result()
    print(f"\n{size:,} numbers, {asked.tries} tries, one core, load {os.getloadavg()[0]:.1f}, numpy {np.__version__}")


if __name__ == "__main__":
    main()

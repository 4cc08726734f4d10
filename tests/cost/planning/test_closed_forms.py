"""The virtual world against published closed forms, for the transfers that these describe.

With constant latencies and without contention they must agree; docs/concepts/planning.md says what the closed forms
leave out.
"""

from __future__ import annotations

from typing import Any

import pytest

from lambdaml.simulation.channel import Channel
from lambdaml.simulation.kernel import Kernel
from lambdaml.simulation.virtual import Bucket, VirtualWorld


def elapsed(channel: str, workers: int, play: Any) -> float:
    """Seconds until all workers, in a world each, have played."""
    kernel = Kernel()
    bucket = Bucket(kernel, Channel.parse(channel))
    tasks = []
    for worker in range(workers):
        world = VirtualWorld(kernel.group(f"w{worker}"), bucket)
        tasks.append((world, world.group.spawn(play(world, worker))))
    kernel.run()
    for _, task in tasks:
        assert task.result.done and task.result._error is None
    return max(world.now() for world, _ in tasks)


def scatter_reduce_s(channel: str, workers: int, size: int) -> tuple[float, float]:
    """A round in the virtual world, and by LambdaML's formula (arXiv 2105.07806, section 5.3), (3w - 2) ((m / w) / B + L):
    of each worker w - 1 puts of a chunk, w - 1 gets, a put of the reduced chunk, and w - 1 gets, one after the other.
    """
    chunk = b"x" * (size // workers)

    async def play(world: VirtualWorld, me: int) -> None:
        others = [worker for worker in range(workers) if worker != me]

        async def take(key: str) -> None:
            while await world.store.get(key) is None:
                raise AssertionError(f"{key} was not there in time")

        for worker in others:
            await world.store.put(f"chunk/{worker}/{me}", chunk)
        for worker in others:
            await take(f"chunk/{me}/{worker}")
        await world.store.put(f"merged/{me}", chunk)
        for worker in others:
            await take(f"merged/{worker}")

    known = Channel.parse(channel)
    closed = (3 * workers - 2) * (known.transfer_s(size // workers) + known.latency_s("get", 0.5))
    return elapsed(channel, workers, play), closed


def message_s(channel: str, size: int) -> tuple[float, float]:
    """A message in the virtual world, and by FMI's channel model (arXiv 2305.08763), with its constants: two transfers,
    latency + size / bandwidth each."""

    async def play(world: VirtualWorld, me: int) -> None:
        await world.store.put("message", b"x" * size)
        assert await world.store.get("message") is not None

    known = Channel.parse(channel)
    return elapsed(channel, 1, play), 2 * (known.latency_s("get", 0.5) + size / known.bandwidth_bytes_per_s)


@pytest.mark.parametrize("workers, size", [(2, 224), (4, 12_000_000), (10, 12_000_000), (10, 89_000_000)])
@pytest.mark.parametrize("channel", ["lambdaml-s3", "lambdaml-elasticache"])
def test_scatter_reduce_takes_what_lambdaml_says(channel: str, workers: int, size: int) -> None:
    found, closed = scatter_reduce_s(channel, workers, size)
    assert found == pytest.approx(closed, rel=0.02)


@pytest.mark.parametrize("channel", ["fmi-s3", "fmi-redis"])
@pytest.mark.parametrize("size", [1_000, 1_000_000, 50_000_000])
def test_a_message_takes_what_fmi_says(channel: str, size: int) -> None:
    found, closed = message_s(channel, size)
    assert found == pytest.approx(closed, rel=0.02)

"""Functions on a cluster of Ray: nodes die, come and are drained while a run goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lambdaml

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster

JOBS = Path(__file__).parent / "jobs.py"
WORKERS, STEPS = 4, 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with room for two functions; its code is shipped, since it has a working folder of its own."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed() -> str | None:
    return lambdaml.train(f"{JOBS}:Points", "memory://ray", workers=WORKERS, steps=STEPS).model_sha256


class Halfway:
    """Does something, once, in a thread, when the run has come so far."""

    def __init__(self, act: Callable[[], Any], at: float = 0.25) -> None:
        self.events: list[dict[str, Any]] = []
        self._act, self._at, self._thread = act, at, threading.Thread()

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if event["event"] == "commit" and event["fraction"] > self._at and self._thread.ident is None:
            self._thread = threading.Thread(target=self._act)
            self._thread.start()

    def some(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def join(self) -> None:
        assert self._thread.ident is not None, "it never came so far"
        self._thread.join()


def train(url: str, halfway: Halfway, **options: Any) -> lambdaml.TrainResult:
    result = lambdaml.train(
        f"{JOBS}:Points",
        url,
        workers=WORKERS,
        steps=STEPS,
        engine="ray",
        lease_s=4.0,
        on_event=halfway,
        **{"functions": 4, "args": {"seconds": 0.05}, **options},
    )
    halfway.join()
    return result


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_a_node_that_dies_costs_nothing_but_time(
    schedule: str, cluster: Cluster, undisturbed: str, tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    halfway = Halfway(lambda: cluster.remove_node(node, allow_graceful=False))
    result = train(f"file://{tmp_path}/run", halfway, schedule=schedule)
    assert sum(event["code"] == -1 for event in halfway.some("ended")) == 2
    assert len({event["node"] for event in halfway.some("started")}) == 2
    assert result.fates == {"applied": WORKERS * STEPS, "discarded": 0, "rejected": 0}
    report = lambdaml.Run(f"file://{tmp_path}/run").verify()
    assert report.faults == [] and report.pending == 0
    if schedule == "bsp":
        assert result.model_sha256 == undisturbed


def test_a_node_that_comes_is_used_and_one_that_is_drained_is_left(
    cluster: Cluster, undisturbed: str, tmp_path: Path
) -> None:
    def come_and_go() -> None:
        node = cluster.add_node(num_cpus=2)
        deadline = time.monotonic() + 60
        while not (there := [e for e in halfway.some("started") if e["node"] == node.node_id]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        newcomers.update(event["function"] for event in there)
        time.sleep(8)
        drain(node.node_id)

    newcomers: set[str] = set()
    halfway = Halfway(come_and_go, at=0.05)
    result = train(f"file://{tmp_path}/run", halfway, args={"seconds": 0.25})
    run = lambdaml.Run(f"file://{tmp_path}/run")
    assert {row["function"] for row in run.trace()} & newcomers, "the new node computed"
    assert {e["code"] for e in halfway.some("ended") if e["function"] in newcomers} == {1}
    assert result.model_sha256 == undisturbed
    assert run.verify().faults == []


def drain(node_id: str) -> None:
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    preemption = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + 60) * 1e3)
    accepted, why = client.drain_node(node_id, preemption, "spot", deadline_ms)
    assert accepted, why

"""One Ray cluster and one Lambda for all tests of engines, in this process; they take seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lambdaml.deploy.local_lambda import LocalLambda

CPUS = 4
"""Of the head node: the functions that find room before other nodes come."""

HEALTH_CHECK = {"initial_delay_ms": 1000, "period_ms": 500, "timeout_ms": 5000, "failure_threshold": 4}


@pytest.fixture(scope="session")
def cluster_of_one() -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Ray takes up to half a minute to miss a node, by default.
    health = {f"health_check_{name}": value for name, value in HEALTH_CHECK.items()}
    head = {"num_cpus": CPUS, "include_dashboard": False, "_system_config": health}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def platform() -> Iterator[LocalLambda]:
    """A Lambda on this machine, whose sandboxes stay warm from one test to the next."""
    with LocalLambda() as local:
        yield local


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody stands in for a function whose process is slow to start on a busy machine."""
    monkeypatch.setattr("lambdaml.engines.ray.GRACE_S", 60.0)


@pytest.fixture(scope="module")
def cluster(cluster_of_one: Any) -> Iterator[Any]:
    """A `Cluster` that this process is connected to until the module's tests are done."""
    import ray

    ray.init(cluster_of_one.address, log_to_driver=False, logging_level="ERROR")
    yield cluster_of_one
    ray.shutdown()

"""Functions on a cluster of Ray: nodes die, come and are drained while a run goes on; mistakes get one line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lambdaml
from lambdaml.engines import LaunchSpec
from lambdaml.errors import JobError, RunFailed, SettingsError
from lambdaml.events import Event, StartedEvent
from lambdaml.training.loading import load_job
from tests.lambdaml.engines.jobs import Points

ray = pytest.importorskip("ray")

import lambdaml.ray
from lambdaml.engines import ray as engine
from lambdaml.engines.raypulse import Pulse
from lambdaml.engines.raytask import Mailbox

JOB = f"{Path(__file__).parent / 'jobs.py'}:Points"
WORKERS, STEPS = 4, 40
REMEMBERING = {"algorithm": "local:4,inner=keep", "codec": "topk:0.2"}


@pytest.fixture(scope="module")
def undisturbed() -> str | None:
    return lambdaml.train(JOB, "memory://ray", workers=WORKERS, steps=STEPS).model_sha256


class Watch:
    """Keeps a run's events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def some(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.event == kind]


def train(url: str, **options: Any) -> lambdaml.TrainResult:
    return lambdaml.ray.train(JOB, url, **{"workers": WORKERS, "steps": STEPS, "functions": 4, **options})


def test_an_address_without_a_cluster_leaves_no_run_behind(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no Ray at 127\.0\.0\.1:1: .*refused"):
        train(f"file://{tmp_path}/run", address="127.0.0.1:1")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("functions", [1, 2, 4])
@pytest.mark.parametrize("store", ["moto", "ray"])
def test_the_bits_are_the_same_on_other_stores(store: str, functions: int, cluster: Any, undisturbed: str) -> None:
    place = secrets.token_hex(4)
    url = f"moto://bucket/{place}" if store == "moto" else f"ray://{place}/run?address={cluster.address}"
    opened = lambdaml.storage.open_store(url)
    result = lambdaml.ray.train(JOB, opened, workers=WORKERS, steps=STEPS, functions=functions)
    assert result.model_sha256 == undisturbed
    assert lambdaml.Run(opened).verify().faults == []
    opened.close()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("schedule", "more"), [("bsp", {}), ("asp", {}), ("bsp", REMEMBERING)], ids=str)
def test_a_node_that_dies_costs_nothing_but_time(
    schedule: str, more: dict[str, Any], cluster: Any, undisturbed: str, tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    watch, killed = Watch(), []

    def kill(event: Event) -> None:
        watch(event)
        begun = any(each.node == node.node_id for each in watch.some("started"))  # slower than the others, perhaps
        if begun and not killed and event.event == "commit" and len(watch.some("commit")) >= STEPS // 4:
            killed.append(node)
            cluster.remove_node(node, allow_graceful=False)

    args = {"seconds": 0.02 if more else 0.1}
    result = train(f"file://{tmp_path}/run", schedule=schedule, args=args, on_event=kill, **more)
    deaths = [event.function for event in watch.some("ended") if event.code == -1]
    elsewhere = {event.function for event in watch.some("started") if event.node != node.node_id}
    lost = {event.function for event in watch.some("started")} - elsewhere
    assert lost and lost <= set(deaths), "those on the node died"
    assert not elsewhere & set(deaths), "and nobody else did, but those that were still starting there"
    assert result.fates == {"applied": WORKERS * STEPS, "discarded": 0, "rejected": 0}
    report = lambdaml.Run(f"file://{tmp_path}/run").verify()
    assert report.faults == [] and report.pending == 0
    if more:
        undisturbed = lambdaml.train(JOB, "memory://remembering", workers=WORKERS, steps=STEPS, **more).model_sha256
        assert watch.some("remembered"), "what those on the node remembered was computed again"
    if schedule == "bsp":
        assert result.model_sha256 == undisturbed


def test_a_node_that_comes_is_used_and_one_that_is_drained_is_left(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two functions find room and stand in for two that wait; these take over on a new node, until it is drained."""
    monkeypatch.setattr(engine, "GRACE_S", 1.0)
    monkeypatch.setattr(engine, "DRAIN_S", 0.2)
    url, watch = f"file://{tmp_path}/run", Watch()
    newcomers: set[str] = set()

    def published() -> bool:
        used = {event.function: event.reading.requests for event in watch.some("usage")}
        return all(used.get(name, {}).get("create", 0) > 8 for name in newcomers)

    def script() -> Iterator[None]:
        while not (len(watch.some("takeover")) == 2 and watch.some("commit")):
            yield  # others stand in
        node = cluster.add_node(num_cpus=4)
        while len(watch.some("started")) < 4:
            yield
        newcomers.update(event.function for event in watch.some("started") if event.node == node.node_id)
        while not published():
            yield
        drain(node.node_id)
        while not newcomers <= {event.function for event in watch.some("ended")}:
            yield
        before = len(watch.some("commit"))
        while len(watch.some("commit")) < before + 5:
            yield  # others stand in again
        lambdaml.Run(url).cancel()

    steps = script()

    def on_event(event: Event) -> None:
        watch(event)
        next(steps, None)

    result = train(
        url, steps=5000, snapshot_every=1000, args={"seconds": 0.02}, num_cpus_per_function=2, on_event=on_event
    )
    assert len(newcomers) == 2
    assert {e.code for e in watch.some("ended") if e.function in newcomers} == {engine.LEFT}
    assert (result.stop, result.fates["rejected"]) == ("cancelled", 0)
    run = lambdaml.Run(url)
    assert newcomers <= {row.get("function") for row in run.trace()}
    assert run.verify().faults == []


def drain(node_id: str) -> None:
    """As Ray's autoscaler does when an instance was given notice."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    preemption = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = client.drain_node(node_id, preemption, "spot", int((time.time() + 60) * 1e3))
    assert accepted, why


def test_a_job_of_a_notebook_is_carried_by_ray(cluster: Any, undisturbed: str, tmp_path: Path) -> None:
    class Mine(Points):
        pass

    Mine.__module__ = "__main__"
    url = f"file://{tmp_path}/run"
    result = lambdaml.ray.train(Mine(), url, workers=WORKERS, steps=STEPS, functions=2)
    assert result.model_sha256 == undisturbed and isinstance(result.metrics["accuracy"], float)
    assert ray.is_initialized(), "the program's own connection is left alone"
    with pytest.raises(JobError, match="was given as an object"):
        lambdaml.resume(url, engine="inline")


@pytest.mark.usefixtures("patient")
def test_every_function_says_what_it_used_before_it_ends(cluster: Any, tmp_path: Path) -> None:
    watch = Watch()
    train(f"file://{tmp_path}/run", functions=2, steps=4, on_event=watch)
    for ended in watch.some("ended"):
        mine = [event for event in watch.events if event.function == ended.function]
        assert (mine[0].event, mine[-2].event, mine[-1].event) == ("started", "usage", "ended")
        used = mine[-2]
        assert used.seconds > 0 and used.memory_bytes > 2**20
        assert used.reading.requests["create"] >= 8


def test_a_lack_of_room_is_told(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_REPORT_WAIT_S", 0.1)
    watch = Watch()
    with pytest.raises(RunFailed, match=r"no room for a function, which needs 99 CPU and 1 GPU, for \d+ s: ask"):
        train(
            f"file://{tmp_path}/run",
            num_cpus_per_function=99,
            num_gpus_per_function=1,
            patience_s=1.0,
            on_event=watch,
        )
    assert watch.some("room")[0].needs == "99 CPU and 1 GPU"


def test_functions_take_up_memory_and_resources_that_were_asked_for(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=2, resources={"fast": 2})
    watch = Watch()
    wanted: dict[str, Any] = {"memory_bytes_per_function": 1e6, "resources_per_function": {"fast": 1}}
    train(f"file://{tmp_path}/run", functions=2, steps=4, on_event=watch, **wanted)
    assert {event.node for event in watch.some("started")} == {node.node_id}
    with pytest.raises(RunFailed, match=r"needs 1 CPU and 3 fast and 9e\+03 GB of memory, for"):
        train(
            f"file://{tmp_path}/more",
            functions=1,
            patience_s=0.5,
            memory_bytes_per_function=9e12,
            resources_per_function={"fast": 3},
        )
    cluster.remove_node(node)


def test_a_function_hears_at_once_that_it_shall_leave() -> None:
    """It hears by an answer that the desk holds back until there is something to say, not when it next has something to
    say itself."""

    async def scene() -> None:
        desk = Mailbox()
        waiting = [asyncio.ensure_future(desk.listen(name, 0, 60.0)) for name in ("one", "two")]
        await asyncio.sleep(0)
        await desk.post("one", 0, [StartedEvent(function="one").to_dict()])
        assert not any(answer.done() for answer in waiting)
        await desk.tell({"one": {"leave": False, "vacant": {3: "gone"}}}, False)
        one, two = await asyncio.gather(*waiting)
        assert one == {"leave": False, "vacant": {3: "gone"}, "number": 1}
        assert two == {"leave": False, "vacant": {}, "number": 1}
        await desk.tell({}, True)
        assert (await desk.listen("two", 1, 60.0))["leave"]
        assert (await desk.listen("two", 2, 0.001))["number"] == 2

    asyncio.run(scene())


def test_after_ctrl_c_functions_publish_one_update_more_at_most(cluster: Any, tmp_path: Path) -> None:
    watch = Watch()

    def interrupt(event: Event) -> None:
        watch(event)
        if event.event == "commit" and len(watch.some("commit")) == 1:
            seen.append(lambdaml.Run(url).status().version)
            raise KeyboardInterrupt

    url, seen = f"file://{tmp_path}/run", list[int]()
    with pytest.raises(KeyboardInterrupt):
        train(url, schedule="asp", functions=2, steps=5000, args={"seconds": 0.2}, on_event=interrupt)
    after = lambdaml.Run(url).status().version - seen[0]
    assert after <= 2 * WORKERS, "what was in flight when Ctrl-C was pressed, and when functions heard of it"


def test_a_control_service_that_is_gone_is_told_and_functions_leave_in_good_order(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question to it does not return; Ray itself would say so after a minute, and end the process."""
    gone = threading.Event()
    monkeypatch.setattr(engine, "GONE_S", 1.0)
    monkeypatch.setattr(engine, "Pulse", lambda address, ask, every_s: Pulse("head:1", lambda: [str(gone.wait())], 0.1))
    watch, url = Watch(), f"file://{tmp_path}/run"
    with pytest.raises(
        RunFailed, match=r"\(GCS\) at head:1 has not answered for \d+ s: .* then go on with 'lambdaml resume'"
    ):
        train(url, steps=50_000, functions=2, args={"seconds": 0.05}, on_event=watch)
    gone.set()
    assert {event.code for event in watch.some("ended")} == {engine.LEFT}
    assert lambdaml.Run(url).verify().faults == []


def test_a_folder_that_is_not_shared_and_code_that_cannot_be_sent_are_told(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lambdaml.train(JOB, f"file://{tmp_path}/run", workers=1, steps=1)
    settings = lambdaml.Run(f"file://{tmp_path}/run").settings
    elsewhere: Any = SimpleNamespace(url=f"file://{tmp_path}/elsewhere")
    launch = LaunchSpec(elsewhere, settings, load_job(JOB), functions=1)
    one = engine.RayEngine()
    with pytest.raises(SettingsError, match=r"elsewhere is not shared: the Ray node .* does not see the run"):
        one.run(launch, lambda event: None)
    monkeypatch.setattr("ray._private.runtime_env.packaging.GCS_STORAGE_MAX_SIZE", 1)
    (tmp_path / "jobs.py").write_text(Path(JOB.partition(":")[0]).read_text() + "# another package\n")
    with pytest.raises(SettingsError, match=r"cannot be sent to Ray's nodes: .*; move the job to a folder of its own"):
        lambdaml.ray.train(f"{tmp_path}/jobs.py:Points", f"file://{tmp_path}/large", workers=1, steps=1)
    one.close()


def test_a_ray_of_its_own_is_quiet_and_ends_with_the_command_also_after_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C at a terminal strikes every process of the foreground group."""
    command = [sys.executable, "-m", "lambdaml.cli", "train", JOB, "--engine", "ray", "--address", "local"]
    command += ["--store", f"{tmp_path}/run", "--steps", "5000", "--functions", "1", "--set", "seconds=0.02"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    started = subprocess.Popen(
        command, env=environment, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for key in ("log/0000000000.json", "log/0000000009.json"):
        while not (tmp_path / "run" / key).exists():
            assert started.poll() is None, started.communicate()
            time.sleep(0.05)
    children = [pid for pid, (_, parent) in processes().items() if parent == str(started.pid)]
    assert len(children) >= 2
    os.killpg(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=100)
    assert (started.returncode, err) == (130, "")
    assert "go on with: lambdaml resume" in out and "(raylet)" not in out
    deadline = time.monotonic() + 60  # they watch their parent, each in its own time
    while left := [pid for pid in children if processes().get(pid, ("Z", ""))[0] != "Z"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert lambdaml.Run(f"{tmp_path}/run").verify().faults == []


def processes() -> dict[str, tuple[str, str]]:
    """State and parent of every process of this machine."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent, *_ = (place / "stat").read_text().rpartition(")")[2].split()
            found[place.name] = state, parent
    return found

"""Training from end to end, in this process: what finishes, what is refused, and what fails with which words."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

import lambdaml
from lambdaml.errors import JobFailed, RunFailed
from lambdaml.log import keys
from lambdaml.log.lease import Lease
from lambdaml.log.records import Update
from lambdaml.log.snapshot import State
from lambdaml.training.evaluation import Evaluations
from tests.lambdaml.lab import Made, Tiny, equal, memory, model_bytes, train

STEPS = 10


@pytest.fixture(scope="module")
def plain() -> lambdaml.Run:
    return train(workers=4, steps=STEPS)


@pytest.mark.parametrize("functions", [1, 2, 3, 4, 9])
def test_the_number_of_functions_does_not_change_a_bit(plain: lambdaml.Run, functions: int) -> None:
    assert model_bytes(train(workers=4, steps=STEPS, functions=functions)) == model_bytes(plain)


@pytest.mark.parametrize(("functions", "lifetime_s"), [(1, 0.0), (2, 0.0), (3, 0.05)])
def test_functions_that_must_leave_early_and_others_that_go_on_give_the_same_bits(
    plain: lambdaml.Run, functions: int, lifetime_s: float
) -> None:
    run = train(workers=4, steps=STEPS, functions=functions, lifetime_s=lifetime_s)
    assert model_bytes(run) == model_bytes(plain)
    assert run.verify().faults == []
    assert len({info.key.split("/")[1] for info in run.store.list(keys.TRACE)}) > functions


@pytest.mark.parametrize("schedule", ["asp", "ssp:1", "quorum:2"])
def test_functions_may_leave_early_under_any_schedule(schedule: str) -> None:
    run = train(workers=4, steps=4, functions=2, lifetime_s=0.0, schedule=schedule)
    assert run.verify().faults == []
    assert run.summary().stop == "steps"


def test_a_directory_gives_the_bits_of_memory(plain: lambdaml.Run, tmp_path: Path) -> None:
    run = train(workers=4, steps=STEPS, url=f"file://{tmp_path}/run", engine="inline")
    assert model_bytes(run) == model_bytes(plain)


def test_a_store_that_fails_on_purpose_gives_the_same_bits(plain: lambdaml.Run) -> None:
    url = f"memory://faulty-{id(plain)}?faults=slowdown:0.05,timeout:0.03,lost:0.03&faults_seed=5"
    run = train(workers=4, steps=STEPS, url=url, functions=2)
    assert model_bytes(run) == model_bytes(plain)
    assert run.verify().faults == []


def test_the_seed_and_the_number_of_workers_change_the_result(plain: lambdaml.Run) -> None:
    others = [train(workers=4, steps=STEPS, seed=1), train(workers=2, steps=STEPS)]
    assert len({model_bytes(run) for run in [plain, *others]}) == 3


def test_the_result_says_what_the_run_came_to() -> None:
    store = memory()
    result = lambdaml.train(Tiny, store.url, workers=4, epochs=3, snapshot_every=2)
    data = bytes(store.get(keys.MODEL) or b"")
    assert (result.run, result.stop, result.version) == (store.url, "steps", 6)
    assert (result.samples, result.updates) == (3 * 64, 24)
    assert result.fates == {"applied": 24, "discarded": 0, "rejected": 0}
    assert result.staleness.max == 0
    assert result.model_sha256 == hashlib.sha256(data).hexdigest()
    assert result.metrics["accuracy"] > 0.5
    assert result.requests["create"] >= 24
    assert result.bytes["sent"] > 24 * 21 * 4
    assert result.to_dict()["staleness"] == {"mean": 0.0, "p50": 0.0, "p95": 0.0, "max": 0}


def test_training_learns() -> None:
    store = memory()
    result = lambdaml.train(Tiny, store.url, workers=4, epochs=20)
    assert result.metrics["accuracy"] >= 0.9


@pytest.mark.parametrize(("epochs", "steps"), [(1, 2), (2.5, 5), (0.5, 1)])
def test_epochs_are_counted_in_updates_of_each_worker(epochs: float, steps: int) -> None:
    run = train(workers=4, epochs=epochs)
    assert run.settings.steps == steps
    dealt = [run.store.get(keys.update(w, s)) for w in range(4) for s in range(steps)]
    assert all(dealt)


@pytest.mark.parametrize("given", ["class", "path", "instance"])
def test_a_job_may_be_given_as_a_class_a_path_or_an_instance(plain: lambdaml.Run, given: str) -> None:
    file = Path(__file__).parents[1] / "lab.py"
    job: Any = {"class": Tiny, "path": f"{file}:Tiny", "instance": Tiny()}[given]
    run = train(job, workers=4, steps=STEPS)
    assert model_bytes(run) == model_bytes(plain)
    if given != "instance":
        assert run.settings.job.spec == f"{file}:Tiny"
        assert run.verify().faults == []


def test_arguments_reach_the_job_and_stand_in_run_json() -> None:
    run = train(Tiny, workers=2, steps=3, args={"samples": 30, "lr": 0.5})
    assert run.settings.samples == 30
    assert run.settings.job.args == {"samples": 30, "lr": 0.5}
    assert run.verify().faults == []


# ---- what fails while it runs


class Diverging(Tiny):
    """Its loss is NaN from the fifth update of each worker on."""

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        loss = super().loss(model, batch)
        return loss * math.nan if float(model.weight.detach().abs().sum()) != self.initial and self.late else loss

    initial = -1.0
    calls = 0

    @property
    def late(self) -> bool:
        type(self).calls += 1
        return type(self).calls > 16


@pytest.mark.parametrize("schedule", ["bsp", "asp", "quorum:2"])
@pytest.mark.parametrize("max_rejected", [1, 4])
def test_a_loss_that_becomes_nan_ends_the_run_and_the_last_good_state_is_kept(schedule: str, max_rejected: int) -> None:
    Diverging.calls = 0
    store = memory()
    with pytest.raises(RunFailed, match=r"diverged.*not finite.*learning rate") as caught:
        lambdaml.train(
            Diverging(), store.url, workers=4, steps=100, functions=1, schedule=schedule,
            max_rejected=max_rejected, snapshot_every=2,
        )  # fmt: skip
    run = lambdaml.Run(store)
    summary = run.summary()
    assert summary.stop == "diverged"
    assert max_rejected <= summary.fates["rejected"] < max_rejected + 4
    assert store.get(keys.MODEL) is None
    kept = int(re.findall(r"version (\d+)", str(caught.value))[0])
    state = State.load(store.get(keys.snapshot(kept)) or b"", keys.snapshot(kept))
    assert kept == summary.version > 0
    assert all(torch.isfinite(tensor).all() for tensor in state.model().values())
    reasons = {entry.reason for commit in run.log() for entry in commit.refused if entry.fate == "rejected"}
    assert reasons <= {"loss is not finite", "gradient is not finite"}


def test_a_run_that_diverged_is_not_resumed() -> None:
    Diverging.calls = 0
    store, job = memory(), Diverging()
    with pytest.raises(RunFailed):
        lambdaml.train(job, store.url, workers=4, steps=100, functions=1, max_rejected=1)
    log = [info.key for info in store.list(keys.LOG)]
    with pytest.raises(RunFailed, match="diverged"):
        lambdaml.resume(store.url, job=job)
    assert [info.key for info in store.list(keys.LOG)] == log


def raising(*_: Any) -> Any:
    raise KeyError("no such\nthing")


PLACE = rf"KeyError.*no such.*thing.*{re.escape(str(Path(__file__)))}:\d+"


@pytest.mark.parametrize("part", ["model", "dataset", "loss", "optimizer", "scheduler", "evaluate"])
def test_job_code_that_raises_is_named_with_file_and_line(part: str) -> None:
    with pytest.raises(JobFailed, match=PLACE) as caught:
        train(Made(**{part: raising}), workers=2, steps=4)
    assert "\n" not in str(caught.value)


def test_a_dataset_that_raises_on_a_sample_is_named_with_file_and_line() -> None:
    class Hole:
        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> Any:
            return raising()

    with pytest.raises(JobFailed, match=PLACE):
        train(Made(dataset=Hole), workers=2, steps=4)


def test_an_evaluation_that_raises_late_ends_the_run_with_its_error() -> None:
    calls: list[int] = []

    def evaluate(model: Any) -> dict[str, float]:
        calls.append(1)
        return {} if len(calls) < 3 else raising()

    store = memory()
    with pytest.raises(JobFailed, match=PLACE):
        lambdaml.train(Made(evaluate=evaluate), store.url, workers=2, steps=20, snapshot_every=1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_is_reported_like_any_other(value: float) -> None:
    run = train(Made(evaluate=lambda model: {"loss": value, "accuracy": 0.5}), workers=2, steps=4, snapshot_every=2)
    assert run.summary().stop == "steps"
    metrics = run.metrics()[4]
    assert metrics["accuracy"] == 0.5
    assert not math.isfinite(metrics["loss"])


def test_who_interrupts_a_run_does_not_wait_for_its_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at when all functions have ended: until then they share their thread with the evaluation."""
    returned, judged = Event(), Event()
    go = Evaluations.go

    def go_at_the_end(self: Evaluations) -> None:
        if store.head(keys.MODEL) is not None:
            go(self)

    monkeypatch.setattr(Evaluations, "go", go_at_the_end)

    def evaluate(model: Any) -> dict[str, float]:
        assert returned.wait(30)
        judged.set()
        return {}

    def interrupt(event: Any) -> None:
        if event.event == "evaluating":
            raise KeyboardInterrupt

    store = memory()
    with pytest.raises(KeyboardInterrupt):
        lambdaml.train(Made(evaluate=evaluate), store.url, workers=2, steps=4, snapshot_every=4, on_event=interrupt)
    assert not judged.is_set()
    returned.set()
    assert judged.wait(30)
    assert lambdaml.resume(store.url, job=Made()).stop == "steps"


# ---- ends before the end


def test_a_target_ends_the_run_at_the_snapshot_that_met_it() -> None:
    store = memory()
    result = lambdaml.train(Tiny, store.url, workers=2, target="accuracy>=0.8", snapshot_every=2)
    run = lambdaml.Run(store)
    assert result.stop == "target"
    assert result.metrics["accuracy"] >= 0.8
    earlier = [m["accuracy"] for version, m in run.metrics().items() if 0 < version < result.version]
    assert all(value < 0.8 for value in earlier)
    assert model_bytes(run) == run.replay(result.version).dump_model()
    assert run.verify().faults == []


def test_a_run_is_cancelled_while_it_works() -> None:
    store = memory()

    def cancel(event: Any) -> None:
        if event.event == "commit" and event.commit == 3:
            lambdaml.Run(store.url).cancel()

    result = lambdaml.train(Tiny, store.url, workers=2, steps=10**6, on_event=cancel, snapshot_every=10**5)
    assert result.stop == "cancelled"
    assert lambdaml.Run(store).verify().faults == []


def test_a_run_that_was_cancelled_is_not_resumed() -> None:
    store = memory()
    lambdaml.train(
        Tiny, store.url, workers=2, steps=10**6, snapshot_every=10**5, patience_s=5.0,
        on_event=lambda event: lambdaml.Run(store.url).cancel() if event.event == "run" else None,
    )  # fmt: skip
    store.delete([keys.MODEL])
    log = [info.key for info in store.list(keys.LOG)]
    lambdaml.resume(store.url)
    assert [info.key for info in store.list(keys.LOG)] == log


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_a_run_that_was_cancelled_while_nobody_worked_ends_at_once_when_it_is_resumed(schedule: str) -> None:
    store = memory()

    def interrupt(event: Any) -> None:
        if event.event == "commit" and event.commit == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lambdaml.train(Tiny, store.url, workers=2, steps=200, schedule=schedule, engine="inline", on_event=interrupt)
    before = len(list(store.list(keys.LOG)))
    lambdaml.Run(store).cancel()
    resumed = lambdaml.resume(store.url, engine="inline")
    assert resumed.stop == "cancelled"
    assert len(list(store.list(keys.LOG))) <= before + 3, "it ended before it had looked for a second"


def test_a_damaged_object_under_an_updates_key_is_rejected_and_the_run_goes_on() -> None:
    store = memory()
    store.put(keys.update(1, 2), b"LML1" + b"\0" * 60)
    run = lambdaml.Run(lambdaml.train(Tiny, store.url, workers=2, steps=5, functions=2).run)
    refused = [(e.worker, e.seq, e.fate, e.reason) for commit in run.log() for e in commit.refused]
    assert refused == [(1, 2, "rejected", "damaged")]
    assert run.verify().faults == []


def test_an_update_of_another_model_under_an_updates_key_is_rejected_and_the_run_goes_on() -> None:
    store, donor = memory(), train(Made(lambda: torch.nn.Linear(6, 3, bias=False)), workers=2, steps=3)
    store.put(keys.update(1, 2), donor.store.get(keys.update(1, 2)) or b"")
    run = lambdaml.Run(lambdaml.train(Tiny, store.url, workers=2, steps=5, functions=2).run)
    ((fate, reason),) = [(e.fate, e.reason) for commit in run.log() for e in commit.refused]
    assert fate == "rejected"
    assert "shape" in reason


def test_lease_generations_reach_the_updates() -> None:
    run = train(workers=2, steps=4, functions=1, lifetime_s=0.0)
    for worker in range(2):
        seen = []
        for seq in range(4):
            update = Update.unpack(run.store.get(keys.update(worker, seq)) or b"", worker, seq)
            data = run.store.get(keys.lease(worker, update.generation))
            assert Lease.unpack(data or b"", worker, update.generation).function == update.function
            seen.append(update.generation)
        assert seen == sorted(seen)
        assert len(set(seen)) > 1


def test_equal_state_dicts_are_equal() -> None:
    """Of `lab.equal`, on which other tests stand."""
    one = {"a": torch.tensor([0.0])}
    assert equal(one, {"a": torch.tensor([0.0])})
    assert not equal(one, {"a": torch.tensor([-0.0])})
    assert not equal(one, {"a": torch.tensor([0.0], dtype=torch.float64)})

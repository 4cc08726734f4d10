"""Replay of a trace: the bits of the run it came from; and what changes when a rule, optimizer or model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.errors import SettingsError, UserError
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.records import Commit, Stop
from lambdaml.traces import Trace
from lambdaml.traces.delays import Recorded, synthetic_trace
from tests.lambdaml.lab import Made, Tiny, broken_off, equal, model_bytes, train

STEPS = 8


@pytest.fixture(scope="module")
def asp() -> lambdaml.Run:
    return train(workers=3, steps=STEPS, schedule="asp", functions=2, snapshot_every=4)


@pytest.fixture(scope="module")
def bsp() -> lambdaml.Run:
    return train(workers=3, steps=STEPS, snapshot_every=4)


def train_instance(job: Job, **options: Any) -> lambdaml.Run:
    """Train a job that cannot be imported."""
    return lambdaml.Run(train(job, **options).url, job)


def norm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))


ODD = Made(
    model=norm,
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2),
    scheduler_interval="epoch",
    clip_norm=0.5,
    evaluate=lambda model: {"bias": model[0].bias.sum().item()},
)


@pytest.mark.parametrize("job", [Tiny(), ODD], ids=["linear", "batchnorm"])
@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("bsp", {}),
        ("asp", {"staleness": "inverse", "codec": "bf16"}),
        ("quorum:2", {}),
        ("quorum:2,late=weight", {"staleness": "inverse"}),
        ("ssp:1", {"seed": 3}),
        ("bsp", {"algorithm": "presum:2"}),
    ],
)
def test_the_trace_of_a_run_gives_the_bits_of_the_run(
    job: Any, schedule: str, options: dict[str, Any], tmp_path: Path
) -> None:
    run = train_instance(job, workers=3, steps=STEPS, schedule=schedule, functions=2, snapshot_every=4, **options)
    trace = Trace.of(run)
    assert schedule != "quorum:2" or "discarded" in {row["fate"] for row in trace.rows}
    trace.save(tmp_path / "trace.parquet")
    replay = lambdaml.replay_trace(Trace.load(tmp_path / "trace.parquet"), job)
    assert replay.state.digest() == run.replay().digest()
    assert replay.state.dump_model() == model_bytes(run)
    assert replay.metrics == {replay.version: run.metrics()[replay.version]}
    assert replay.trace.rows == trace.rows
    assert replay.trace.settings == run.settings
    assert replay.fault == ""


def test_the_job_is_the_runs_own_unless_another_is_given() -> None:
    run = train(Tiny, workers=2, steps=STEPS, args={"lr": 0.3})
    trace = Trace.of(run)
    own = lambdaml.replay_trace(trace)
    assert own.state.digest() == run.replay().digest()
    assert own.trace.settings == run.settings
    assert lambdaml.replay_trace(trace, Tiny, args={"lr": 0.3}).state.digest() == own.state.digest()
    assert lambdaml.replay_trace(trace, Tiny).state.digest() != own.state.digest()
    with pytest.raises(SettingsError, match="say which job"):
        lambdaml.replay_trace(synthetic_trace("categorical:1", 2, STEPS))


def test_metrics_by_version_are_those_of_the_run(bsp: lambdaml.Run) -> None:
    replay = lambdaml.replay_trace(Trace.of(bsp), Tiny, evaluate_every=4)
    assert replay.metrics == bsp.metrics()
    assert sorted(replay.metrics) == [4, 8]


def test_losses_are_by_version(asp: lambdaml.Run, bsp: lambdaml.Run) -> None:
    trace = Trace.of(asp)
    losses = lambdaml.replay_trace(trace, Tiny).losses
    assert losses == {row["version"]: pytest.approx(row["loss"]) for row in trace.rows}
    first = [row for row in Trace.of(bsp).rows if row["version"] == 1]
    mean = sum(row["loss"] * row["samples"] for row in first) / sum(row["samples"] for row in first)
    assert lambdaml.replay_trace(Trace.of(bsp), Tiny).losses[1] == pytest.approx(mean)


def test_a_run_that_was_broken_off_replays_to_its_last_commit() -> None:
    run = broken_off(workers=2, steps=STEPS)
    assert lambdaml.replay_trace(Trace.of(run), Tiny).state.digest() == run.replay().digest()


def test_a_last_commit_that_does_nothing_but_stop_the_run_is_replayed_too() -> None:
    run = broken_off(workers=2, steps=STEPS, schedule="asp")
    last = list(run.log())[-1]
    end = Commit(last.commit + 1, last.last_version, (), stop=Stop("cancelled"))
    run.store.put(keys.log(end.commit), end.pack())
    replay = lambdaml.replay_trace(Trace.of(run), Tiny)
    assert replay.state.digest() == run.replay().digest()
    assert replay.state.meta["log_state"]["stop"]["reason"] == "cancelled"


def test_an_update_that_was_rejected_has_no_part_in_the_replay() -> None:
    calls = 0

    def sometimes(model: nn.Module, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        x, y = batch
        return nn.functional.cross_entropy(model(x), y) * (float("nan") if calls == 4 else 1.0)

    run = train_instance(Made(loss=sometimes), workers=2, steps=STEPS, schedule="asp")
    trace = Trace.of(run)
    assert [row["fate"] for row in trace.rows].count("rejected") == 1
    calls = 100
    assert lambdaml.replay_trace(trace, Made(loss=sometimes)).state.digest() == run.replay().digest()


def test_no_delay_is_a_synchronous_run_bit_for_bit(bsp: lambdaml.Run) -> None:
    trace = synthetic_trace("categorical:0", 3, STEPS)
    replay = lambdaml.replay_trace(trace, Tiny)
    assert replay.state.digest() == bsp.replay().digest()
    with_settings = synthetic_trace("categorical:0", 3, STEPS, settings=bsp.settings)
    assert lambdaml.replay_trace(with_settings, Tiny).trace.settings == bsp.settings


def test_delays_matter_and_are_reproducible(bsp: lambdaml.Run) -> None:
    trace = synthetic_trace("categorical:6", 3, STEPS, seed=1)
    replay = lambdaml.replay_trace(trace, Tiny)
    assert replay.state.digest() == lambdaml.replay_trace(trace, Tiny).state.digest() != bsp.replay().digest()
    other = synthetic_trace("categorical:6", 3, STEPS, seed=2)
    assert lambdaml.replay_trace(other, Tiny).state.digest() != replay.state.digest()


def test_a_stale_gradient_is_that_of_its_base() -> None:
    """Two steps of one worker, the second from version 0, by hand."""
    trace = synthetic_trace(Recorded([[[0]], [[1]]]), 1, 2)
    job = Made()
    replay = lambdaml.replay_trace(trace, job)
    fresh = lambdaml.replay_trace(synthetic_trace("categorical:0", 1, 1), job)
    weight = [lambdaml.replay_trace(trace, Made(optimizer=lambda ps: torch.optim.SGD(ps, lr=lr))) for lr in (0.0, 0.1)]
    start, end = (one.state.model()["weight"] for one in weight)
    assert torch.equal(end, replay.state.model()["weight"])
    model = nn.Linear(6, 3)
    total = torch.zeros(3, 6)
    for seq in range(2):
        model.load_state_dict(weight[0].state.model())
        model.zero_grad()
        x, y = batch_of(job, seq, fresh.trace)
        nn.functional.cross_entropy(model(x), y).backward()
        assert model.weight.grad is not None
        total += model.weight.grad
    assert torch.allclose(end, start - 0.1 * total, atol=1e-6)


def batch_of(job: Made, seq: int, trace: Trace) -> Any:
    from lambdaml.training.sampling import Sampler

    settings = trace.settings
    assert settings is not None
    return job.dataset()[Sampler(settings.samples, 1, settings.batch_size, settings.seed).indices(0, seq).tolist()]


def test_under_inverse_a_weight_is_divided_by_tau_plus_one(asp: lambdaml.Run) -> None:
    for trace in (Trace.of(asp), synthetic_trace("categorical:5", 3, STEPS)):
        plain = lambdaml.replay_trace(trace, Tiny)
        inverse = lambdaml.replay_trace(trace, Tiny, staleness="inverse")
        assert max(row["staleness"] for row in trace.rows) > 0
        assert [row["weight"] for row in inverse.trace.rows] == [
            pytest.approx(row["weight"] / (row["staleness"] + 1)) for row in plain.trace.rows
        ]
        assert inverse.state.digest() != plain.state.digest()
        assert inverse.trace.settings is not None
        assert inverse.trace.settings.staleness == "inverse"


def test_another_rule_gives_what_a_run_under_it_would_have_given(asp: lambdaml.Run) -> None:
    """The trace of the replay replays to the same state without being told the rule."""
    inverse = lambdaml.replay_trace(Trace.of(asp), Tiny, staleness="inverse")
    again = lambdaml.replay_trace(inverse.trace, Tiny)
    assert again.state.digest() == inverse.state.digest()


def test_another_optimizer_takes_the_place_of_the_jobs(bsp: lambdaml.Run) -> None:
    def adam(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.01)

    job = Tiny()
    replay = lambdaml.replay_trace(Trace.of(bsp), job, optimizer=adam)
    live = train_instance(Made(optimizer=lambda ps: torch.optim.Adam(ps, lr=0.01)), workers=3, steps=STEPS)
    assert equal(replay.state.model(), live.replay().model())
    assert isinstance(job.optimizer(job.model()), torch.optim.SGD)


def test_another_job_and_seed_give_what_a_run_of_them_would_have_given(bsp: lambdaml.Run) -> None:
    other = Tiny(samples=100, lr=0.3)
    live = train_instance(other, workers=3, steps=STEPS, seed=5)
    replay = lambdaml.replay_trace(Trace.of(bsp), other, seed=5)
    assert equal(replay.state.model(), live.replay().model())
    assert replay.state.digest() == live.replay().digest()


def test_a_replay_that_diverges_ends_there_and_says_so(bsp: lambdaml.Run) -> None:
    replay = lambdaml.replay_trace(Trace.of(bsp), Made(optimizer=lambda ps: torch.optim.SGD(ps, lr=float("inf"))))
    assert "not finite" in replay.fault
    assert 0 < replay.version < STEPS
    assert set(replay.losses) == set(range(1, replay.version + 1))
    assert f"at version {replay.version}" in replay.fault


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": 2}, "update 1 of worker 0 was computed from version 2, but no commit before number 1"),
        ({"base": -1}, "computed from version -1"),
        ({"seq": 2}, "commit 1 decides update 2 of worker 0, but 1 is due"),
        ({"worker": 7}, "worker 7, but"),
        ({"version": 5}, r"makes versions \[5\] after 1"),
        ({"version": None}, r"makes versions \[None\] after 1"),
        ({"commit": 4}, "commit 4 stands where 1 is due"),
    ],
)
def test_a_trace_that_cannot_have_happened_is_refused(bsp: lambdaml.Run, change: dict[str, Any], message: str) -> None:
    settings = bsp.settings.model_copy(update={"workers": 1, "steps": 3})
    trace = synthetic_trace("categorical:0", 1, 3, settings=settings)
    rows = [*trace.rows[:1], trace.rows[1] | change, *trace.rows[2:]]
    with pytest.raises(UserError, match=message):
        lambdaml.replay_trace(Trace(rows, trace.meta), Tiny)


def test_options_that_do_not_fit_are_refused(bsp: lambdaml.Run) -> None:
    trace = Trace.of(bsp)
    with pytest.raises(SettingsError, match="no staleness rule 'inverze'"):
        lambdaml.replay_trace(trace, Tiny, staleness="inverze")
    with pytest.raises(SettingsError, match="evaluate_every"):
        lambdaml.replay_trace(trace, Tiny, evaluate_every=0)
    with pytest.raises(SettingsError, match="2 samples, too few for 3 workers"):
        lambdaml.replay_trace(trace, Tiny(samples=2))


REMEMBERS: dict[str, Any] = {"codec": "bf16", "error_feedback": 1.0}


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "local:3", "schedule": "asp"},
        {"algorithm": "local:3,outer=nesterov"},
        {"algorithm": "local:2,outer=nesterov", "schedule": "quorum:2", **REMEMBERS},
        {"algorithm": "local:auto", "schedule": "asp"},
        {"schedule": "quorum:2", **REMEMBERS},
    ],
    ids=str,
)
def test_along_the_trace_of_a_run_whose_workers_remember_it_has_the_runs_bits(options: dict[str, Any]) -> None:
    run = train(workers=3, steps=STEPS, snapshot_every=4, **options)
    trace = Trace.of(run)
    named = {column.name for column in trace.columns}
    assert ("batches" in named) == ("algorithm" in options)
    assert ("memory" in named) == (options.get("algorithm") not in ("local:3",))
    replayed = lambdaml.replay_trace(trace)
    assert replayed.fault == "" and replayed.state.dump_model() == model_bytes(run)
    assert [(row["weight"], row["loss"]) for row in replayed.trace.rows if row["fate"] == "applied"] == [
        (row["weight"], row["loss"]) for row in trace.rows if row["fate"] == "applied"
    ]


def test_columns_for_batches_and_memory_are_there_only_where_they_are_needed_and_are_kept(
    bsp: lambdaml.Run, tmp_path: Path
) -> None:
    plain = Trace.of(bsp)
    assert not {"batches", "first_batch", "memory", "base_commit"} & plain.rows[0].keys()
    trace = Trace.of(train(workers=2, steps=3, algorithm="local:2,inner=keep"))
    trace.save(tmp_path / "trace.parquet")
    again = Trace.load(tmp_path / "trace.parquet")
    assert again.rows == trace.rows and again.columns == trace.columns
    assert [(row["first_batch"], row["batches"]) for row in again.rows if row["worker"] == 1] == [
        (0, 2),
        (2, 2),
        (4, 2),
    ]
    assert all(len(row["memory"]) == 12 for row in again.rows)

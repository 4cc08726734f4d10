"""Training from the command line: what it prints, what it exits with, and where the run lies."""

import json
import re
import shutil
from pathlib import Path

from tests.cli.conftest import DIGITS, Cli, Trained

INLINE = ("--engine", "inline", "--steps", 2, "--workers", 2)


def test_json_is_alone_on_stdout_and_has_every_field(trained: Trained) -> None:
    result = trained.ended.json
    fields = "run version metrics best seconds samples updates requests bytes staleness fates rejections model_sha256 stop store"
    assert set(result) == set(fields.split())
    assert set(result["staleness"]) == {"mean", "p50", "p95", "max"}
    assert result["run"] == f"file://{trained.place}"
    assert (result["stop"], result["version"], result["updates"]) == ("steps", 48, 48)
    assert result["fates"] == {"applied": 48, "discarded": 0, "rejected": 0}
    assert set(result["metrics"]) == {"accuracy", "loss"}
    assert result["requests"]["create"] > 48
    assert result["bytes"]["sent"] > 0 and result["bytes"]["received"] > 0
    assert len(result["model_sha256"]) == 64


def test_progress_is_plain_lines_on_stderr_beside_json(trained: Trained) -> None:
    lines = trained.ended.err.splitlines()
    assert lines[0].startswith(f"{trained.place}: asp, 4 workers on ")
    assert lines[0].endswith(" functions, 12 steps")
    assert any(re.match(r"version 2[4-9]: accuracy", line) for line in lines)  # a commit may take several updates
    assert "\x1b" not in trained.ended.err
    assert "Warning" not in trained.ended.err


def test_the_summary_says_what_came_of_it_and_what_to_do_next(cli: Cli) -> None:
    ended = cli("train", DIGITS, *INLINE)
    assert ended.code == 0, ended.err
    assert ended.err == ""
    for name in ("result", "updates", "staleness", "requests", "bytes", "time"):
        assert f"\n{name} " in ended.out
    assert "lambdaml verify runs/digits-1\n" in ended.out
    assert "lambdaml report runs/digits-1\n" in ended.out
    assert Path("runs/digits-1/model.safetensors").is_file()
    assert cli("train", DIGITS, *INLINE).code == 0
    assert Path("runs/digits-2/model.safetensors").is_file()


def test_a_run_in_memory_is_kept(cli: Cli) -> None:
    ended = cli("train", DIGITS, *INLINE, "--store", "memory://kept", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["store"] == "memory://kept"
    assert ended.json["run"] == f"file://{Path.cwd()}/runs/digits-1"
    assert cli("verify", "runs/digits-1").code == 0
    assert "memory://kept: bsp, 2 workers" in ended.err


def test_arguments_of_the_job_are_json_or_text(cli: Cli) -> None:
    ended = cli("train", DIGITS, *INLINE, "--set", "hidden=8", "--set", "lr=1e-1", "--store", "here")
    assert ended.code == 0, ended.err
    assert json.loads(Path("here/run.json").read_bytes())["job"]["args"] == {"hidden": 8, "lr": 0.1}


def test_a_target_that_is_missed_fails(cli: Cli) -> None:
    ended = cli("train", DIGITS, *INLINE, "--target", "accuracy>=0.999", "--json")
    assert ended.code == 1
    assert ended.json["stop"] == "steps"
    assert ended.err.endswith("error: the run ended without reaching its target accuracy>=0.999\n")


def test_a_target_that_is_reached_ends_the_run(cli: Cli) -> None:
    ended = cli("train", DIGITS, "--engine", "inline", "--workers", 2, "--target", "accuracy>=0.1", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["stop"] == "target"


def test_a_loss_that_is_not_a_number_stops_the_run(cli: Cli) -> None:
    Path("bad.py").write_text(
        "import torch\n"
        "from lambdaml import Job\n"
        "class Bad(Job):\n"
        "    def model(self): return torch.nn.Linear(2, 1)\n"
        "    def dataset(self): return torch.utils.data.TensorDataset(torch.ones(64, 2))\n"
        "    def loss(self, model, batch): return model(batch[0]).mean() * float('nan')\n"
        "    def optimizer(self, model): return torch.optim.SGD(model.parameters(), lr=0.1)\n"
    )
    ended = cli("train", "bad.py:Bad", "--engine", "inline", "--workers", 2, "--max-rejected", 3)
    assert ended.code == 1
    assert ended.err.startswith("error: the run diverged: ")
    assert " rejected (loss is not finite), the first: update 0 of worker 0 (samples " in ended.err
    assert len(ended.err.splitlines()) == 1
    assert Path("runs/bad-1/snapshots").is_dir()


def test_ctrl_c_stops_in_good_order(interrupted: Trained) -> None:
    last = interrupted.ended.out.splitlines()[-1]
    assert interrupted.ended.code == 130
    assert last.startswith("stopped at version ")
    assert last.endswith(f"; go on with: lambdaml resume {interrupted.place}")
    assert interrupted.ended.err == ""


def test_resume_finishes_what_ctrl_c_stopped(interrupted: Trained, cli: Cli) -> None:
    shutil.copytree(interrupted.place, "copy")
    assert "state        stopped\n" in cli("status", "copy").out
    ended = cli("resume", "copy", "--engine", "inline", "--functions", 1, "--json")
    assert ended.code == 0, ended.err
    assert (ended.json["version"], ended.json["updates"]) == (300, 1200)
    verified = cli("verify", "copy")
    assert (verified.code, verified.out.splitlines()[-1]) == (0, "OK")


def test_a_stopped_run_can_be_cancelled_and_then_not_resumed(interrupted: Trained, cli: Cli) -> None:
    shutil.copytree(interrupted.place, "copy")
    cancelled = cli("cancel", "copy")
    assert cancelled.code == 0
    assert cancelled.out.startswith("cancelled at version ")
    resumed = cli("resume", "copy", "--engine", "inline", "--functions", 1)
    assert resumed.code == 1
    assert resumed.err.splitlines()[-1] == "error: the run was cancelled"
    assert "had ended already: cancelled" in cli("cancel", "copy").out

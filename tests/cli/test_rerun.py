"""`rerun` and `set RUN without=...`: what they say, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambdaml.storage import copy, open_store
from tests.cli.conftest import Cli
from tests.lambdaml.lab import Tiny, broken_off
from tests.lambdaml.worker.test_kills import JOB

FEDAVG = ("--workers", 3, "--steps", 4, "--algorithm", "local:2", "--engine", "inline")


@pytest.fixture
def run(cli: Cli, tmp_path: Path) -> Path:
    assert cli("train", JOB, *FEDAVG, "--store", tmp_path / "run").code == 0
    return tmp_path / "run"


def test_a_run_is_repeated_bit_for_bit_or_without_a_client(cli: Cli, run: Path) -> None:
    assert cli("rerun", run, "--store", run.parent / "again").code == 0
    found = cli("rerun", run, "--without", "client:1", "--since", 2, "--engine", "inline", "--json")
    assert found.code == 0 and found.json["fates"] == {"applied": 10, "discarded": 2, "rejected": 0}
    left = Path(found.json["run"].removeprefix("file://"))
    assert left.parent.name == "runs"
    first, second, third = ((place / "model.safetensors").read_bytes() for place in (run, run.parent / "again", left))
    assert first == second != third
    assert cli("verify", left, "--deep", 1).code == 0
    said = " ".join(cli("report", left).out.replace("\\", "").split())
    assert f"lambdaml rerun file://{left}" in said and "00000.0 times as long" not in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--without", "client:9"), "there is no client 9: the run has 3"),
        (("--without", "worker:1"), "write client:7, or client:7,client:9"),
        (("--without", "client:0,client:1,client:2"), "all 3 clients"),
        (("--since", 3), "since"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    cli: Cli, run: Path, options: tuple[object, ...], words: str
) -> None:
    found = cli("rerun", run, "--store", run.parent / "again", *options)
    assert found.code == 2 and words in found.err and found.err.count("\n") == 1, found.err
    assert not (run.parent / "again" / "run.json").exists()


def test_clients_can_be_left_out_of_a_run_that_goes_on(cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "going"
    copy(broken_off(Tiny, workers=3, steps=8, algorithm="local:2").store, open_store(f"file://{place}"))
    assert "without becomes 1,2 within a few seconds" in cli("set", place, "without=1,2").out
    assert "without = 1,2" in cli("status", place).out
    for change, words in [
        ("without=5", "there is no client 5"),
        ("without=all", "a list of clients such as 3,7"),
        ("lr=fast", "a number such as 0.01"),
        ("lr", "write, for instance, lr=0.01"),
        ("withoud=1", "did you mean 'without'"),
    ]:
        found = cli("set", place, change)
        assert found.code == 2 and words in found.err and found.err.count("\n") == 1, found.err

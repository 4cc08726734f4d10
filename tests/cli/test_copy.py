"""`lambdaml copy`: from store to store, nothing overwritten."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from lambdaml.storage import open_store
from tests.cli.conftest import Cli, Trained, lambdaml_process


def test_a_copied_run_is_the_same_run(trained: Trained, cli: Cli) -> None:
    ended = cli("copy", trained.place, "copied")
    assert (ended.code, ended.err) == (0, "")
    objects = len(list(open_store(str(trained.place)).list()))
    assert ended.out.startswith(f"{objects} of {objects} objects, ") and ended.out.endswith(" stand in copied\n")
    assert cli("verify", "copied").code == 0
    assert Path("copied/model.safetensors").read_bytes() == (trained.place / "model.safetensors").read_bytes()


def test_a_copy_can_be_repeated_and_overwrites_nothing(trained: Trained, cli: Cli) -> None:
    cli("copy", trained.place, "copied")
    again = cli("copy", trained.place, "copied", "--json").json
    assert again["held"] == again["objects"] > 0 and again["bytes"] > 0
    Path("copied/run.json").write_text("mine")
    ended = cli("copy", trained.place, "copied")
    assert (ended.code, ended.err) == (1, "error: other bytes stand at 1 keys of copied, and were left alone\n")
    assert Path("copied/run.json").read_text() == "mine"


def test_what_is_not_there_cannot_be_copied(cli: Cli) -> None:
    ended = cli("copy", "nowhere", "copied")
    assert (ended.code, ended.err) == (2, "error: there is nothing at nowhere\n")
    assert not Path("copied").exists()
    ended = cli("copy", f"memory://{secrets.token_hex(4)}", "copied")
    assert ended.code == 2 and "it began with this command" in ended.err


def test_a_long_copy_says_how_far_it_is(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambdaml.cli._progress.LINE_EVERY_S", 0.0)
    source = open_store("source")
    for n in range(4):
        source.put(f"k/{n}", b"x" * 250_000)
    ended = cli("copy", "source", "target")
    assert (ended.code, ended.out) == (0, "4 of 4 objects, 1.0 MB, stand in target\n")
    assert ended.err.splitlines()[-1].startswith("copying 1.0 MB: 100% done")


def test_a_store_that_is_not_there_is_one_line(cli: Cli) -> None:
    ended = lambdaml_process("copy", "ray://a?address=127.0.0.1:1", "copied")
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert ended.err.startswith("error: no Ray at 127.0.0.1:1: ")

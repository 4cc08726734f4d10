"""The verbs that read a run, look after it, or look at a store."""

import csv
import hashlib
import io
import json
import math
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.log.wire import dump_json
from lambdaml.storage import Finding
from lambdaml.traces import COLUMNS, Trace
from tests.cli.conftest import DIGITS, Cli, Trained, lambdaml_process


def test_status_says_where_the_run_stands(trained: Trained, cli: Cli) -> None:
    ended = cli("status", trained.place)
    assert ended.code == 0
    assert ended.out.startswith(f"run          {trained.place}\nstate        finished\nversion      48 after ")
    status = cli("status", trained.place, "--json").json
    assert (status["state"], status["version"], status["progress"], status["model"]) == ("finished", 48, 1.0, True)


def test_status_computes_nothing(trained: Trained) -> None:
    code = f"""
import json, sys
from lambdaml.cli._app import run
assert run(["status", {str(trained.place)!r}]) == 0
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not set(json.loads(done.stdout.splitlines()[-1])) & {"torch", "boto3", "obstore", "rich", "pyarrow"}


def test_trace_prints_the_last_updates_and_a_summary(trained: Trained, cli: Cli) -> None:
    facts, phases, summary = (part.splitlines() for part in cli("trace", trained.place).out.split("\n\n"))
    headings = (
        "version worker seq base stale weight fate loss samples download compute encode upload wait apply".split()
    )
    assert phases[0].split()[:3] == headings[:3]
    assert facts[0].split() + phases[0].split()[3:] == headings
    assert len(facts) == len(phases) == 1 + 10
    assert facts[-1].split()[:3] == phases[-1].split()[:3] and facts[-1].split()[0] == "48"
    assert summary[0].startswith("48 updates (applied 48); staleness mean ")
    assert "phases in ms, on average: download " in " ".join(summary)


def test_trace_is_one_table_where_there_is_room(trained: Trained, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    table, _ = cli("trace", trained.place).out.split("\n\n")
    assert len(table.splitlines()[0].split()) == 9 + 6


def test_trace_as_csv_has_a_row_for_each_update(trained: Trained, cli: Cli) -> None:
    rows = list(csv.DictReader(io.StringIO(cli("trace", trained.place, "--csv", "-").out)))
    assert list(rows[0]) == [column.name for column in COLUMNS]
    assert {(row["worker"], row["seq"]) for row in rows} == {(str(w), str(s)) for w in range(4) for s in range(12)}
    assert cli("trace", trained.place, "--csv", "rows.csv").out == ""
    assert list(csv.DictReader(Path("rows.csv").read_text().splitlines())) == rows


def test_trace_as_json_has_the_same_columns(trained: Trained, cli: Cli) -> None:
    rows = cli("trace", trained.place, "--json").json
    assert len(rows) == 48
    assert list(rows[0]) == [column.name for column in COLUMNS]


def test_trace_as_parquet(trained: Trained, cli: Cli) -> None:
    ended = cli("trace", trained.place, "--parquet", "rows.parquet")
    assert (ended.code, ended.out) == (0, "")
    trace = Trace.load("rows.parquet")
    run = lambdaml.Run(str(trained.place))
    assert trace.rows == Trace.of(run).rows
    assert trace.settings == run.settings


def test_trace_without_pyarrow_says_what_to_install(
    trained: Trained, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ended = cli("trace", trained.place, "--parquet", "rows.parquet")
    assert ended.code == 2
    assert ended.err == "error: traces are kept as Parquet by pyarrow: pip install 'lambdaml-runtime[report]'\n"


def test_trace_of_a_file_that_cannot_be_written(trained: Trained, cli: Cli) -> None:
    ended = cli("trace", trained.place, "--csv", "none/rows.csv")
    assert (ended.code, ended.err) == (2, "error: cannot write none/rows.csv: No such file or directory\n")


def test_replay_rebuilds_the_result_bit_for_bit(trained: Trained, cli: Cli) -> None:
    ended = cli("replay", trained.place, "--version", 48, "--out", "model.safetensors")
    assert ended.code == 0, ended.err
    assert ended.out == f"version  48\nsha256   {trained.ended.json['model_sha256']}\n"
    assert Path("model.safetensors").read_bytes() == (trained.place / "model.safetensors").read_bytes()


def test_replay_rebuilds_versions_between_snapshots(trained: Trained, cli: Cli) -> None:
    from safetensors import safe_open

    ended = cli("replay", trained.place, "--version", 7, "--out", "model.safetensors")
    digest = hashlib.sha256(Path("model.safetensors").read_bytes()).hexdigest()
    assert ended.out == f"version  7\nsha256   {digest}\n"
    with safe_open("model.safetensors", "pt") as file:
        assert set(file.keys()) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_replay_of_a_version_that_does_not_exist(trained: Trained, cli: Cli) -> None:
    ended = cli("replay", trained.place, "--version", 49)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert "no version 49" in ended.err


def test_verify_accepts_a_good_run(trained: Trained, cli: Cli) -> None:
    ended = cli("verify", trained.place)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "OK"
    report = cli("verify", trained.place, "--json").json
    assert (report["ok"], report["faults"], report["updates"], report["version"]) == (True, [], 48, 48)


def test_verify_names_each_fault(trained: Trained, cli: Cli) -> None:
    shutil.copytree(trained.place, "broken")
    update = next(Path("broken/updates/00002").glob("*7"))
    data = bytearray(update.read_bytes())
    data[-1] ^= 1
    update.chmod(0o644)
    update.write_bytes(data)
    ended = cli("verify", "broken")
    assert ended.code == 1
    assert ended.out.splitlines()[-1] == "1 faults"
    assert "fault: updates/00002/" in ended.out
    assert not cli("verify", "broken", "--json").json["ok"]


def test_cancel_stops_a_run_that_goes_on(cli: Cli) -> None:
    began = threading.Event()
    results: list[Any] = []

    def train() -> None:
        results.append(
            lambdaml.train(
                DIGITS,
                "here",
                steps=100_000,
                workers=2,
                engine="inline",
                on_event=lambda event: began.set() if event.event == "commit" else None,
            )
        )

    thread = threading.Thread(target=train)
    thread.start()
    assert began.wait(60)
    ended = cli("cancel", "here")
    thread.join(60)
    assert ended.code == 0, ended.out
    assert ended.out.startswith("cancelled at version ")
    assert results[0].stop == "cancelled"


def test_cancel_leaves_an_ended_run_alone(trained: Trained, cli: Cli) -> None:
    ended = cli("cancel", trained.place)
    assert (ended.code, ended.out) == (0, "the run had ended already: finished at version 48\n")


def test_gc_asks_first(trained: Trained, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained.place, "copy")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    ended = cli("gc", "copy")
    assert ended.code == 0
    assert ended.out.endswith("nothing was deleted\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert cli("gc", "copy").code == 2
    assert cli("gc", "copy", "--yes").out == "deleted 50 objects\n"  # 48 updates, the snapshots at 0 and 24
    assert cli("gc", "copy", "--yes").out == "nothing to delete\n"
    assert cli("verify", "copy").code == 0
    assert cli("replay", "copy").out.endswith(f"{trained.ended.json['model_sha256']}\n")


def test_doctor_finds_a_good_store_good(cli: Cli) -> None:
    ended = cli("doctor", "store")
    assert ended.code == 0
    assert "create-only       ok" in ended.out
    assert all(finding["ok"] for finding in cli("doctor", "store", "--json").json)


def test_doctor_finds_a_bad_store_bad(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding("create-only", False, "the store overwrites", {"odd": math.nan})
    monkeypatch.setattr("lambdaml.storage.probe.examine", lambda store: [finding])
    ended = cli("doctor", "store")
    assert ended.code == 1
    assert ended.out.splitlines()[-1] == "create-only  BAD  the store overwrites"
    ended = cli("doctor", "store", "--json")
    assert ended.code == 1
    assert ended.json == [
        {"name": "create-only", "ok": False, "reason": "the store overwrites", "measured": {"odd": None}}
    ]


def test_nobody_reads_on_and_nobody_complains(trained: Trained) -> None:
    line = f"{sys.executable} -m lambdaml.cli trace {trained.place} --csv - | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""


def test_the_version() -> None:
    assert lambdaml_process("--version").out == f"{lambdaml.__version__}\n"


def test_verify_computes_updates_again_if_asked(trained: Trained, cli: Cli) -> None:
    ended = cli("verify", trained.place, "--deep", "1")
    assert ended.code == 0 and "computed 48 updates again\nOK\n" in ended.out
    found = cli("verify", trained.place, "--deep", "0.01", "--json").json
    assert 0 < found["recomputed"] <= 48 and found["unchecked"] == 0
    refused = cli("verify", trained.place, "--deep", "2")
    assert refused.code == 2 and "deep: must be more than 0 and at most 1 (it is 2.0)" in refused.err


def test_changes_in_mid_run_and_what_workers_remember_are_shown(cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "run"
    lambdaml.train(
        DIGITS,
        str(place),
        workers=2,
        steps=2,
        engine="inline",
        functions=1,
        algorithm="local:2,inner=keep",
        recover_s=1e-9,
    )
    lambdaml.Run(str(place)).store.create("control/0000000000.json", dump_json({"what": "lr", "value": 0.5}))
    assert "changes      lr = 0.5\n" in cli("status", place).out
    shown = cli("trace", place).out
    assert "batches" in shown and "memory" in shown
    assert "lr = 0.5 (the log does not have it)" in " ".join(shown.split())
    checked = cli("verify", place, "--deep", "1").out
    assert "computed 4 updates again, and compared " in checked and "changed on the way: lr = 0.5\n" in checked

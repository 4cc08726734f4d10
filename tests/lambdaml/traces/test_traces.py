"""The trace: one table for live, simulated and synthetic updates; kept as Parquet, bit for bit."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

import lambdaml
from lambdaml.errors import NewerSchema, UserError
from lambdaml.traces import COLUMNS, TRACE_SCHEMA, Trace
from tests.lambdaml.lab import broken_off, train

PAGE = Path(__file__).resolve().parents[3] / "docs" / "concepts" / "traces.md"


@pytest.fixture(scope="module")
def run() -> lambdaml.Run:
    return train(workers=3, steps=6, schedule="quorum:2", functions=2)


@pytest.fixture
def trace(run: lambdaml.Run) -> Trace:
    return Trace.of(run)


def row(worker: int = 0, seq: int = 0, **values: Any) -> dict[str, Any]:
    return {"worker": worker, "seq": seq, "commit": seq, "base": seq, "fate": "applied", "staleness": 0} | values


def bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else value


def test_a_runs_trace_has_its_rows_and_all_that_a_replay_needs(run: lambdaml.Run, trace: Trace) -> None:
    assert [list(row) for row in trace.rows] == [[column.name for column in COLUMNS]] * len(trace.rows)
    assert trace.rows == [{column.name: row.get(column.name) for column in COLUMNS} for row in run.trace()]
    assert (trace.source, trace.settings, trace.workers) == ("live", run.settings, 3)
    assert trace.meta["stop"] == {"reason": "steps", "version": None}
    assert trace.meta["commits"] == run.summary().commits
    assert trace.staleness == run.summary().staleness
    assert {row["fate"] for row in trace.rows} == {"applied", "discarded"}


def test_values_are_of_the_declared_types(trace: Trace) -> None:
    types = {column.name: column.type for column in COLUMNS}
    for row in trace.rows:
        assert all(value is None or isinstance(value, (types[name], int)) for name, value in row.items())
        assert all(row[column.name] is not None for column in COLUMNS if column.required)


def test_commits_are_timed_from_the_runs_beginning(trace: Trace) -> None:
    times = [row["committed_s"] for row in trace.rows]
    assert times == sorted(times)
    assert 0 < times[0] <= times[-1] < 60


def test_commits_of_several_writers_are_on_one_scale() -> None:
    """The first functions began an hour before the others, by the store's clock; their own clocks do not say."""
    store = broken_off(workers=2, steps=6, at=2).store
    before = len(Trace.of(lambdaml.Run(store)).rows)
    lambdaml.resume(store)
    times = [row["committed_s"] for row in Trace.of(lambdaml.Run(store)).rows]
    assert 0 < times[before - 1] < 60
    assert 3600 < times[before] <= times[-1] < 3700


def test_a_trace_comes_back_from_parquet_bit_for_bit(trace: Trace, tmp_path: Path) -> None:
    odd = [row(loss=math.nan, weight=-0.0), row(seq=1, loss=5e-324, age_s=0.1 + 0.2, function="ä"), row(seq=2)]
    for number, saved in enumerate(
        (trace, Trace(odd, {"source": "simulated", "note": [1, None]}), Trace([], trace.meta))
    ):
        saved.save(tmp_path / f"{number}.parquet")
        loaded = Trace.load(str(tmp_path / f"{number}.parquet"))
        assert loaded.meta == saved.meta
        assert [[bits(value) for value in row.values()] for row in loaded.rows] == [
            [bits(value) for value in row.values()] for row in saved.rows
        ]


def test_a_folder_whose_name_looks_like_a_partition_adds_no_column(trace: Trace, tmp_path: Path) -> None:
    (tmp_path / "worker=7").mkdir()
    trace.save(tmp_path / "worker=7" / "trace.parquet")
    assert Trace.load(tmp_path / "worker=7" / "trace.parquet").rows == trace.rows


def damage(path: Path, **meta: Any) -> None:
    table = parquet.read_table(path)
    known = json.loads(table.schema.metadata[b"lambdaml"])
    parquet.write_table(table.replace_schema_metadata({"lambdaml": json.dumps(known | meta)}), path)


def test_a_file_that_is_no_trace_is_refused_in_one_line(trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    with pytest.raises(UserError, match=r"cannot read .*trace\.parquet: .*No such file"):
        Trace.load(path)
    path.write_text("worker,seq\n0,0\n")
    with pytest.raises(UserError, match=r"trace\.parquet is not a trace$"):
        Trace.load(path)
    parquet.write_table(pyarrow.table({"worker": [0]}), path)
    with pytest.raises(UserError, match=r"is not a trace$"):
        Trace.load(path)
    trace.save(path)
    parquet.write_table(parquet.read_table(path).drop_columns(["base"]), path)
    with pytest.raises(UserError, match=r"is not a trace: its columns are worker, seq"):
        Trace.load(path)
    with pytest.raises(UserError, match="cannot write"):
        trace.save(tmp_path / "none" / "trace.parquet")


def test_a_newer_trace_is_refused(trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    trace.save(path)
    damage(path, schema=TRACE_SCHEMA + 1)
    with pytest.raises(NewerSchema, match=f"schema {TRACE_SCHEMA + 1}"):
        Trace.load(path)


def test_without_pyarrow_one_is_told_what_to_install(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for use in (trace.save, Trace.load):
        with pytest.raises(UserError, match=r"pip install 'lambdaml-runtime\[report\]'"):
            use("trace.parquet")


def test_a_trace_needs_no_pyarrow_until_it_is_saved() -> None:
    code = "import sys, lambdaml.traces.delays; sys.exit('pyarrow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_rows_that_do_not_fit_the_table_are_refused() -> None:
    with pytest.raises(UserError, match="no column colour"):
        Trace([row(colour="red")], {"source": "live"})
    with pytest.raises(UserError, match="row 1 of the trace has no base, fate"):
        Trace([row(), row(seq=1, base=None, fate=None)], {"source": "live"})
    with pytest.raises(UserError, match="not 'dreamt'"):
        Trace([], {"source": "dreamt"})


def test_two_traces_are_compared_quantity_by_quantity(trace: Trace) -> None:
    rows = [row(staleness=tau, puts=1, gets=2, bytes_sent=10) for tau in range(4)]
    other = Trace([*rows, row(fate="rejected")], {"source": "simulated"})
    found = {one.what: (one.mine, one.theirs) for one in trace.compare(other)}
    assert found["updates"] == (len(trace.rows), 5)
    assert found["commits"] == (trace.meta["commits"], 1)
    assert (found["applied"], found["rejected"]) == ((12, 4), (0, 1))
    assert found["staleness mean"] == (0.0, 1.5)
    assert found["staleness max"] == (0, 3)
    assert found["requests for updates"][1] == 12
    assert found["bytes sent"] == (sum(row["bytes_sent"] or 0 for row in trace.rows), 40)
    assert found["bytes received"][1] is found["seconds"][1] is None
    assert found["seconds"][0] == max(row["committed_s"] for row in trace.rows)
    assert all(one.mine == one.theirs for one in trace.compare(trace))


def test_each_column_is_documented() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    for column in COLUMNS:
        line = next(line for line in lines if f"`{column.name}`" in line.split(" | ")[0])
        assert column.unit in line

"""A trace says which worker computed each update, from which version, and its fate. All sources share one table.

A trace comes from a run (live or simulated), or from a delay model (`lambdaml.traces.delays`). Timing and mathematics
are separable: `lambdaml.replay_trace` computes real gradients along any trace, under another staleness rule, optimizer
or model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lambdaml.errors import NewerSchema, UserError
from lambdaml.log.controls import changes
from lambdaml.log.reader import RunReader
from lambdaml.log.summary import Staleness
from lambdaml.settings import Settings, make_settings

if TYPE_CHECKING:
    import pyarrow

TRACE_SCHEMA = 2
"""The table and its metadata have this version."""

SOURCES = ("live", "simulated", "synthetic")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """Describes a column of the table. Missing values are None.

    Attributes:
        name: The column's name.
        type: The type of its values.
        unit: The unit of its values, or "" if they have none.
        meaning: The meaning of a value, as a phrase.
        required: Whether no value may be missing.
    """

    name: str
    type: type[int | float | str]
    unit: str
    meaning: str
    required: bool = False


COLUMNS = (
    Column("worker", int, "", "the worker that published it, counted from 0", required=True),
    Column("seq", int, "", "its number among that worker's updates, counted from 0", required=True),
    Column("commit", int, "", "the log entry that decided it, counted from 0", required=True),
    Column("base", int, "steps", "the version it was computed from", required=True),
    Column("version", int, "steps", "the version that its step made; None if it was refused"),
    Column("fate", str, "", "applied, discarded or rejected", required=True),
    Column("reason", str, "", "why it was refused"),
    Column("staleness", int, "steps", "the steps between its base and the step that took it", required=True),
    Column("weight", float, "", "what the staleness rule multiplied its gradient with, before the mean was taken"),
    Column("samples", int, "", "the number of samples it was computed from"),
    Column("loss", float, "as the job's", "the mean loss over its batch, before the step"),
    Column("generation", int, "", "the generation of the lease it was published under"),
    Column("committed_s", float, "s", "the time from the run's beginning to its log entry, by the writer's clock"),
    Column("age_s", float, "s", "the time from the commit that made its base to its own"),
    Column(
        "tau_storage",
        int,
        "steps",
        "the part of its staleness committed before its worker could start, or during upload",
    ),
    Column("tau_compute", int, "steps", "the part committed while it was queued, computed and encoded"),
    Column("tau_wait", int, "steps", "the part committed after its upload"),
    Column("tau_delivery", int, "steps", "the part of tau_wait committed before the log's writer had read it"),
    Column("tau_uncertain", int, "steps", "the part committed so near to a boundary that clocks cannot tell the phase"),
    Column("clock_s", float, "s", "the most that clocks may be off by"),
    Column(
        "started_s",
        float,
        "s",
        "the time from the run's beginning until its worker could start, by its function's clock",
    ),
    Column("published_s", float, "s", "the time until its put had returned, by the same clock"),
    Column("arrived_s", float, "s", "the time until the log's writer had read it, by the writer's clock"),
    Column("applied_s", float, "s", "the time until its function had applied its commit, by that function's clock"),
    Column("function", str, "", "the function that published it"),
    Column("compute_s", float, "s", "the time to fetch the batch and for the forward and backward passes"),
    Column("encode_s", float, "s", "the time for the codec and the buffers"),
    Column("upload_s", float, "s", "the time for its put"),
    Column("download_s", float, "s", "the slowest read among the updates of its commit"),
    Column("wait_s", float, "s", "the time from its upload until its commit was applied, less download and apply"),
    Column("apply_s", float, "s", "the time for the sum and the optimizer steps of its commit"),
    Column("bytes_sent", int, "bytes", "the size of its object"),
    Column("bytes_received", int, "bytes", "the bytes of updates read for its commit"),
    Column("gets", int, "", "the reads of updates for its commit that found one"),
    Column("polls", int, "", "the reads that found nothing yet"),
    Column("puts", int, "", "the writes of updates"),
)
"""The table has these columns, in this order."""

MORE_COLUMNS = (
    Column("first_batch", int, "", "the first of its worker's batches that it covers, counted through its whole life"),
    Column("batches", int, "", "the number of batches that it covers"),
    Column("base_commit", int, "", "the number of log entries that its worker knew when it was computed"),
    Column("parts", str, "as the job's", "the means of the parts of its loss that the job names, as JSON"),
    Column("memory", str, "", "the beginning of the digest of what its worker remembered before it"),
)
"""The table has those of these columns, after the others, in which some row has a value."""

_NAMES = tuple(column.name for column in COLUMNS)
_MORE = {column.name: column for column in MORE_COLUMNS}
_REQUIRED = tuple(column.name for column in COLUMNS if column.required)


@dataclass(frozen=True, slots=True)
class Compared:
    """Holds one quantity of two traces.

    Attributes:
        what: The name of the quantity.
        mine: The value of the first trace, or None if it has no such value.
        theirs: The value of the other trace, or None if it has no such value.
    """

    what: str
    mine: float | None
    theirs: float | None


class Trace:
    """Holds a table of updates, in the order of the log.

    Attributes:
        rows: A dict for each update, with the name of each of `columns`.
        columns: The columns: all of `COLUMNS`, and those of `MORE_COLUMNS` that are needed.
        meta: Plain values by name. `source` is one of `SOURCES`; `settings` are those of the run, as `Settings` dumps
            them, or None; `stop` says why the run ended, or is None; `commits` counts log entries; `controls` are the
            changes in mid-run, each with the log entry that holds it, or None; others are notes.

    Raises:
        UserError: If a row has a column that is not in `COLUMNS`, or lacks a required one, or the source is unknown.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], meta: Mapping[str, Any]) -> None:
        given = list(rows)
        more = [name for name in _MORE if any(row.get(name) is not None for row in given)]
        self.columns = (*COLUMNS, *(_MORE[name] for name in more))
        self.rows: list[Row] = []
        for row in given:
            if unknown := row.keys() - {*_NAMES, *_MORE}:
                raise UserError(f"a trace has no column {', '.join(sorted(unknown))}")
            if missing := [name for name in _REQUIRED if row.get(name) is None]:
                raise UserError(f"row {len(self.rows)} of the trace has no {', '.join(missing)}")
            self.rows.append({name: row.get(name) for name in (*_NAMES, *more)})
        self.meta: dict[str, Any] = {"settings": None, "stop": None, "controls": [], **meta, "schema": TRACE_SCHEMA}
        if self.source not in SOURCES:
            raise UserError(f"a trace's source is {', '.join(SOURCES)}, not {self.source!r}")

    @staticmethod
    def of(run: RunReader, source: str = "live") -> Trace:
        """Return the trace of a run, as far as its log goes. It takes a few requests for each log entry and each part
        of the trace."""
        from lambdaml.traces.attribution import trace_rows

        rows = trace_rows(run)
        last = None
        for last in run.log(rows[-1]["commit"] if rows else 0):
            pass
        stop = asdict(last.stop) if last and last.stop else None
        commits = last.commit + 1 if last else 0
        controls = [{"commit": commit, **asdict(control)} for control, commit in changes(run)]
        meta = {"source": source, "settings": run.settings.model_dump(), "stop": stop, "commits": commits}
        return Trace(rows, {**meta, "controls": controls})

    @property
    def source(self) -> str:
        """The origin of the trace, which is one of `SOURCES`."""
        return str(self.meta.get("source"))

    @property
    def settings(self) -> Settings | None:
        """The settings of the run; None for a trace that comes from no run.

        Raises:
            SettingsError: If they are not the settings of a run.
        """
        settings = self.meta["settings"]
        return make_settings(**settings) if settings is not None else None

    @property
    def workers(self) -> int:
        """The number of workers."""
        settings = self.settings
        return settings.workers if settings else 1 + max((row["worker"] for row in self.rows), default=0)

    @property
    def staleness(self) -> Staleness:
        """The staleness of the applied updates."""
        return Staleness.of([row["staleness"] for row in self.rows if row["fate"] == "applied"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file; `load` restores every bit. Any Parquet reader can read the table.

        Raises:
            UserError: If the file cannot be written, or pyarrow is not installed.
        """
        schema = _schema(self.meta, self.columns)
        columns = [[row[column.name] for row in self.rows] for column in self.columns]
        from pyarrow import Table, array, parquet

        arrays = [array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        try:
            parquet.write_table(Table.from_arrays(arrays, schema=schema), os.fspath(path))
        except OSError as error:
            raise UserError(f"cannot write {os.fspath(path)}: {error.strerror or error}") from error

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Trace:
        """Read a file that `save` wrote.

        Raises:
            UserError: If the file cannot be read or holds no trace, or pyarrow is not installed.
            NewerSchema: If a newer lambdaml wrote the file.
        """
        name = os.fspath(path)
        _schema({}, ())
        from pyarrow import ArrowException, parquet

        try:
            with parquet.ParquetFile(name) as file:
                table = file.read()
            meta = json.loads((table.schema.metadata or {})[b"lambdaml"])
            number = int(meta["schema"])
        except OSError as error:
            raise UserError(f"cannot read {name}: {error.strerror or error}") from error
        except (ArrowException, KeyError, TypeError, ValueError):
            raise UserError(f"{name} is not a trace") from None
        if number > TRACE_SCHEMA:
            raise NewerSchema(
                f"{name} has schema {number}, this lambdaml reads up to {TRACE_SCHEMA}: install a newer version"
            )
        more = [column for column in MORE_COLUMNS if column.name in table.schema.names]
        if not table.schema.equals(_schema({}, (*COLUMNS, *more))):
            raise UserError(f"{name} is not a trace: its columns are {', '.join(table.schema.names)}")
        return Trace(table.to_pylist(), meta)

    def compare(self, other: Trace) -> list[Compared]:
        """Compare this trace with another, quantity by quantity; for instance a simulated one with the real one."""
        mine, theirs = _quantities(self), _quantities(other)
        return [Compared(what, mine[what], theirs[what]) for what in mine]


def _schema(meta: Mapping[str, Any], columns: Sequence[Column]) -> pyarrow.Schema:
    """Return the table's schema, with the trace's metadata in it."""
    try:
        import pyarrow
    except ImportError:
        raise UserError("traces are kept as Parquet by pyarrow: pip install 'lambdaml-runtime[report]'") from None
    types = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    fields = [pyarrow.field(column.name, types[column.type]) for column in columns]
    return pyarrow.schema(fields, metadata={"lambdaml": json.dumps(meta)})


def _quantities(trace: Trace) -> dict[str, float | None]:
    rows, staleness = trace.rows, trace.staleness
    fates = [row["fate"] for row in rows]
    return {
        "updates": len(rows),
        "commits": trace.meta.get("commits", len({row["commit"] for row in rows})),
        **{fate: fates.count(fate) for fate in ("applied", "discarded", "rejected")},
        "staleness mean": staleness.mean,
        "staleness p50": staleness.p50,
        "staleness p95": staleness.p95,
        "staleness max": staleness.max,
        "seconds": max((row["committed_s"] for row in rows if row["committed_s"] is not None), default=None),
        "requests for updates": _total(rows, "puts", "gets", "polls"),
        "bytes sent": _total(rows, "bytes_sent"),
        "bytes received": _total(rows, "bytes_received"),
    }


def _total(rows: list[Row], *names: str) -> int | None:
    """Return the sum of the known values; None if none is known."""
    known = [row[name] for row in rows for name in names if row[name] is not None]
    return sum(known) if known else None

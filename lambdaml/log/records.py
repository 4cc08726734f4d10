"""The records of a run, as the bucket holds them: updates and commits.

All are immutable and created once. Their numbers are: a `worker` is 0..N-1, `seq` counts a worker's updates from 0,
`commit` counts log entries from 0, `version` counts optimizer steps from 0, `generation` counts a worker's leases
from 1 and is its fencing token.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lambdaml.errors import BadObject
from lambdaml.log import keys, slices, wire
from lambdaml.log.left_out import WITHOUT
from lambdaml.log.members import demand_type, known, read_batches, read_judged, read_labels, read_residuals
from lambdaml.log.reports import RoundReport, dump_reports, load_reports
from lambdaml.log.slices import Slicing
from lambdaml.log.tuned import Tuned

Fate = Literal["applied", "discarded", "rejected"]
Reason = Literal["steps", "target", "patience", "cancelled", "diverged", "replanned"]
LOST_MEMORY = "lost-memory"
"""This control entry says that a worker's memory began anew before an update, since it could not be recovered."""
DAMAGED = "damaged"
"""The reason for which an update whose object cannot be read is rejected."""
Body = dict[str, NDArray[Any]]
"""The encoded arrays of an update, by name, as its codec wrote them."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The reason why a run ends, and where. `version` is the version of the result; None for the last one."""

    reason: Reason
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """A change while a run goes on: the log says what is changed, to which value, and from when.

    If every function makes the same commits by itself, nobody reads the log, so the change travels in an update of
    worker 0. Otherwise only the log entry has it. Either way it belongs to one commit and holds from the next on.

    Attributes:
        number: The number of changes asked for before this one, as in `control/{number}`; `DERIVED` for a tuner's own.
        what: The setting; `lr` is the optimizer's learning rate, `without` names clients (`lambdaml.log.left_out`), and
            `LOST_MEMORY` changes a worker's memory.
        value: The new value of the setting; for `LOST_MEMORY` a list of the worker and the update's number.
    """

    number: int
    what: str
    value: Any


@dataclass(frozen=True, slots=True)
class Digest:
    """The SHA-256 of the full training state after `commits` commits. Comparing digests finds replicas that differ.

    A version would not do: commits that take no step change the fates in the state and leave the version as it is.
    """

    commits: int
    sha256: str


@dataclass(slots=True)
class Update:
    """An update, as a worker publishes it: where it was computed, how long that took, and the encoded gradient.

    The phases are in seconds of the publisher's monotonic clock: `ready_s` from the moment the worker was allowed to start until its put began, `upload_s` the put of its
    *previous* update. `base_commit` is the number of commits that had been applied when it was computed: a version does not tell states apart, since commits that only refuse leave
    it as it is. `batches` are the worker's batches that it covers, the first and how many, counted through its whole life. `memory` is the digest of the worker's memory before the
    update; "" in a run without memory. `digest`, `stop` and `control` are news that ride along so that nobody has to ask for them; `labels` counts the samples of each class, if
    the run's staleness rule asks for that; `residuals` are the primal and the dual residual at its base, if the run's algorithm has duals and its worker knows them; `reports` tell
    of its worker's latest rounds, this one included, if workers have models of their own; `judged` are the right answers, and all, that a travelling model gave its worker
    (`lambdaml.log.tuning`); `left_out` says that its client is left out, so that it has no vector. `parts` are those of the loss that the job names; they go into the trace and are
    not part of the object. Nor are the reader's own findings: `apart` (how its vector is cut, if the slices are objects of their own), `size_bytes`, `body_bytes` (the part that is
    no header), `download_s`, `arrived_s` (when it had read and checked the update), `fault` (its reason to reject the update), and `loaded` (whether `body` is in memory, or was
    freed).
    """

    worker: int
    seq: int
    base: int
    generation: int
    function: str
    samples: int
    loss: float
    codec: str
    ready_s: float = 0.0
    compute_s: float = 0.0
    encode_s: float = 0.0
    upload_s: float | None = None
    base_commit: int = 0
    batches: tuple[int, int] | None = None
    memory: str = ""
    digest: Digest | None = None
    stop: Stop | None = None
    control: Control | None = None
    labels: tuple[int, ...] = ()
    residuals: tuple[float, ...] = ()
    reports: tuple[RoundReport, ...] = ()
    left_out: bool = False
    judged: tuple[int, int] | None = None
    parts: dict[str, float | None] = field(default_factory=dict)
    body: Body = field(default_factory=dict)
    apart: Slicing | None = None
    size_bytes: int = 0
    body_bytes: int = 0
    download_s: float = 0.0
    arrived_s: float | None = None
    fault: str = ""
    loaded: bool = True

    @property
    def id(self) -> tuple[int, int]:
        return self.worker, self.seq

    def let_go(self) -> None:
        """Free the arrays and keep the header."""
        self.body, self.loaded = {}, False

    def header(self) -> dict[str, Any]:
        """Return the header of the object."""
        return {
            "worker": self.worker,
            "seq": self.seq,
            "base": self.base,
            "base_commit": self.base_commit,
            "generation": self.generation,
            "function": self.function,
            "samples": self.samples,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "codec": self.codec,
            "ready_s": round(self.ready_s, 6),
            "compute_s": round(self.compute_s, 6),
            "encode_s": round(self.encode_s, 6),
            "upload_s": None if self.upload_s is None else round(self.upload_s, 6),
            **optional_members(self),
        }

    def pack(self, slicing: Slicing | None = None) -> bytes:
        """Return the object's bytes, in slices or as a whole. From now on `body` and `size_bytes` are those of the
        object; where slices are objects of their own, `body` still has all of them."""
        if slicing is None:
            data, self.body = wire.pack(self.header(), list(self.body.items()))
        else:
            data, self.body = slices.pack_slices(slicing, self.header(), self.body)
            self.apart = slicing if slicing.apart else None
        self.size_bytes, self.body_bytes = len(data), wire.payload_bytes(self.body)
        return data

    @staticmethod
    def unpack(data: bytes | memoryview, worker: int, seq: int) -> Update:
        """Read an update back and check that it is the one its key names.

        Raises:
            BadObject: If the object is damaged, or does not hold this update.
            NewerSchema: If it was written by a newer lambdaml.
        """
        key = keys.update(worker, seq)
        header, body = slices.whole(data, key)
        return Update.of_header(header, body, key, len(data))

    @staticmethod
    def of_header(header: Mapping[str, Any], body: Body, key: str, size_bytes: int) -> Update:
        """Return the update with this header, and check that it is the one that the key names.

        Raises:
            BadObject: If the header is none of an update, or of another one.
        """
        slicing = slices.slicing_in(header, key)
        try:
            loss = header["loss"]
            update = Update(
                **{name: header[name] for name in _HEADER},
                loss=math.nan if loss is None else loss,
                **read_optional(header),
                body=body,
                apart=slicing if slicing is not None and slicing.apart else None,
                size_bytes=size_bytes,
                body_bytes=wire.payload_bytes(body),
            )
            demand_type(update, int, "worker", "seq", "base", "base_commit", "generation", "samples")
            measured = ["upload_s"] if header["upload_s"] is not None else []
            demand_type(update, float, "loss", "ready_s", "compute_s", "encode_s", *measured)
            demand_type(update, str, "function", "codec")
            if min(update.base, update.base_commit) < 0 or update.samples < 1:
                raise ValueError("base or samples out of range")
        except (KeyError, TypeError, ValueError) as error:
            raise BadObject(f"{key} has a header that is not an update's: {error}") from error
        if update.id != keys.update_id(key):
            raise BadObject(f"{key} holds update {update.id}")
        return update

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> Update:
        """Read an update back by its key; see `unpack`."""
        return Update.unpack(data, *keys.update_id(key))

    def fingerprint(self) -> str:
        """Return a digest of what was computed, and from what, whoever computed it and whenever."""
        loss = self.loss if math.isfinite(self.loss) else None  # as it is read back
        content = [*self.id, self.base_commit, self.batches, self.memory, self.samples, loss, sorted(self.body)]
        sha = hashlib.sha256(repr([*content, *self.residuals]).encode())
        for name in sorted(self.body):
            sha.update(np.ascontiguousarray(self.body[name]).tobytes())
        return sha.hexdigest()


def damaged(worker: int, seq: int, size_bytes: int) -> Update:
    """Return an update in place of one whose object cannot be read. It is the same in every replica."""
    return Update(worker, seq, -1, 0, "", 0, math.nan, "", size_bytes=size_bytes, fault=DAMAGED)


@dataclass(frozen=True, slots=True)
class Entry:
    """One update's line in the log: its fate, and all that a staleness rule may look at.

    `weight` is the factor that the staleness rule gives the gradient (0 unless applied), before the step's mean is
    taken over its samples (`lambdaml.log.commits.summed`). `staleness` is the number of optimizer steps between the
    version that it was computed from and the step that applied it, or that it would have been part of. `labels` and
    `residuals` are those of an applied update.
    """

    worker: int
    seq: int
    base: int
    generation: int
    samples: int
    loss: float
    staleness: int
    weight: float = 0.0
    fate: Fate = "applied"
    reason: str = ""
    labels: tuple[int, ...] = ()
    residuals: tuple[float, ...] = ()

    def dump(self) -> list[Any]:
        loss = self.loss if math.isfinite(self.loss) else None
        line = [self.worker, self.seq, self.base, self.generation, self.samples, loss, self.staleness]
        if self.fate != "applied":
            return [*line, self.fate, self.reason]
        if self.residuals:
            return [*line, self.weight, list(self.labels), list(self.residuals)]
        return [*line, self.weight, *([list(self.labels)] if self.labels else [])]

    @staticmethod
    def load(line: list[Any]) -> Entry:
        worker, seq, base, generation, samples, loss, staleness, *rest = line
        loss = math.nan if loss is None else loss
        if isinstance(rest[0], str):
            fate, reason = rest
            entry = Entry(worker, seq, base, generation, samples, loss, staleness, 0.0, fate, reason)
        else:
            weight, labels, residuals = (*rest, [], [])[:3]
            told = read_labels(labels), read_residuals(residuals)
            entry = Entry(worker, seq, base, generation, samples, loss, staleness, weight, "applied", "", *told)
        demand_type(entry, int, "worker", "seq", "base", "generation", "samples", "staleness")
        demand_type(entry, float, "loss", "weight")
        if entry.fate not in get_args(Fate):
            raise ValueError(f"fate {entry.fate!r}")
        return entry


@dataclass(frozen=True, slots=True)
class Commit:
    """Log entry number `commit`: the optimizer steps it takes from `version` on, and the updates it refuses.

    `progress` is the share of the run that is done after it, in [0, 1]. `next_s` is the writer's estimate of the
    seconds from this entry to the next, for those who wait for that.
    """

    commit: int
    version: int
    steps: tuple[tuple[Entry, ...], ...]
    refused: tuple[Entry, ...] = ()
    stop: Stop | None = None
    digest: Digest | None = None
    function: str = ""
    time_s: float = 0.0
    next_s: float = 0.0
    progress: float = 0.0
    controls: tuple[Control, ...] = ()
    tuned: Tuned | None = None

    @property
    def last_version(self) -> int:
        """The version after this commit."""
        return self.version + len(self.steps)

    @property
    def applied(self) -> list[Entry]:
        return [entry for step in self.steps for entry in step]

    @property
    def entries(self) -> list[Entry]:
        """Every update that gets its fate here."""
        return [*self.applied, *self.refused]

    def same(self, other: Commit) -> bool:
        """Return whether two functions made the same commit, whoever wrote it and whenever."""
        return self._content() == other._content()

    def _content(self) -> tuple[Any, ...]:
        steps = [[entry.dump() for entry in step] for step in self.steps]
        refused = sorted(entry.dump()[:2] for entry in self.refused)
        return self.commit, self.version, steps, refused, self.stop, self.controls, self.tuned

    def pack(self) -> bytes:
        """Return the object's bytes."""
        return wire.dump_json(
            {
                "commit": self.commit,
                "version": self.version,
                "steps": [[entry.dump() for entry in step] for step in self.steps],
                "refused": [entry.dump() for entry in self.refused],
                "stop": asdict(self.stop) if self.stop else None,
                **({"controls": [asdict(control) for control in self.controls]} if self.controls else {}),
                **({"tuned": self.tuned.dump()} if self.tuned else {}),
                "digest": [self.digest.commits, self.digest.sha256] if self.digest else None,
                "function": self.function,
                "time_s": round(self.time_s, 6),
                "next_s": round(self.next_s, 6),
                "progress": self.progress,
            }
        )

    @staticmethod
    def unpack(data: bytes | memoryview, commit: int) -> Commit:
        """Read a log entry back.

        Raises:
            BadObject: If the object is damaged, or does not hold this log entry.
            NewerSchema: If it was written by a newer lambdaml.
        """
        key = keys.log(commit)
        record = wire.load_json(data, key)
        try:
            found = Commit(
                commit=record["commit"],
                version=record["version"],
                steps=tuple(tuple(Entry.load(line) for line in step) for step in record["steps"]),
                refused=tuple(Entry.load(line) for line in record["refused"]),
                stop=_stop(record["stop"]),
                controls=tuple(filter(None, map(_control, record.get("controls", [])))),
                tuned=Tuned.load(record.get("tuned")),
                digest=_digest(record["digest"]),
                function=record["function"],
                time_s=record["time_s"],
                next_s=record["next_s"],
                progress=record["progress"],
            )
            demand_type(found, int, "commit", "version")
            demand_type(found, float, "time_s", "next_s", "progress")
            demand_type(found, str, "function")
            if not (all(found.steps) or found.refused):  # a round may be empty, but then its updates are rejected
                raise ValueError("an empty step")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BadObject(f"{key} is not a log entry: {error}") from error
        if found.commit != commit:
            raise BadObject(f"{key} holds commit {found.commit}")
        return found

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> Commit:
        """Read a log entry back by its key; see `unpack`."""
        return Commit.unpack(data, keys.number(key))


_HEADER = (
    *("worker", "seq", "base", "base_commit", "generation", "function", "samples", "codec"),
    *("ready_s", "compute_s", "encode_s", "upload_s"),
)
"""The members of an update's header that every update has and that are used as they are."""


def optional_members(update: Update) -> dict[str, Any]:
    """Return those members of an update's header that only some updates have, as plain values."""
    members: dict[str, Any] = {
        "batches": update.batches and list(update.batches),
        "memory": update.memory,
        "digest": update.digest and [update.digest.commits, update.digest.sha256],
        "stop": update.stop and asdict(update.stop),
        "control": update.control and asdict(update.control),
        "labels": list(update.labels),
        "residuals": list(update.residuals),
        "reports": update.reports and dump_reports(update.worker, update.reports),
        "left_out": update.left_out,
        "judged": list(update.judged or ()),
    }
    return {name: value for name, value in members.items() if value}


def read_optional(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of an update that `optional_members` wrote into a header."""
    if not isinstance(header.get("memory", ""), str):
        raise TypeError(f"memory is {header['memory']!r}")
    return {
        "batches": read_batches(header.get("batches")),
        "memory": header.get("memory", ""),
        "digest": _digest(header.get("digest")),
        "stop": _stop(header.get("stop")),
        "control": _control(header.get("control")),
        "labels": read_labels(header.get("labels", [])),
        "residuals": read_residuals(header.get("residuals", [])),
        "reports": load_reports(header.get("worker", -1), header.get("reports")),
        "left_out": header.get("left_out", False) is True,
        "judged": read_judged(header.get("judged")),
    }


def _stop(record: Any) -> Stop | None:
    if record is None:
        return None
    stop = known(Stop, record)
    if stop.reason not in get_args(Reason):
        raise ValueError(f"stop {stop.reason!r}")
    if stop.version is not None:
        demand_type(stop, int, "version")
    return stop


def _control(record: Any) -> Control | None:
    if record is None:
        return None
    control = known(Control, record)
    demand_type(control, int, "number")
    demand_type(control, str, "what")
    if control.what == WITHOUT:
        read_labels(control.value)
    return control


def _digest(record: Any) -> Digest | None:
    if record is None:
        return None
    digest = Digest(*record)
    demand_type(digest, int, "commits")
    demand_type(digest, str, "sha256")
    return digest

"""The options of a run, resolved to the last number, as run.json holds them. It is written once and never changed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lambdaml.errors import BadObject, SettingsError, nearest
from lambdaml.log import keys, wire
from lambdaml.log.numerics import Numerics
from lambdaml.log.state import RECENT
from lambdaml.patterns import PATTERNS

LEASE_S, PATIENCE_S, RECOVER_S = 30.0, 600.0, 30.0
"""The options `lease_s`, `patience_s` and `recover_s` have these defaults, in seconds."""

_TARGET = re.compile(r"\s*([\w.]+)\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*")


class JobSettings(BaseModel):
    """Says which job a run trains: where its code is, what arguments its constructor got, and the hash of the code."""

    model_config = ConfigDict(frozen=True)

    spec: str
    args: dict[str, Any] = Field(default_factory=dict)
    fingerprint: str = ""


class RunVersion(BaseModel):
    """Names a version of the run at this URL, which another run begins with."""

    model_config = ConfigDict(frozen=True)

    run: str
    version: int

    def __str__(self) -> str:
        return f"{self.run}@{self.version}"


class Settings(BaseModel):
    """Holds everything that a function must know to work on a run.

    A field that has the name of an option means what `lambdaml.options.RunOptions` says about it.

    Attributes:
        workers: The number of workers; in a run of cohorts, that of the slots of a round.
        clients: In a run of cohorts, the number of those who own the data, some of whom take the slots of a round.
        steps: The number of updates that each worker makes; with `quorum`, the number of commits.
        batches: The number of batches that each worker computes, if that makes its last update shorter than the others;
            None if all updates cover the same number.
        owners_sha256: The digest of the samples' owners (`lambdaml.partitions.digest_of`); "" if they have none.
        samples, steps_per_epoch, parameters: Facts that were read from the job when the run was created.
        keep_rounds, keep_bytes: The number of rounds, and of bytes of updates and snapshots, that are kept for replay
            alone. A round is one update of each worker. None sets no bound; see `lambdaml.log.retention`.
        without, without_since: The clients whose slots stay empty, and the version from which on; see `lambdaml.log.left_out`.
        init_from: The version of another run that this run begins with; None for the job's fresh model.
        numerics: The class that its functions compute in. None if nothing is computed, as in the virtual world, and in
            runs that are older than numerics classes; such a run is compared with nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: JobSettings
    workers: int = Field(ge=1, le=99_999)
    clients: int | None = Field(default=None, ge=1)
    steps: int = Field(ge=1)
    batches: int | None = Field(default=None, ge=1)
    schedule: str = "bsp"
    algorithm: str = "gradient"
    codec: str = "fp32"
    error_feedback: float = Field(default=0.0, ge=0, le=1)
    staleness: str = "constant"
    aggregate: str = "mean"
    tune: str | None = None
    pattern: str = "gather"
    bracket: str | None = None
    partition: str = "iid"
    extra: str | None = None
    without: list[int] = Field(default_factory=list)
    without_since: int = Field(default=0, ge=0)
    owners_sha256: str = ""
    seed: int = 0
    target: str | None = None
    patience_evaluations: int | None = Field(default=None, ge=1)
    batch_size: int = Field(ge=1)
    samples: int = Field(ge=1)
    steps_per_epoch: int = Field(ge=1)
    parameters: int = Field(ge=0)
    snapshot_every: int = Field(ge=1)
    coherence: bool = False
    lease_s: float = Field(default=LEASE_S, gt=0)
    max_rejected: int = Field(default=10, ge=1, le=RECENT // 2)
    max_update_norm: float | None = Field(default=None, gt=0)
    patience_s: float = Field(default=PATIENCE_S, gt=0)
    keep_rounds: int | None = Field(default=None, ge=1)
    keep_bytes: int | None = Field(default=None, ge=1)
    recover_s: float = Field(default=RECOVER_S, gt=0)
    announce_s: float | None = Field(default=None, gt=0)
    lost_memory: Literal["stop", "reset"] = "stop"
    planned: dict[str, Any] | None = None
    init_from: RunVersion | None = None
    numerics: Numerics | None = None
    token: str
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def sharers(self) -> int:
        """The number of workers that the data is dealt to, of whom only some may take part in a round."""
        return self.clients or self.workers

    @property
    def takes_turns(self) -> bool:
        """Whether only some of those who own the data take part in a round, so that slots have others each time."""
        return self.sharers > self.workers

    @property
    def updates_per_snapshot(self) -> int:
        """The number of updates between snapshots, over all workers."""
        return self.snapshot_every * self.workers

    def snapshot_due(self, before: int, after: int) -> bool:
        """Return whether a snapshot is taken when the number of updates with a fate goes from `before` to `after`."""
        every = self.updates_per_snapshot
        return after // every > before // every

    def rounds_kept(self, round_bytes: float) -> float:
        """Return how many rounds are kept whose updates have this many bytes; infinity if all are."""
        by_bytes = math.inf if self.keep_bytes is None or not round_bytes else self.keep_bytes / round_bytes
        return min(self.keep_rounds or math.inf, by_bytes)

    @field_validator("pattern")
    @classmethod
    def _pattern(cls, pattern: str) -> str:
        if pattern.partition(":")[0] not in PATTERNS.factories:
            raise ValueError(f"there is no pattern {pattern!r}{nearest(pattern, PATTERNS.factories)}")
        return pattern

    @field_validator("target")
    @classmethod
    def _target(cls, target: str | None) -> str | None:
        if target is not None:
            parse_target(target)
        return target

    def dump(self) -> bytes:
        """Return the bytes of run.json."""
        return wire.dump_json(self.model_dump())

    @staticmethod
    def load(data: bytes | memoryview) -> Settings:
        """Read run.json.

        Raises:
            BadObject: If it is damaged or does not describe a run.
            NewerSchema: If a newer lambdaml wrote it.
        """
        record = wire.load_json(data, keys.RUN)
        try:
            return Settings(**record)
        except ValidationError as error:
            raise BadObject(f"{keys.RUN} does not describe a run: {first_error(error)}") from error

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> Settings:
        """Do the same as `load`, with the parameters that readers of objects pass."""
        return Settings.load(data)


def make_settings(**fields: Any) -> Settings:
    """Make settings from what a person asked for.

    Raises:
        SettingsError: If a value is out of range or of the wrong type; the message names the option.
    """
    try:
        return Settings(**fields)
    except ValidationError as error:
        raise SettingsError(first_error(error)) from error


def first_error(error: ValidationError) -> str:
    """Return the first complaint of a validation error on one line."""
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where}: {message} (it is {detail['input']!r})" if where else message


def parse_target(target: str) -> tuple[str, str, float]:
    """Split a target such as `accuracy>=0.95` into name, comparison and bound.

    Raises:
        ValueError: If it is not of that form.
    """
    match = _TARGET.fullmatch(target)
    try:
        assert match is not None
        return match[1], match[2], float(match[3])
    except (AssertionError, ValueError):
        raise ValueError("a target looks like 'accuracy>=0.95' or 'loss<0.1'") from None


def reached(target: str, metrics: Mapping[str, float]) -> bool:
    """Return whether the metrics meet the target.

    Raises:
        SettingsError: If the job reports no metric of that name.
    """
    name, comparison, bound = parse_target(target)
    if name not in metrics:
        raise SettingsError(f"target {target!r}: the job reports {', '.join(sorted(metrics)) or 'no metrics'}")
    value = metrics[name]
    return {">=": value >= bound, "<=": value <= bound, ">": value > bound, "<": value < bound}[comparison]

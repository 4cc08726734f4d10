"""The measurements of a job, its machine and its store, kept as a file from which plans are made.

    profile = Profile.load("digits.profile.json")
    profile.costs(batch_size=64, codec="bf16")      # the input of a simulation; see `lambdaml.simulation`

`lambdaml.cost.profiling.measure` finds the numbers. Every number has its unit in its name. Times are those of one
thread on the machine that the profile names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lambdaml.algorithms import ALGORITHMS
from lambdaml.codecs import DISPLACEMENT
from lambdaml.cost.planning.pilot import PLAIN, PilotRun
from lambdaml.cost.profiling.facts import (
    CodecFacts,
    CoherenceFacts,
    JobFacts,
    MachineFacts,
    MemoryModel,
    NoiseScale,
    ProfilingCost,
    StepTime,
    StoreFacts,
)
from lambdaml.cost.profiling.startup import Startup
from lambdaml.errors import NewerSchema, UserError, nearest
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from lambdaml.training.footprint import footprint, outer_share, remembered_bytes
from lambdaml.worker.window import MAX_UNAPPLIED, most_bytes

SCHEMA_VERSION = 1

MEASURED = "measured"
"""The name of a profile's own store, where stores are chosen by name."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The measurements of a job.

    Attributes:
        measured_on: The date and time in UTC, ISO 8601.
        spent: The cost of measuring itself.
        optimizer_s: The seconds of an optimizer step, without decoding and adding its updates.
        snapshot_s: The seconds for copying and serialising the state.
        update_norm: The median 2-norm of a gradient of the job's own batch size; 0 for a job that has no gradient.
        codecs: The costs of each codec that was measured, by its spec.
        store: The store that was measured, or None if none was named.
        startup: The start of a function, or None if only this process can import the job.
        target: The target of the pilots, or None without them.
        pilot: The pilots, which say how many optimizer steps the target takes.
    """

    measured_on: str
    job: JobFacts
    machine: MachineFacts
    spent: ProfilingCost
    step_time: StepTime
    memory: MemoryModel
    optimizer_s: float
    snapshot_s: float
    update_norm: float
    codecs: dict[str, CodecFacts]
    store: StoreFacts | None
    noise: NoiseScale | None
    coherence: CoherenceFacts | None
    startup: Startup | None = None
    target: str | None = None
    pilot: tuple[PilotRun, ...] = ()

    def placed(self, platform: Platform, functions: int = 1, slowdown: float = 1.0) -> Platform:
        """Return the platform, with the time that functions take to start with this job.

        A platform's own cold start is for a function that imports torch; the job's import and data are added to it.
        Functions of this machine start as they were measured, and share its cores.
        """
        if self.startup is None:
            return platform
        cold, slowest = platform.cold_start_s
        job_s = slowdown * self.startup.job_s / platform.speed()
        if platform.name == "local":
            cold = slowest = self.startup.import_s
            job_s = self.startup.job_s * max(1.0, functions / self.machine.cores)
        return replace(platform, cold_start_s=(cold + job_s, slowest + job_s))

    def function_mb(
        self, batch_size: float, workers: int, algorithm: str = "gradient", hosted: int = 1, codec: str = PLAIN
    ) -> float:
        """Return the most memory that a function needs: the measured memory, the updates that it may hold, and what
        local steps and memories take.

        Args:
            hosted: The number of the function's workers.
        """
        largest_bytes = max(facts.update_bytes for facts in self.codecs.values())
        held_bytes = most_bytes(largest_bytes, MAX_UNAPPLIED * workers)
        parts = Parts.of(RunOptions(algorithm=algorithm, codec=codec))
        local = DISPLACEMENT in parts.algorithm.gives
        if local or parts.remembers:
            held_bytes += footprint(
                parts,
                self.codecs[PLAIN].update_bytes,
                self._inner_bytes,
                self.facts(codec, algorithm).update_bytes,
                outer_share=outer_share(parts.algorithm) if local else None,
                workers=workers,
                hosted=hosted,
            ).algorithm_bytes
        return self.memory.peak_mb(batch_size) + held_bytes / 2**20

    @property
    def _inner_bytes(self) -> int:
        """The size of the state of the job's own optimizer."""
        return max(0, self.job.snapshot_bytes - self.job.model_bytes)

    def costs(
        self,
        batch_size: float | None = None,
        codec: str = PLAIN,
        slowdown: float = 1.0,
        algorithm: str = "gradient",
    ) -> Costs:
        """Return the costs of the job for a simulation.

        Args:
            batch_size: The samples of a batch. Defaults to the job's own.
            algorithm: The algorithm. With local steps, each gradient is followed by an inner step.
            slowdown: How many times longer a function computes than one thread of the machine that was measured; see
                `lambdaml.cost.profiling.iprof`.

        Raises:
            UserError: If the profile knows no such codec.
        """
        facts = self.facts(codec, algorithm)
        parts = Parts.of(RunOptions(algorithm=algorithm, codec=codec))
        inner_s, inner_bytes = 0.0, 0
        if DISPLACEMENT in parts.algorithm.gives:
            inner_s, inner_bytes = self.optimizer_s, self._inner_bytes
        vector_bytes = self.codecs[PLAIN].update_bytes
        return Costs(
            step_s=slowdown * (self.step_time.step_s(batch_size or self.job.batch_size) + inner_s),
            encode_s=slowdown * facts.encode_s,
            apply_s=slowdown * self.optimizer_s,
            apply_update_s=slowdown * (facts.read_s + facts.apply_s),
            update_bytes=facts.update_bytes,
            snapshot_bytes=self.job.snapshot_bytes,
            memory_bytes=remembered_bytes(parts, vector_bytes, facts.update_bytes, inner_bytes),
        )

    def facts(self, codec: str, algorithm: str) -> CodecFacts:
        """Return what an update of an algorithm takes with a codec. What was measured is the whole model's.

        Raises:
            UserError: If the profile knows no such codec.
        """
        facts = self.codecs.get(codec)
        if facts is None:
            raise UserError(f"the profile has no codec {codec!r}{nearest(codec, self.codecs)}")
        fragments = ALGORITHMS.make(algorithm).fragments
        return facts if fragments == 1 else facts.grown(1 / fragments)

    def dump(self, path: str | Path) -> None:
        """Write the profile as JSON.

        Raises:
            UserError: If the file cannot be written.
        """
        text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=2, allow_nan=False)
        try:
            Path(path).write_text(text + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error

    @staticmethod
    def load(path: str | Path) -> Profile:
        """Read what `dump` wrote.

        Raises:
            UserError: If the file cannot be read, or is not a profile; the message names the field.
            NewerSchema: If a newer lambdaml wrote the file.
        """
        try:
            record = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from None
        return Profile.of(record, str(path))

    @staticmethod
    def of(record: Any, name: str = "the profile") -> Profile:
        """Return the profile from plain values. Raises what `load` raises."""
        from pydantic import ValidationError

        from lambdaml.settings import first_error

        if not isinstance(record, Mapping) or "schema_version" not in record:
            raise UserError(f"{name} is no profile: write one with 'lambdaml profile JOB --out FILE'")
        version = record["schema_version"]
        if not isinstance(version, int) or version < 1:
            raise UserError(f"{name} is no profile: its schema_version is {version!r}")
        if version > SCHEMA_VERSION:
            raise NewerSchema(f"{name} has schema_version {version}, this lambdaml reads up to {SCHEMA_VERSION}")
        fields = {key: value for key, value in record.items() if key != "schema_version"}
        if unknown := sorted(set(fields) - set(Profile.__dataclass_fields__)):
            raise UserError(f"{name}: a profile has no field {unknown[0]!r}")
        try:
            profile: Profile = _adapter().validate_python(fields)
        except ValidationError as error:
            raise UserError(f"{name}: {first_error(error)}") from None
        return profile


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Profile)

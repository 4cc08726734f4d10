"""A replica is the state machine that every function runs: it loads a snapshot and applies commits in order.

The state at a version is a pure function of run.json, the log and the updates: torch computes it with one thread,
sums are taken in the order in which the commit lists the updates, and every random number is seeded from run.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from lambdaml.algorithms import Assignment, covers_batches
from lambdaml.codecs import Vector
from lambdaml.errors import BadObject, JobError
from lambdaml.job import Job
from lambdaml.log.left_out import WITHOUT
from lambdaml.log.memory import Memories, Memory
from lambdaml.log.own_models import OwnModels
from lambdaml.log.records import LOST_MEMORY, Body, Commit, Control, Entry, Update
from lambdaml.log.snapshot import FROZEN_DIGEST, RULE_PREFIX, State
from lambdaml.log.state import LogState
from lambdaml.parts import Parts
from lambdaml.seeds import derive_seed
from lambdaml.settings import Settings
from lambdaml.training.bodies import split_body, split_buffers
from lambdaml.training.calls import call, seed_streams
from lambdaml.training.feedback import Feedback
from lambdaml.training.flat import ABSENT
from lambdaml.training.frozen import Frozen
from lambdaml.training.inner_rates import inner_step, set_option
from lambdaml.training.job_model import JobModel
from lambdaml.training.jobparts import build, encode_training, extra_state, load_training
from lambdaml.training.made import JustMade
from lambdaml.training.model_state import ModelState
from lambdaml.training.output import speaking_for
from lambdaml.training.own_rounds import OwnRounds
from lambdaml.training.sampling import Sampler
from lambdaml.training.slices import VectorSlices
from lambdaml.training.step_sum import StepParts
from lambdaml.training.strays import Strays
from lambdaml.training.travels import ReplicaTravels
from lambdaml.training.update_checks import batches_fault, left_out_fault, vector_fault
from lambdaml.worker.machine import Computed

INNER_SCHEDULE = "inner"
"""A snapshot's scheduler is an object with this member if the job has one that local steps follow. Its value is the
number of inner steps that stood behind the run's first version."""


class Replica:
    """Holds the training state at a version, and does two things with it: it computes gradients and applies commits.

    It is not thread-safe, and it seeds torch's, NumPy's and Python's global random streams: all replicas of a process
    must be used from one thread.

    Args:
        job: The user's job; its methods for training are called here.
        settings: The settings of the run.
        clock: A monotonic clock, in seconds.
        device: The torch device that holds the state; updates and snapshots are always on the CPU.
    """

    def __init__(
        self, job: Job, settings: Settings, clock: Callable[[], float] = lambda: 0.0, device: str = "cpu"
    ) -> None:
        self.job, self.settings, self.clock = job, settings, clock
        self.device = torch.device(device)
        self.parts = Parts.of(settings)
        self.codec, self.rule, self.algorithm = self.parts.codec, self.parts.rule, self.parts.algorithm
        self.transform = self.rule.transform(settings.workers, settings.batch_size)
        self.log_state, self.version = LogState(settings.workers, settings.steps), 0
        seed_streams(settings.seed, "model")
        self.model, inner, schedule = build(job, self.device)
        self.model.train()
        self.local = JobModel(
            job,
            settings,
            self.model,
            inner,
            schedule,
            device=self.device,
            labels=self.rule.labels,
            late=self.parts.delay > 0 or not self.parts.schedule.deterministic,
            fragments=self.algorithm.fragments,
            inner_steps=settings.batches or settings.steps * self.algorithm.batches(settings.steps_per_epoch),
        )
        self.buffers, self.flat, self.rows = self.local.buffers, self.local.flat, self.local.rows
        outer = self.algorithm.outer(self.flat.parameters)
        self._displaces = outer is not None
        self.optimizer: Optimizer = inner if outer is None else outer
        self.scheduler: Any = schedule if outer is None else None
        self.frozen = Frozen(self.model)
        self._alone = ModelState(self.model, self.buffers, self.frozen)
        self.strays = Strays(job, self.model)
        feedback = Feedback(settings.error_feedback, self.codec.exact, self._add_sent)
        self.feedback = feedback if self.parts.feedback else None
        self.own = OwnModels.made(settings, self.parts.schedule)
        self.rounds = OwnRounds(self.parts, self.local, self.rows)
        self._turnouts: list[Mapping[int, float]] = []
        self.memories = Memories(feedback.give_back, settings.takes_turns, settles=self.own is None)
        self.slices = VectorSlices.of(self.parts, self.local)
        self.travels = ReplicaTravels.of(self)
        self._made: JustMade | None = None
        self._seconds: dict[int, float] = {}  # of a batch, by worker
        self._has_extra = bool(extra_state(self.model)[1])
        self._begin_sum()

    @property
    def sampler(self) -> Sampler:
        """The sampler that deals the samples to the workers."""
        return self.local.sampler

    @property
    def update_bytes(self) -> int:
        """The estimated size of an update in memory, without its buffers; of the largest fragment, if there are several."""
        return max(map(self.codec.expected_bytes, self.rows.layouts))

    def held_bytes(self, update: Update) -> int:
        """Return the size of an update in memory, in bytes."""
        return update.size_bytes

    def twin(self) -> Replica:
        """Return another replica of the same run, at version 0."""
        return Replica(self.job, self.settings, self.clock, str(self.device))

    def assign(self, worker: int, seq: int) -> Assignment:
        """Return what to compute for the worker's next update."""
        memory = self.memories.of(worker, seq) if self.parts.remembers else None
        share = self.sampler.share(worker, seq)
        due = self.algorithm.assign(self.settings, share, worker, seq, memory, self._seconds)
        return due if self.travels is None else self.travels.tuning.assign(self.log_state, due)

    def compute(self, assignment: Assignment) -> Computed:
        """Compute an update at the present version. The state does not change.

        Raises:
            JobFailed: If the job's own code raised.
            RunFailed: If the worker's memory is void.
        """
        start, worker, seq = self.clock(), assignment.worker, assignment.seq
        memory = self.memories.of(worker, seq) if self.parts.remembers else None
        digest = memory.digest() if memory is not None else ""
        self.local.open()
        base, commits, samples = self.version, self.log_state.commit, self.log_state.samples
        if self.own is not None:
            self.rounds.put(self.own.of(worker, seq).body)
            base, commits, samples = seq, 0, self.rounds.samples_before(seq)
        step = inner_step(samples, self.settings)
        kept, extra, numbers = self.buffers.keep(), self._extra(), self.strays.look()
        self.local.changed, self.local.commit = self.log_state.changed, commits
        self.local.unsent = self.feedback.unsent(memory) if self.algorithm.ahead and self.feedback and memory else None
        due = replace(assignment, worker=self.sampler.share(worker, seq).number)
        with speaking_for(worker, seq):
            found = self.algorithm.compute(self.local, memory, due, step)
        computed, vector = self.clock(), self.flat.to_host()
        taken = None
        if self.feedback and memory is not None:
            taken = self.feedback.take_up(memory, vector, [self.flat.layout.spans[one] for one in self.rows.stays(seq)])
        body = self._encode(assignment, vector if taken is None else taken, step)
        if len(found.absent):
            body[ABSENT] = found.absent
        body |= found.buffers | self.buffers.changes(kept)
        self.buffers.restore(kept)
        if self._extra() != extra:
            owner = type(self.job).__name__
            raise JobError(f"the extra state of {owner}'s model changed in the forward pass: keep it in a buffer")
        self._made = JustMade((worker, seq), found, taken)
        return Computed(
            body=body,
            base=base,
            base_commit=commits,
            samples=found.samples,
            loss=found.loss,
            compute_s=computed - start,
            encode_s=self.clock() - computed,
            labels=found.labels,
            batches=(assignment.first_batch, assignment.batches) if covers_batches(self.algorithm) else None,
            memory=digest,
            residuals=found.residuals,
            parts=self.local.loss_parts.take(),
            extra=self.local.extra.finish(assignment, due.worker) if self.local.extra is not None else b"",
            warnings=self.strays.found(numbers),
        )

    def _encode(self, assignment: Assignment, vector: Vector, step: int) -> Body:
        rows = self.rows.find(vector, assignment.seq)
        context = self.local.context(assignment, step, lambda whole: self.rows.pack(whole, rows))
        return self.codec.encode(self.rows.pack(vector, rows), self.rows.layout(rows), context) | rows

    def remember(self, update: Update) -> None:
        """Fold an update that was just computed into its worker's memory. If every replica must reject it, the memory
        stays as it was before."""
        made, self._made = self._made, None
        if not self.parts.remembers:
            return
        assert made is not None and made.id == update.id
        memory = self.memories.of(*update.id)
        memory.seq += 1
        if update.fault:
            return
        made.remember(memory, update, self.feedback, self.codec, self.flat)
        if self.feedback is not None:
            self.memories.made(memory)

    def _add_sent(self, body: Body, weight: float, out: Vector) -> None:
        encoded, rows, _ = split_body(body)
        self.rows.add(self.codec, encoded, rows, weight, out, fresh=False)

    def update(
        self, worker: int, seq: int, generation: int = 1, function: str = "", batches: tuple[int, int] | None = None
    ) -> Update:
        """Compute the worker's next update with a body of its own, for trainings without a store. It is checked, and
        its worker remembers it. `batches` are its first batch and their number, if the algorithm is not to choose."""
        if self.parts.remembers and not seq:
            self.memories.host(Memory(worker), self.log_state)
        assignment = self.assign(worker, seq) if batches is None else Assignment(worker, seq, *batches)
        found = self.compute(assignment)
        update = found.update(assignment, self.settings.codec, generation, function)
        update.body = {name: np.array(array) for name, array in found.body.items()}
        update.fault = self.check(update)
        self.remember(update)
        return update

    def _extra(self) -> dict[str, Any]:
        """Return the model's extra state, encoded, with tensors as their bytes."""
        return extra_state(self.model)[1] if self._has_extra else {}

    def check(self, update: Update) -> str:
        """Return why this update must be rejected, or "". Every replica gives the same answer."""
        if update.left_out:
            return left_out_fault(update, self.settings, self.parts, self.sampler)
        if fault := self.check_header(update):
            return fault
        encoded, rows, _ = split_body(update.body)
        if update.apart is not None and not encoded:
            return ""  # its slices are checked by those who add them up
        layout = self.rows.layout(rows)
        if fault := self.codec.check(encoded, layout):
            return fault
        return vector_fault(self.codec.values(encoded, layout), self.settings.max_update_norm)

    def check_header(self, update: Update) -> str:
        """Return why an update must be rejected, whatever its vector is, or ""."""
        if update.codec != self.settings.codec:
            return f"codec {update.codec}, not {self.settings.codec}"
        if update.apart is not None and (self.slices is None or update.apart != self.slices.slicing):
            return "is cut into other slices than this run's updates"
        _, rows, rest = split_body(update.body)
        absent = rest.pop(ABSENT, None)
        faults = map(self.buffers.check, split_buffers(rest, self.algorithm.summands))
        fault = self.rows.check(rows, update.seq) or next(filter(None, faults), "") or self.flat.check(absent)
        if fault := fault or batches_fault(update, self.settings, self.parts, self.sampler):
            return fault
        if not math.isfinite(update.loss):
            return "loss is not finite"
        if update.labels and not self.rule.labels:
            return "counts labels, which the run's rule does not ask for"
        if update.residuals and not self.algorithm.duals:
            return "has residuals, which the run's algorithm does not know"
        return ""

    def apply(self, commit: Commit, updates: Mapping[tuple[int, int], Update], until: int | None = None) -> None:
        """Take the optimizer steps of the next commit; with `until`, stop at that version within it.

        `updates` holds every update that the commit applies.
        """
        self.begin(commit)
        for step in commit.steps:
            if self.version == until:
                self.log_state.version = self.version
                return
            for entry in step:
                self.add(entry, updates[entry.worker, entry.seq])
            self.step(step)
        self.end(commit)

    def begin(self, commit: Commit) -> None:
        """Begin to apply a commit. Then `add` the updates of each step in order and take the `step`; `end` comes last."""
        if commit.version != self.version:
            raise BadObject(f"commit {commit.commit} starts from version {commit.version}, not {self.version}")
        if commit.steps and self.transform is not None:
            self.transform.begin(self.version, self.flat.values)
        self._turnouts = [] if self.own is None else self.own.turnouts(commit)
        self._begin_sum()

    def _begin_sum(self) -> None:
        self.local.turnout = self._turnouts.pop(0) if self._turnouts else {}
        self._sum = StepParts(self.local, self.rows, self.parts, self.flat.host)

    def add(self, entry: Entry, update: Update) -> None:
        """Add an update to the sum of its step, or keep its vector if the run's rule or aggregate needs it."""
        self._time([update])
        self._sum.add(entry, update, fresh=update.base == self.version, keep=self.transform is not None)

    def add_sum(self, step: tuple[Entry, ...], updates: Sequence[Update], body: Body) -> None:
        """Add the sum of a step's updates, in place of these."""
        self._time(updates)
        self._sum.join(step, body)
        self._sum.note(updates, [update.base == self.version for update in updates])

    def add_slice(self, index: int, body: Body) -> None:
        """Write the sum of one slice to its place in the buffer for sums."""
        assert self.slices is not None
        self.slices.place(self.flat.host, index, body)

    def _time(self, updates: Sequence[Update]) -> None:
        self._seconds |= {each.worker: each.compute_s / each.batches[1] for each in updates if each.batches is not None}

    def summing(self) -> StepParts:
        """Begin a sum of updates that other functions take a step along."""
        return StepParts(self.local, self.rows, self.parts)

    def besides(self, update: Update) -> Body:
        """Return a copy of the parts of an update that are not summed."""
        return {name: np.array(array) for name, array in split_body(update.body)[2].items()}

    def step(self, step: tuple[Entry, ...]) -> None:
        """Take the optimizer step along the mean of what was added."""
        total = self._sum
        if step:  # a round of which every update was rejected leaves all as it is
            weighed = total.weighed(step)
            moves = total.mean(weighed, self.transform, self.flat.values)
            self.buffers.merge(total.rest, total.shares(weighed), total.fresh)
            if moves:
                self._move(total.absent)
        self.version += 1
        self._begin_sum()

    def end(self, commit: Commit) -> None:
        """Finish the commit after its last step."""
        epochs = self.log_state.progress // (self.settings.workers * self.settings.steps_per_epoch)
        self.log_state.advance(commit)
        self.memories.settle(self.log_state)
        if self.scheduler is not None and self.job.scheduler_interval == "epoch":
            now = self.log_state.progress // (self.settings.workers * self.settings.steps_per_epoch)
            for _ in range(now - epochs):
                self.scheduler.step()
        for control in commit.controls:
            self._heed(control)

    def pass_over(self, commit: Commit) -> None:
        """Advance the log state by a commit, and leave the model alone."""
        self.version = commit.last_version
        self.end(commit)

    def _heed(self, control: Control) -> None:
        """Change the setting that a control entry names, from the next commit on.

        Raises:
            BadObject: If this lambdaml does not know that setting.
        """
        knob = self.parts.knob
        if control.what not in ("lr", WITHOUT, LOST_MEMORY) and (knob is None or control.what != knob.name):
            raise BadObject(f"the log changes {control.what!r}, which this lambdaml cannot: install a newer version")
        if control.what != "lr" or self._displaces:  # slots, inner steps and codecs look at the log state
            return
        for group in self.optimizer.param_groups:
            set_option(group, "lr", control.value)

    def _move(self, absent: set[int]) -> None:
        """Take an optimizer step along the gradient in the host's buffer, or along the displacement there; absent
        parameters have none.

        Optimizers that draw random numbers draw the same on every replica.
        """
        if self._displaces:
            np.negative(self.flat.host, out=self.flat.host)
        self.flat.from_host(absent)
        if self.job.clip_norm is not None and not self._displaces:
            torch.nn.utils.clip_grad_norm_(self.flat.parameters, self.job.clip_norm)
        torch.default_generator.manual_seed(derive_seed("step", self.settings.seed, self.version))
        call(self.optimizer.step)
        self.flat.attach()
        if self.scheduler is not None and self.job.scheduler_interval == "step":
            call(self.scheduler.step)

    def state(self) -> State:
        """Return a copy of the whole state."""
        shared = self.shared_state()
        frozen = {name: tensor.clone() for name, tensor in shared.frozen.items()}
        return State({name: tensor.clone() for name, tensor in shared.tensors.items()}, shared.meta, frozen)

    def shared_state(self) -> State:
        """Return the whole state, in the replica's own memory where that is the CPU's. Use it before the replica
        changes."""
        tensors, extra, frozen, sha256 = self._alone.tensors()
        optimizer, scheduler = encode_training(self.optimizer, self.scheduler, tensors)
        if self._displaces and self.local.scheduler is not None:
            scheduler = {INNER_SCHEDULE: self.local.rates.first_step}
        if self.transform is not None:
            tensors |= {RULE_PREFIX + name: torch.from_numpy(array) for name, array in self.transform.state().items()}
        meta = {"log_state": self.log_state.dump(), "optimizer": optimizer, "scheduler": scheduler}
        meta |= ({"extra": extra} if extra else {}) | ({FROZEN_DIGEST: sha256} if sha256 else {})
        return State(tensors, meta, frozen)

    def alone(self, entry: str) -> State:
        """Return a copy of the model alone, after the commit with this log entry."""
        return self._alone.alone(self.version, entry)

    def adopt(self, state: State, commit: Commit) -> None:
        """Follow a commit by taking over the model that another replica has after it."""
        self._alone.adopt(state)
        self.flat.attach()
        self.version = commit.last_version
        self.end(commit)

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> State:
        """Read a state from its bytes; see `State.load`."""
        return State.load(data, key)

    def load(self, state: State) -> None:
        """Become the replica that `state` was taken from, bit for bit.

        Raises:
            JobError: If it is the state of another model or optimizer.
        """
        model = state.model()
        try:
            self.buffers.load(state.tensors, model)
            self.model.load_state_dict(model)
            load_training(self.optimizer, self.scheduler, state.meta, state.tensors)
            if self._displaces and self.local.scheduler is not None:
                self.local.rates.first_step = state.meta["scheduler"][INNER_SCHEDULE]
            if self.transform is not None:
                named = {name: tensor for name, tensor in state.tensors.items() if name.startswith(RULE_PREFIX)}
                self.transform.load({name.removeprefix(RULE_PREFIX): t.numpy().copy() for name, t in named.items()})
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())[:300]
            raise JobError(f"this job's model or optimizer is not the one the snapshot is of: {reason}") from error
        self.log_state = LogState.load(state.meta["log_state"], self.settings.workers, self.settings.steps)
        self.version = self.log_state.version
        self.frozen.begin(state)
        self.flat.attach()
        if self.own is not None:
            self.own.loaded = self.rounds.whole(), self.version

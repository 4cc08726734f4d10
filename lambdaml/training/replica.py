"""A replica is the state machine that every function runs: it loads a snapshot and applies commits in order.

The state at a version is a pure function of run.json, the log and the updates: torch computes it with one thread,
sums are taken in the order in which the commit lists the updates, and every random number is seeded from run.json.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lambdaml.codecs import Vector
from lambdaml.codecs.dense import add_to
from lambdaml.errors import BadObject, JobError, JobFailed
from lambdaml.job import Job
from lambdaml.log.commits import shares, summed
from lambdaml.log.encoding import shown
from lambdaml.log.records import Body, Commit, Control, Entry, Update
from lambdaml.log.snapshot import FROZEN_DIGEST, MODEL_PREFIX, RULE_PREFIX, State
from lambdaml.log.state import LogState
from lambdaml.parts import Parts
from lambdaml.settings import Settings
from lambdaml.training.buffers import Buffers
from lambdaml.training.calls import call, fetch, seed_streams
from lambdaml.training.flat import ABSENT, FlatGradient
from lambdaml.training.frozen import Frozen
from lambdaml.training.jobparts import build, encode_training, extra_state, load_training
from lambdaml.training.numerics import norm
from lambdaml.training.rows import Rows
from lambdaml.training.sampling import Sampler, derive_seed
from lambdaml.training.strays import Strays
from lambdaml.worker.machine import Gradient

_MAX_LOSS_SCALE = 2.0**16
_REST = re.compile(rf"[bd]\d+|{ABSENT}")
_ROWS = re.compile(r"r\d+")
_SAMPLE = 2**16
"""Before any update exists, its size is estimated from this many numbers; a codec may have pieces of a few thousand."""


@dataclass(slots=True)
class _Sum:
    """Holds what was added for a step: the buffers of each update, whether each was computed from this very version,
    the parameters that none has a gradient of, and the gradients if they are summed later."""

    rest: list[Body] = field(default_factory=list)
    fresh: list[bool] = field(default_factory=list)
    absent: set[int] = field(default_factory=set)
    gradients: list[Vector] = field(default_factory=list)


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
        self.job = job
        self.settings = settings
        self.clock = clock
        self.device = torch.device(device)
        self.parts = Parts.of(settings)
        self.codec, self.rule = self.parts.codec, self.parts.rule
        self.transform = self.rule.transform(settings.workers, settings.batch_size)
        self.sampler = Sampler(settings.samples, settings.workers, settings.batch_size, settings.seed)
        self.log_state = LogState(settings.workers, settings.steps)
        self.version = 0
        seed_streams(settings.seed, "model")
        self.model, self.optimizer, self.scheduler = build(job, self.device)
        self.model.train()
        self.buffers = Buffers(self.model, late=not self.parts.schedule.deterministic)
        self.flat = FlatGradient(self.model, self.device)
        self.size = self.flat.size
        self.rows = Rows(self.model, self.flat.parameters, self.flat.lengths)
        self.frozen = Frozen(self.model)
        self.strays = Strays(job, self.model)
        self._has_extra = bool(extra_state(self.model)[1])
        self.dataset: Any = None
        self._begin_sum(())

    @property
    def update_bytes(self) -> int:
        """The estimated size of an update in memory, without its buffers."""
        sample = min(self.size, _SAMPLE)
        encoded = self.codec.encode(np.zeros(sample, self.flat.host.dtype), 0)
        return self.size * sum(array.nbytes for array in encoded.values()) // max(1, sample)

    def held_bytes(self, update: Update) -> int:
        """Return the size of an update in memory, in bytes."""
        return update.size_bytes

    def gradient(self, worker: int, seq: int) -> Gradient:
        """Compute update `seq` of `worker` at the present version. The state does not change.

        Raises:
            JobFailed: If the job's own code raised.
        """
        start = self.clock()
        if self.dataset is None:  # before the random streams are seeded, since datasets draw from them
            self.dataset = call(self.job.dataset)
        kept, extra, numbers = self.buffers.keep(), self._extra(), self.strays.look()
        scale = _MAX_LOSS_SCALE if self.job.autocast == "float16" else 1.0
        while True:
            seed_streams("samples", self.settings.seed, worker, seq)
            batch, samples = self._batch(worker, seq)
            seed_streams("update", self.settings.seed, worker, seq)
            loss, absent = self._backward(batch, scale)
            if scale == 1.0 or self.flat.divide(scale):
                break
            scale /= 2.0
            self.buffers.restore(kept)
        labels = self._labels(batch) if self.rule.labels else ()
        computed = self.clock()
        gradient = self.flat.to_host()
        rows = self.rows.find(gradient)
        seed = derive_seed("codec", self.settings.seed, worker, seq)
        body = self.codec.encode(self.rows.pack(gradient, rows), seed) | rows
        if len(absent):
            body[ABSENT] = absent
        body |= self.buffers.changes(kept)
        self.buffers.restore(kept)
        if self._extra() != extra:
            raise JobError(
                f"the extra state of {_name(self.job)}'s model changed in the forward pass: keep it in a buffer"
            )
        compute_s, encode_s = computed - start, self.clock() - computed
        warnings = self.strays.found(numbers)
        commit = self.log_state.commit
        return Gradient(body, self.version, commit, samples, loss, compute_s, encode_s, labels, warnings)

    def update(self, worker: int, seq: int, generation: int = 1, function: str = "") -> Update:
        """Compute a gradient and return it as an update with a body of its own, for trainings without a store."""
        found = self.gradient(worker, seq)
        return Update(
            worker,
            seq,
            found.base,
            generation,
            function,
            found.samples,
            found.loss,
            self.settings.codec,
            base_commit=found.base_commit,
            compute_s=found.compute_s,
            encode_s=found.encode_s,
            labels=found.labels,
            body={name: np.array(array) for name, array in found.body.items()},
        )

    def _labels(self, batch: Any) -> tuple[int, ...]:
        labels = call(self.job.labels, batch).reshape(-1).cpu().numpy().astype(np.int64)
        return tuple(np.bincount(labels[labels >= 0]).tolist())

    def _batch(self, worker: int, seq: int) -> tuple[Any, int]:
        indices = self.sampler.indices(worker, seq).tolist()
        batch = call(fetch, self.job, self.dataset, indices)
        if self.device.type != "cpu":
            from torch.utils import _pytree

            batch = _pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self.device), batch)
        return batch, len(indices)

    def _backward(self, batch: Any, scale: float) -> tuple[float, NDArray[np.int32]]:
        """Return the loss, and the parameters that its gradient does not reach. The gradient is then in the flat
        buffer."""
        self.flat.begin()
        dtype = {None: None, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.job.autocast]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            loss = call(self.job.loss, self.model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise JobFailed(f"{_name(self.job)}.loss must return a scalar tensor, not {_describe(loss)}")
        call((loss * scale if scale != 1.0 else loss).backward)
        return float(loss.detach()), self.flat.finish()

    def _extra(self) -> dict[str, Any]:
        """Return the model's extra state, encoded, with tensors as their bytes."""
        return extra_state(self.model)[1] if self._has_extra else {}

    def check(self, update: Update) -> str:
        """Return why this update must be rejected, or "". Every replica gives the same answer."""
        body = update.body
        if update.codec != self.settings.codec:
            return f"codec {update.codec}, not {self.settings.codec}"
        encoded, rows, rest = _parts(body)
        absent = rest.pop(ABSENT, None)
        fault = self.rows.check(rows) or self.buffers.check(rest) or self.flat.check(absent)
        if fault := fault or self.codec.check(encoded, slice(0, self.rows.size(rows))):
            return fault
        dealt = self.sampler.count(update.worker, update.seq)
        if update.samples != dealt:
            return f"claims {update.samples} samples where {dealt} were dealt"
        if not math.isfinite(update.loss):
            return "loss is not finite"
        if update.labels and not self.rule.labels:
            return "counts labels, which the run's rule does not ask for"
        vector = self.codec.values(encoded)
        # A finite sum proves that all terms are finite; an infinite one may be an overflow, so look again.
        with np.errstate(over="ignore", invalid="ignore"):
            if not math.isfinite(float(vector.sum())) and not np.isfinite(vector).all():
                return "gradient is not finite"
            limit = self.settings.max_update_norm
            if limit is not None and norm(vector) > limit:
                return "gradient has a norm above the limit"
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
        """Begin to apply a commit. Then, for each step, `add` its updates in order and take the `step`; `end` comes
        last."""
        if commit.version != self.version:
            raise BadObject(f"commit {commit.commit} starts from version {commit.version}, not {self.version}")
        if commit.steps and self.transform is not None:
            self.transform.begin(self.version, self.flat.values)
        self._begin_sum(commit.steps)

    def _begin_sum(self, steps: Sequence[tuple[Entry, ...]]) -> None:
        self._steps, self._sum = steps, _Sum()
        self._factors, self._divisor = summed(steps[0], self.settings.batch_size) if steps else ([], 1.0)

    def add(self, entry: Entry, update: Update) -> None:
        """Add an update to the sum of its step. The caller may then free it, unless the run's rule changes
        gradients."""
        body, rows, rest = _parts(update.body)
        total, host = self._sum, self.flat.host
        absent = set(rest.pop(ABSENT).tolist()) if ABSENT in rest else set()
        if self.transform is not None:
            total.gradients.append(self.rows.unpack(self.codec, body, rows, host.dtype))
        else:
            self.rows.add(self.codec, body, rows, self._factors[len(total.rest)], host, fresh=not total.rest)
            total.absent = total.absent & absent if total.rest else absent
        total.rest.append({name: np.array(array) for name, array in rest.items()})
        total.fresh.append(update.base == self.version)

    def step(self, step: tuple[Entry, ...]) -> None:
        """Take the optimizer step along the mean of what was added."""
        total, host = self._sum, self.flat.host
        moves, divisor = True, self._divisor
        if self.transform is not None:
            entries = [replace(entry, weight=factor) for entry, factor in zip(step, self._factors, strict=True)]
            terms, divisor = self.transform.terms(entries, total.gradients, divisor, self.flat.values)
            for number, (vector, weight) in enumerate(terms):
                add_to(host, vector, weight, fresh=not number)
            moves = bool(terms)
        if divisor != 1.0:
            host /= host.dtype.type(divisor)
        self.buffers.merge(total.rest, shares(step), total.fresh)
        if moves:
            self._move(total.absent)
        self.version += 1
        self._begin_sum(self._steps[1:])

    def end(self, commit: Commit) -> None:
        """Finish the commit after its last step."""
        epochs = self.log_state.progress // (self.settings.workers * self.settings.steps_per_epoch)
        self.log_state.advance(commit)
        if self.scheduler is not None and self.job.scheduler_interval == "epoch":
            now = self.log_state.progress // (self.settings.workers * self.settings.steps_per_epoch)
            for _ in range(now - epochs):
                self.scheduler.step()
        for control in commit.controls:
            self._heed(control)

    def _heed(self, control: Control) -> None:
        """Change the setting that a control entry names, from the next commit on.

        Raises:
            BadObject: If this lambdaml does not know that setting.
        """
        if control.what != "lr":
            raise BadObject(f"the log changes {control.what!r}, which this lambdaml cannot: install a newer version")
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(control.value)
            else:
                group["lr"] = control.value

    def _move(self, absent: set[int]) -> None:
        """Take an optimizer step along the gradient in the host's buffer; absent parameters have none.

        Optimizers that draw random numbers draw the same on every replica.
        """
        self.flat.from_host(absent)
        if self.job.clip_norm is not None:
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
        tensors, extra = extra_state(self.model)
        frozen, sha256 = self.frozen.still()
        for name, tensor in self.model.state_dict().items():
            if MODEL_PREFIX + name not in tensors and MODEL_PREFIX + name not in frozen and name not in extra:
                tensors[MODEL_PREFIX + name] = shown(tensor)
        tensors |= self.buffers.state()
        optimizer, scheduler = encode_training(self.optimizer, self.scheduler, tensors)
        if self.transform is not None:
            tensors |= {RULE_PREFIX + name: torch.from_numpy(array) for name, array in self.transform.state().items()}
        meta = {"log_state": self.log_state.dump(), "optimizer": optimizer, "scheduler": scheduler}
        meta |= ({"extra": extra} if extra else {}) | ({FROZEN_DIGEST: sha256} if sha256 else {})
        return State(tensors, meta, frozen)

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
            if self.transform is not None:
                self.transform.load(
                    {
                        name.removeprefix(RULE_PREFIX): tensor.numpy().copy()
                        for name, tensor in state.tensors.items()
                        if name.startswith(RULE_PREFIX)
                    }
                )
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())[:300]
            raise JobError(f"this job's model or optimizer is not the one the snapshot is of: {reason}") from error
        self.log_state = LogState.load(state.meta["log_state"], self.settings.workers, self.settings.steps)
        self.version = self.log_state.version
        self.frozen.begin(state)
        self.flat.attach()


def _parts(body: Body) -> tuple[Body, Body, Body]:
    """Split a body into what the codec wrote, the rows that this covers, and the rest: the buffers, and the list of
    absent parameters."""
    rest = {name: array for name, array in body.items() if _REST.fullmatch(name)}
    rows = {name: array for name, array in body.items() if _ROWS.fullmatch(name)}
    return {name: array for name, array in body.items() if name not in rest and name not in rows}, rows, rest


def _name(job: Job) -> str:
    return type(job).__name__


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

"""A replica: the state machine that every function runs. Load a snapshot, apply commits in order.

The state at a version is a pure function of run.json, the log and the updates: torch computes it with one thread,
sums are taken in the order in which the commit lists the updates, and every random number is seeded from run.json.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lambdaml.buffers import Buffers
from lambdaml.calls import call, fetch, seed_streams
from lambdaml.codecs import CODECS
from lambdaml.encoding import copied
from lambdaml.errors import BadObject, JobError, JobFailed
from lambdaml.flat import ABSENT, FlatGradient
from lambdaml.job import Job
from lambdaml.jobparts import build, encode_training, extra_state, load_training
from lambdaml.numerics import norm
from lambdaml.records import Body, Commit, Entry, Update
from lambdaml.sampling import Sampler, derive_seed
from lambdaml.schedules import SCHEDULES
from lambdaml.settings import Settings
from lambdaml.snapshot import MODEL, RULE, State
from lambdaml.staleness import RULES
from lambdaml.strays import Strays
from lambdaml.view import View

_MAX_LOSS_SCALE = 2.0**16
_REST = re.compile(rf"[bd]\d+|{ABSENT}")


@dataclass(frozen=True, slots=True)
class Gradient:
    """What one computation yields: the encoded gradient, the version it is of, how long it took, and what is worth a word.

    `body` may alias the replica's buffers: write it out before the replica is used again.
    """

    body: Body
    base: int
    samples: int
    loss: float
    compute_s: float
    encode_s: float
    labels: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


class Replica:
    """The training state at a version, and the two things one does with it: compute a gradient, apply a commit.

    Not thread-safe, and it seeds torch's, NumPy's and Python's global random streams: all replicas of a process must
    be used from one thread.

    Args:
        job: the user's job; its methods are called here and nowhere else.
        settings: the run.
        clock: seconds, monotonic.
        device: a torch device; the state lives there, what is written is always on the CPU.
    """

    def __init__(
        self, job: Job, settings: Settings, clock: Callable[[], float] = lambda: 0.0, device: str = "cpu"
    ) -> None:
        self.job = job
        self.settings = settings
        self.clock = clock
        self.device = torch.device(device)
        self.codec = CODECS.make(settings.codec)
        self.rule = RULES.make(settings.staleness)
        self.transform = self.rule.transform(settings.workers)
        self.sampler = Sampler(settings.samples, settings.workers, settings.batch_size, settings.seed)
        self.view = View(settings.workers, settings.steps)
        self.version = 0
        seed_streams(settings.seed, "model")
        self.model, self.optimizer, self.scheduler = build(job, self.device)
        self.model.train()
        self.buffers = Buffers(self.model, late=not SCHEDULES.make(settings.schedule).agreed)
        self.flat = FlatGradient(self.model, self.device)
        self.size = self.flat.size
        self.strays = Strays(job, self.model)
        self._has_extra = bool(extra_state(self.model)[1])
        self.dataset: Any = None

    def gradient(self, worker: int, seq: int) -> Gradient:
        """Compute update `seq` of `worker` at the present version. The state is left as it was.

        Raises:
            JobFailed: the job's own code raised.
        """
        start = self.clock()
        if self.dataset is None:  # before streams are seeded: people draw their data from them
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
        body = self.codec.encode(self.flat.to_host())
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
        return Gradient(body, self.version, samples, loss, compute_s, encode_s, labels, warnings)

    def update(self, worker: int, seq: int, generation: int = 1, function: str = "") -> Update:
        """As `gradient`, as an update whose body is its own: for trainings without a store."""
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
        """The loss, and the parameters that its gradient, which is now in the flat buffer, does not reach."""
        self.flat.begin()
        dtype = {None: None, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.job.autocast]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            loss = call(self.job.loss, self.model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise JobFailed(f"{_name(self.job)}.loss must return a scalar tensor, not {_describe(loss)}")
        call((loss * scale if scale != 1.0 else loss).backward)
        return float(loss.detach()), self.flat.finish()

    def _extra(self) -> dict[str, Any]:
        """The model's extra state, encoded; tensors in it as their bytes."""
        return extra_state(self.model)[1] if self._has_extra else {}

    def check(self, update: Update) -> str:
        """Why this update must be rejected, or "". The same answer on every replica."""
        body = update.body
        if update.codec != self.settings.codec:
            return f"codec {update.codec}, not {self.settings.codec}"
        encoded, rest = _parts(body)
        absent = rest.pop(ABSENT, None)
        fault = self.codec.check(encoded, self.size) or self.buffers.check(rest) or self.flat.check(absent)
        if fault:
            return fault
        dealt = self.sampler.count(update.worker, update.seq)
        if update.samples != dealt:
            return f"claims {update.samples} samples where {dealt} were dealt"
        if not math.isfinite(update.loss):
            return "loss is not finite"
        if update.labels and not self.rule.labels:
            return "counts labels, which the run's rule does not ask for"
        vector = self.codec.decode(encoded, self.size)
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
        if commit.version != self.version:
            raise BadObject(f"commit {commit.commit} starts from version {commit.version}, not {self.version}")
        if commit.steps and self.transform is not None:
            self.transform.begin(self.version, self.flat.values)
        for step in commit.steps:
            if self.version == until:
                self.view.version = self.version
                return
            self._step(step, updates)
        epochs = self.view.progress // (self.settings.workers * self.settings.steps_per_epoch)
        self.view.advance(commit)
        if self.scheduler is not None and self.job.scheduler_interval == "epoch":
            now = self.view.progress // (self.settings.workers * self.settings.steps_per_epoch)
            for _ in range(now - epochs):
                self.scheduler.step()

    def _step(self, step: tuple[Entry, ...], updates: Mapping[tuple[int, int], Update]) -> None:
        used = [updates[entry.worker, entry.seq] for entry in step]
        weights = [entry.weight for entry in step]
        bodies, rest = zip(*[_parts(update.body) for update in used], strict=True)
        gradients = [self.codec.decode(body, self.size) for body in bodies]
        moves = True
        absent: set[int] = set()
        if self.transform is None:
            _weighted_sum(gradients, weights, self.flat.host)
            absent = set.intersection(*[set(part[ABSENT].tolist()) if ABSENT in part else set() for part in rest])
        elif terms := self.transform.terms(step, gradients, self.flat.values):
            _weighted_sum([vector for vector, _ in terms], [weight for _, weight in terms], self.flat.host)
        else:
            moves = False
        self.buffers.merge(rest, weights, [update.base == self.version for update in used])
        if moves:
            self._move(absent)
        self.version += 1

    def _move(self, absent: set[int]) -> None:
        """An optimizer step along the gradient in the host's buffer; absent parameters have none.

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
        """A copy of the whole state."""
        tensors, extra = extra_state(self.model)
        for name, tensor in self.model.state_dict().items():
            if MODEL + name not in tensors and name not in extra:
                tensors[MODEL + name] = copied(tensor)
        tensors |= self.buffers.state()
        optimizer, scheduler = encode_training(self.optimizer, self.scheduler, tensors)
        if self.transform is not None:
            tensors |= {RULE + name: torch.from_numpy(array) for name, array in self.transform.state().items()}
        meta = {"view": self.view.dump(), "optimizer": optimizer, "scheduler": scheduler}
        return State(tensors, meta | ({"extra": extra} if extra else {}))

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> State:
        """See `State.load`."""
        return State.load(data, key)

    def load(self, state: State) -> None:
        """Become the replica that `state` was taken from, bit for bit.

        Raises:
            JobError: it is the state of another model or optimizer.
        """
        model = state.model()
        try:
            self.buffers.load(state.tensors, model)
            self.model.load_state_dict(model)
            load_training(self.optimizer, self.scheduler, state.meta, state.tensors)
            if self.transform is not None:
                self.transform.load(
                    {
                        name.removeprefix(RULE): tensor.numpy().copy()
                        for name, tensor in state.tensors.items()
                        if name.startswith(RULE)
                    }
                )
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())[:300]
            raise JobError(f"this job's model or optimizer is not the one the snapshot is of: {reason}") from error
        self.view = View.load(state.meta["view"], self.settings.workers, self.settings.steps)
        self.version = self.view.version
        self.flat.attach()


def _weighted_sum(arrays: list[NDArray[Any]], weights: list[float], out: NDArray[Any]) -> NDArray[Any]:
    """The sum of weight * array into `out`, in the order given."""
    np.multiply(arrays[0], weights[0], out=out)
    for array, weight in zip(arrays[1:], weights[1:], strict=True):
        out += array * weight
    return out


def _parts(body: Body) -> tuple[Body, Body]:
    """What the codec wrote, and the rest: buffers, and the list of absent parameters."""
    rest = {name: array for name, array in body.items() if _REST.fullmatch(name)}
    return {name: array for name, array in body.items() if name not in rest}, rest


def _name(job: Job) -> str:
    return type(job).__name__


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

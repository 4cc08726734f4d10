"""A replica: the state machine that every function runs. Load a snapshot, apply commits in order.

The state at a version is a pure function of run.json, the log and the updates: torch computes it with one thread,
sums are taken in the order in which the commit lists the updates, and every random number is seeded from run.json.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lambdaml.codecs import CODECS
from lambdaml.errors import BadObject, JobError, JobFailed
from lambdaml.job import Job
from lambdaml.records import Body, Commit, Entry, Update
from lambdaml.sampling import Sampler, derive_seed
from lambdaml.settings import Settings
from lambdaml.snapshot import MODEL, RULE, State
from lambdaml.staleness import RULES
from lambdaml.view import View

_MAX_LOSS_SCALE = 2.0**16


@dataclass(frozen=True, slots=True)
class Gradient:
    """What one computation yields: the encoded gradient, the version it is of, and how long it took.

    `body` may alias the replica's buffers: write it out before the replica is used again.
    """

    body: Body
    base: int
    samples: int
    loss: float
    compute_s: float
    encode_s: float
    labels: tuple[int, ...] = ()


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
        _seed(settings.seed, "model")
        self.model = call(job.model).to(self.device)
        self.model.train()
        self.optimizer = call(job.optimizer, self.model)
        self.scheduler = call(job.scheduler, self.optimizer)
        self.dataset: Any = None
        self._flatten()

    def _flatten(self) -> None:
        """Make every parameter's gradient a view of one flat buffer: backward fills it, `apply` steps from it."""
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        double = any(parameter.dtype == torch.float64 for parameter in self.parameters)
        self.dtype = torch.float64 if double else torch.float32
        self.size = sum(parameter.numel() for parameter in self.parameters)
        if not self.size:
            raise JobError(f"{_name(self.job)}.model() has no parameters that require a gradient")
        self.flat = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        # On the CPU this is the flat buffer's own memory: sums land where the optimizer reads them.
        self._host: NDArray[Any] = self.flat.cpu().numpy()
        self._views: list[Tensor] = []
        offset = 0
        for parameter in self.parameters:
            self._views.append(self.flat[offset : offset + parameter.numel()].view_as(parameter))
            offset += parameter.numel()
        persistent = self.model.state_dict(keep_vars=True)
        self._buffers = dict(self.model.named_buffers())
        buffers = {name: b for name, b in self._buffers.items() if name in persistent}
        self.means = {name: b for name, b in buffers.items() if b.is_floating_point()}
        self.counts = {name: b for name, b in buffers.items() if not b.is_floating_point()}
        self._attach()

    def _attach(self) -> None:
        self._odd: list[tuple[Tensor, Tensor]] = []
        for parameter, view in zip(self.parameters, self._views, strict=True):
            if parameter.dtype == self.dtype:
                parameter.grad = view
            else:
                parameter.grad = torch.zeros_like(parameter)
                self._odd.append((parameter.grad, view))

    def gradient(self, worker: int, seq: int) -> Gradient:
        """Compute update `seq` of `worker` at the present version. The state is left as it was.

        Raises:
            JobFailed: the job's own code raised.
        """
        start = self.clock()
        kept = {name: buffer.clone() for name, buffer in self._buffers.items()}
        scale = _MAX_LOSS_SCALE if self.job.autocast == "float16" else 1.0
        while True:
            _seed("update", self.settings.seed, worker, seq)
            batch, samples = self._batch(worker, seq)
            loss = self._backward(batch, scale)
            if scale == 1.0:
                break
            self.flat /= scale
            if torch.isfinite(self.flat).all():
                break
            scale /= 2.0
            self._restore(kept)
        labels = self._labels(batch) if self.rule.labels else ()
        computed = self.clock()
        if self.device.type != "cpu":
            self._host[:] = self.flat.cpu().numpy()
        body = self.codec.encode(self._host)
        body |= self._buffer_changes(kept)
        self._restore(kept)
        return Gradient(body, self.version, samples, loss, computed - start, self.clock() - computed, labels)

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
        if self.dataset is None:
            self.dataset = call(self.job.dataset)
        indices = self.sampler.indices(worker, seq).tolist()
        batch = call(fetch, self.job, self.dataset, indices)
        if self.device.type != "cpu":
            from torch.utils import _pytree

            batch = _pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self.device), batch)
        return batch, len(indices)

    def _backward(self, batch: Any, scale: float) -> float:
        self.flat.zero_()
        for gradient, _ in self._odd:
            gradient.zero_()
        dtype = {None: None, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.job.autocast]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            loss = call(self.job.loss, self.model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise JobFailed(f"{_name(self.job)}.loss must return a scalar tensor, not {_describe(loss)}")
        call((loss * scale if scale != 1.0 else loss).backward)
        for gradient, view in self._odd:
            view.copy_(gradient)
        return float(loss.detach())

    def _buffer_changes(self, kept: Mapping[str, Tensor]) -> Body:
        changes: Body = {}
        if self.means:
            deltas = [_difference(buffer, kept[name]).reshape(-1).to(self.dtype) for name, buffer in self.means.items()]
            changes["means"] = torch.cat(deltas).cpu().numpy()
        if self.counts:
            counts = [buffer.long() - kept[name].long() for name, buffer in self.counts.items()]
            changes["counts"] = torch.cat([count.reshape(-1) for count in counts]).cpu().numpy()
        return changes

    def _restore(self, kept: Mapping[str, Tensor]) -> None:
        for name, buffer in self._buffers.items():
            buffer.copy_(kept[name])

    def check(self, update: Update) -> str:
        """Why this update must be rejected, or "". The same answer on every replica."""
        body = update.body
        if update.codec != self.settings.codec:
            return f"codec {update.codec}, not {self.settings.codec}"
        encoded = {name: array for name, array in body.items() if name not in ("means", "counts")}
        fault = self.codec.check(encoded, self.size) or self._check_buffers(body)
        if fault:
            return fault
        dealt = self.sampler.count(update.worker, update.seq)
        if update.samples != dealt:
            return f"claims {update.samples} samples where {dealt} were dealt"
        if not math.isfinite(update.loss):
            return "loss is not finite"
        if update.labels and not self.rule.labels:
            return "counts labels, which the run's rule does not ask for"
        vector = self.codec.decode(body, self.size)
        # A finite sum proves that all terms are finite; an infinite one may be an overflow, so look again.
        with np.errstate(over="ignore", invalid="ignore"):
            if not math.isfinite(float(vector.sum())) and not np.isfinite(vector).all():
                return "gradient is not finite"
        limit = self.settings.max_update_norm
        if limit is not None and (norm := float(np.linalg.norm(vector.astype(np.float64)))) > limit:
            return f"gradient has norm {norm:.4g}, more than {limit:.4g}"
        return ""

    def _check_buffers(self, body: Body) -> str:
        for name, buffers, dtype in (("means", self.means, self.dtype), ("counts", self.counts, torch.int64)):
            expected = (sum(buffer.numel() for buffer in buffers.values()),) if buffers else None
            array = body.get(name)
            if (array.shape if array is not None else None) != expected:
                return f"has {name} of the wrong shape"
            if array is not None and (array.dtype.name != str(dtype)[6:] or not np.isfinite(array).all()):
                return f"has {name} that are not finite {dtype}"
        return ""

    def apply(self, commit: Commit, updates: Mapping[tuple[int, int], Update], until: int | None = None) -> None:
        """Take the optimizer steps of the next commit; with `until`, stop at that version within it.

        `updates` holds every update that the commit applies.
        """
        if commit.version != self.version:
            raise BadObject(f"commit {commit.commit} starts from version {commit.version}, not {self.version}")
        if commit.steps and self.transform is not None:
            self.transform.begin(self.version, self._vector)
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
        bodies = [updates[entry.worker, entry.seq].body for entry in step]
        weights = [entry.weight for entry in step]
        gradients = [self.codec.decode(body, self.size) for body in bodies]
        moves = True
        if self.transform is None:
            _weighted_sum(gradients, weights, self._host)
        elif terms := self.transform.terms(step, gradients, self._vector):
            _weighted_sum([vector for vector, _ in terms], [weight for _, weight in terms], self._host)
        else:
            moves = False
        if self.means:
            means = np.empty_like(bodies[0]["means"])
            self._add_to(self.means, _weighted_sum([body["means"] for body in bodies], weights, means))
        if self.counts:
            self._add_to(self.counts, np.max([body["counts"] for body in bodies], axis=0))
        if moves:
            self._move()
        self.version += 1

    def _move(self) -> None:
        """An optimizer step along the gradient in the host's buffer."""
        if self.device.type != "cpu":
            self.flat.copy_(torch.from_numpy(self._host))
        for gradient, view in self._odd:
            gradient.copy_(view)
        if self.job.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.job.clip_norm)
        call(self.optimizer.step)
        if self.scheduler is not None and self.job.scheduler_interval == "step":
            self.scheduler.step()

    def _vector(self) -> NDArray[Any]:
        """A copy of the trained parameters, as one vector like a gradient."""
        parts = [parameter.detach().reshape(-1).to(self.dtype) for parameter in self.parameters]
        return torch.cat(parts).cpu().numpy()

    def _add_to(self, buffers: Mapping[str, Tensor], change: NDArray[Any]) -> None:
        offset = 0
        for buffer in buffers.values():
            part = torch.from_numpy(change[offset : offset + buffer.numel()]).view(buffer.shape).to(buffer.device)
            buffer.copy_(buffer + part if buffer.is_floating_point() else buffer.long() + part)
            offset += buffer.numel()

    def state(self) -> State:
        """A copy of the whole state."""
        tensors = {MODEL + name: _copy(tensor) for name, tensor in self.model.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for index, entries in optimizer["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{index}/{name}"] = _copy(value)
                else:
                    plain.setdefault(str(index), {})[name] = value
        if self.transform is not None:
            tensors |= {RULE + name: torch.from_numpy(array) for name, array in self.transform.state().items()}
        meta = {
            "view": self.view.dump(),
            "optimizer": {"state": plain, "param_groups": optimizer["param_groups"]},
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
        }
        return State(tensors, meta)

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> State:
        """See `State.load`."""
        return State.load(data, key)

    def load(self, state: State) -> None:
        """Become the replica that `state` was taken from, bit for bit.

        Raises:
            JobError: it is the state of another model or optimizer.
        """
        entries: dict[int, dict[str, Any]] = {}
        for index, plain in state.meta["optimizer"]["state"].items():
            entries[int(index)] = dict(plain)
        for name, tensor in state.tensors.items():
            if name.startswith("optimizer/"):
                _, index, entry = name.split("/", 2)
                entries.setdefault(int(index), {})[entry] = tensor
        try:
            self.model.load_state_dict(state.model())
            groups = state.meta["optimizer"]["param_groups"]
            self.optimizer.load_state_dict({"state": dict(sorted(entries.items())), "param_groups": groups})
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state.meta["scheduler"])
            if self.transform is not None:
                self.transform.load(
                    {
                        name.removeprefix(RULE): tensor.numpy().copy()
                        for name, tensor in state.tensors.items()
                        if name.startswith(RULE)
                    }
                )
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise JobError(f"this job's model or optimizer is not the one the snapshot is of: {reason}") from error
        self.view = View.load(state.meta["view"], self.settings.workers, self.settings.steps)
        self.version = self.view.version
        self._attach()


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call the user's code; what it raises becomes one line that names the place in it.

    Raises:
        JobFailed: it raised.
    """
    try:
        return function(*args)
    except JobError:
        raise
    except Exception as error:
        trace = error.__traceback__
        while (
            trace is not None and trace.tb_next is not None and "torch" not in trace.tb_next.tb_frame.f_code.co_filename
        ):
            trace = trace.tb_next
        place = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace is not None else ""
        message = " ".join(str(error).split())
        name = getattr(function, "__qualname__", repr(function))
        raise JobFailed(f"{name} raised {type(error).__name__}: {message}{place}") from error


def fetch(job: Job, dataset: Any, indices: list[int]) -> Any:
    """The samples of these numbers, as the batch that the job's loss takes."""
    from torch.utils.data import TensorDataset

    if isinstance(dataset, TensorDataset) and type(job).collate is Job.collate:
        return list(dataset[indices])
    samples = dataset.__getitems__(indices) if hasattr(dataset, "__getitems__") else [dataset[i] for i in indices]
    return job.collate(samples)


def _seed(*parts: int | str) -> None:
    seed = derive_seed(*parts)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _weighted_sum(arrays: list[NDArray[Any]], weights: list[float], out: NDArray[Any]) -> NDArray[Any]:
    """The sum of weight * array into `out`, in the order given."""
    np.multiply(arrays[0], weights[0], out=out)
    for array, weight in zip(arrays[1:], weights[1:], strict=True):
        out += array * weight
    return out


def _difference(now: Tensor, before: Tensor) -> Tensor:
    """Zero where nothing changed, be it infinite."""
    return torch.where(now == before, torch.zeros_like(now), now - before)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _name(job: Job) -> str:
    return type(job).__name__


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

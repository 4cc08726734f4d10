"""A run of federated averaging (FedAvg, arXiv 1602.05629), read back round by round: who took part, and how far each went.

Only runs are taken whose rounds are w + sum of p_k d_k(w), where d_k is what plain SGD does from w on the data of client k. All that
makes a displacement depend on something else than w (momentum, error feedback, running statistics) is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from lambdaml.algorithms import MOMENTUM, WHOLE_MODEL, Assignment
from lambdaml.algorithms.local import LocalSteps
from lambdaml.errors import SettingsError
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.log.records import Commit, Entry, Update
from lambdaml.log.retention import snapshots_kept
from lambdaml.parts import Parts
from lambdaml.settings import Settings
from lambdaml.training.bodies import split_body
from lambdaml.training.flat import ABSENT
from lambdaml.training.inner_rates import inner_step
from lambdaml.training.replay import commits_from, replica_at
from lambdaml.training.step_sum import counted


@dataclass(frozen=True, slots=True)
class ClientTurn:
    """What a client did in a round.

    Attributes:
        update: The worker and the number of the update.
        client: The number of the client.
        weight: The number of samples that it counts for in the mean.
        moved: The displacement, [parameters].
        due: The client with its batches of this round.
        absent: The numbers of the parameters that none of its gradients reached.
    """

    update: tuple[int, int]
    client: int
    weight: float
    moved: Tensor
    due: Assignment
    absent: frozenset[int]


@dataclass(frozen=True, slots=True)
class Round:
    """A round, with the run's model as it was before.

    Attributes:
        step: The number of its first local step in the job's learning-rate schedule.
        turns: The turns of the clients that took part.
    """

    step: int
    turns: tuple[ClientTurn, ...]


class FederatedRun:
    """Walks along a run of federated averaging from its beginning.

    Args:
        run: The run.
        job: The run's job, if it was given as an instance and cannot be imported.

    Raises:
        SettingsError: If the run is not one of plain federated averaging, or its beginning was deleted.

    Attributes:
        settings: The settings of the run.
        replica: A replica of the run, at the version that the walk has reached.
        size: The number of trained parameters.
    """

    def __init__(self, run: RunReader, job: Job | None = None) -> None:
        self._run, self.settings = run, run.settings
        _demand_averaging(self.settings)
        versions = [keys.number(info.key) for info in snapshots_kept(run.store)]
        if 0 not in versions:
            raise SettingsError(
                f"influence begins with version 0, and this run's history begins at {min(versions, default=0)}: train "
                "with --keep all, or with --extra, which keeps it"
            )
        self.replica = replica_at(run, 0, job)
        _demand_plain(self.replica.job, self.replica.local.optimizer)
        if any(each.is_complex() for each in self.replica.flat.parameters):
            raise SettingsError(
                "influence is measured where parameters are real numbers, and this model has complex ones"
            )
        self.replica.local.extra = None  # what was recorded is not recorded again
        self.size = self.replica.flat.size

    @property
    def clients(self) -> int:
        """The number of clients."""
        return self.settings.sharers

    def samples(self, client: int) -> int:
        """Return the number of samples that a client owns."""
        return len(self.replica.sampler.samples_of_pass(client, 0))

    def weights(self) -> Tensor:
        """Return the trained parameters at this version, [parameters]."""
        return torch.from_numpy(self.replica.flat.values())

    def rounds(self, version: int | None = None) -> Iterator[Round]:
        """Yield the rounds up to a version, by default the last one; the replica is at the base of each meanwhile.

        Raises:
            SettingsError: If the run has no such version, or its forward passes change buffers.
        """
        replica = self.replica
        for commit, updates in commits_from(self._run, replica.log_state.commit):
            if replica.version == version:
                return
            yield self._round(commit, updates)
            replica.apply(commit, updates)
        if version is not None and replica.version != version:
            raise SettingsError(f"this run has no version {version} yet: the last is {replica.version}")

    def _round(self, commit: Commit, updates: dict[tuple[int, int], Update]) -> Round:
        step = inner_step(self.replica.log_state.samples, self.settings)
        entries = [entry for entry in commit.applied if entry.weight > 0]
        return Round(step, tuple(self._turn(entry, updates[entry.worker, entry.seq]) for entry in entries))

    def _turn(self, entry: Entry, update: Update) -> ClientTurn:
        replica, parts = self.replica, self.replica.parts
        encoded, rows, rest = split_body(update.body)
        absent = rest.pop(ABSENT, ())
        if rest:
            raise SettingsError(
                "influence follows parameters, and this job's forward passes change buffers, such as BatchNorm's running "
                "statistics: use GroupNorm, or none"
            )
        client = replica.sampler.share(entry.worker, entry.seq).number
        assert update.batches is not None
        return ClientTurn(
            update=update.id,
            client=client,
            weight=entry.weight * counted(entry, parts, replica.local),
            moved=torch.from_numpy(replica.rows.unpack(parts.codec, encoded, rows)),
            due=Assignment(client, entry.seq, *update.batches),
            absent=frozenset(int(number) for number in absent),
        )

    def rates(self, step: int, absent: frozenset[int] = frozenset()) -> tuple[Tensor, Tensor]:
        """Return the learning rate and the weight decay of each parameter in a local step, [parameters] each. A parameter that no
        gradient reaches stays as it is, so its rate is 0.

        Args:
            step: The number of the step in the job's learning-rate schedule.
            absent: The numbers of the tensors of parameters that no gradient reaches.
        """
        local = self.replica.local
        local.rates.set(step, self.replica.log_state.changed)
        options = {
            id(each): (float(group["lr"]), float(group["weight_decay"]))
            for group in local.optimizer.param_groups
            for each in group["params"]
        }
        parameters = local.flat.parameters
        pairs = [(0.0, 0.0) if n in absent else options.get(id(p), (0.0, 0.0)) for n, p in enumerate(parameters)]
        lengths = torch.tensor([span.stop - span.start for span in local.layout.spans])
        columns = torch.tensor(pairs, dtype=local.flat.dtype).repeat_interleave(lengths, 0)
        return columns[:, 0], columns[:, 1]

    def layers(self) -> list[slice]:
        """Return the place of each layer in the vector of parameters: those of one module, such as a weight and its bias."""
        names = [name for name, each in self.replica.model.named_parameters() if each.requires_grad]
        found: list[slice] = []
        last = None
        for name, span in zip(names, self.replica.local.layout.spans, strict=True):
            module = name.rpartition(".")[0]
            if module == last:
                found[-1] = slice(found[-1].start, span.stop)
            else:
                found.append(span)
            last = module
        return found


def _demand_averaging(settings: Settings) -> None:
    """Make sure that a run's rounds are means of displacements that depend on the base alone.

    Raises:
        SettingsError: If they are not.
    """
    parts = Parts.of(settings)
    algorithm, named = parts.algorithm, f"algorithm {settings.algorithm!r}"
    why = ""
    if settings.schedule.partition(":")[0] not in ("bsp", "cohort"):
        why = f"schedule {settings.schedule!r} has no rounds of the newest model: train with bsp or cohort:K"
    elif not isinstance(algorithm, LocalSteps) or WHOLE_MODEL in algorithm.gives:
        why = f"{named} does not average displacements: train with local:H"
    elif algorithm.remembers or algorithm.ahead:
        why = f"workers with {named} remember something between rounds: train with local:H alone"
    elif not _averages(algorithm):
        why = f"the outer optimizer of {named} does more than take the mean: use outer=average"
    elif parts.aggregate is not None:
        why = f"aggregate {settings.aggregate!r} is no weighted mean: use mean"
    elif settings.staleness != "constant":
        why = f"staleness rule {settings.staleness!r} weighs or changes updates: use constant"
    elif parts.feedback:
        why = f"codec {settings.codec!r} with error feedback sends what earlier rounds left: use fp32 or bf16"
    if why:
        raise SettingsError(f"influence is measured in runs of federated averaging, and {why}")


def _averages(algorithm: LocalSteps) -> bool:
    """Return whether an algorithm's outer optimizer moves the model by the mean displacement, and no more."""
    outer = algorithm.outer([torch.zeros(1, requires_grad=True)])
    plain = MOMENTUM not in algorithm.gives and not algorithm.adds
    return plain and isinstance(outer, SGD) and outer.param_groups[0]["lr"] == 1.0


def _demand_plain(job: Job, optimizer: Optimizer) -> None:
    """Make sure that local steps go along the gradient, with a learning rate and perhaps weight decay.

    Raises:
        SettingsError: If they do not.
    """
    owner = type(job).__name__
    if type(optimizer) is not SGD:
        why = f"{owner}.optimizer() is {type(optimizer).__name__}"
    elif names := [name for name in ("momentum", "maximize") if any(each[name] for each in optimizer.param_groups)]:
        why = f"{owner}.optimizer() has {names[0]}"
    elif job.clip_norm is not None:
        why = f"{owner} has clip_norm"
    elif job.autocast is not None:
        why = f"{owner} has autocast"
    else:
        return
    raise SettingsError(f"influence is measured where local steps are plain SGD, and {why}")

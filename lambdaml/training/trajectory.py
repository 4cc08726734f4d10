"""The mean of a run's models over its last versions: what averaging along the trajectory gives.

Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992); as stochastic weight averaging
Izmailov et al. (arXiv 1803.05407). DS-Sync's later version combines the trajectories of all workers so at the end of a run:
where workers have models of their own, a snapshot is their mean already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import demand_present
from lambdaml.log.retention import snapshots_kept
from lambdaml.log.snapshot import MODEL_PREFIX, State, read_state

if TYPE_CHECKING:
    from torch import Tensor


def trajectory_mean(run: RunReader, since: int) -> State:
    """Return the state of the newest snapshot with the mean over all snapshots from a version on in the place of its model.

    Floating numbers are averaged in double precision, in the order of the versions; all else is that of the newest. The running
    statistics of a normalisation are averaged, too, rather than computed again with the mean parameters.

    Raises:
        SettingsError: If no snapshot of that version or a later one is left.
    """
    import torch

    versions = [keys.number(info.key) for info in snapshots_kept(run.store) if keys.number(info.key) >= since]
    if not versions:
        raise SettingsError(f"this run has no snapshot of version {since} or later")
    sums: dict[str, Tensor] = {}
    for version in versions:
        key = keys.snapshot(version)
        state = demand_present(read_state(run.store, key), key)
        for name, tensor in state.tensors.items():
            if name.startswith(MODEL_PREFIX) and tensor.is_floating_point():
                sums[name] = sums.get(name, torch.zeros_like(tensor, dtype=torch.float64)) + tensor.double()
    means = {name: (total / len(versions)).to(state.tensors[name].dtype) for name, total in sums.items()}
    return State({**state.tensors, **means}, state.meta, state.frozen)

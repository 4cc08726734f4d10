"""Parameters that require no gradient when a run begins, such as those below a LoRA adapter, are written once.

Snapshots leave them out and name their digest. If something changes one of them all the same (a user's own optimizer
may), snapshots hold it from then on, like any other parameter.
"""

from __future__ import annotations

from torch import Tensor, nn

from lambdaml.log.encoding import shown
from lambdaml.log.snapshot import FROZEN_DIGEST, MODEL_PREFIX, State
from lambdaml.training.flat import sum_of_bits


class Frozen:
    """Keeps track of the frozen parameters of one model.

    Buffers are never frozen, and neither is a parameter that requires a gradient when this is made.
    """

    def __init__(self, model: nn.Module) -> None:
        named = model.state_dict(keep_vars=True)
        self._all = {
            MODEL_PREFIX + name: tensor
            for name, tensor in named.items()
            if isinstance(tensor, nn.Parameter) and not tensor.requires_grad
        }
        self._sha256: str | None = None
        self._marks = {name: sum_of_bits(tensor) for name, tensor in self._all.items()}

    def begin(self, state: State) -> None:
        """Note that the model now has the values of this state."""
        self._sha256 = state.meta.get(FROZEN_DIGEST)
        left_out = state.frozen or self._all if FROZEN_DIGEST in state.meta else {}
        self._marks = {name: sum_of_bits(tensor) for name, tensor in left_out.items()}

    def still(self) -> tuple[dict[str, Tensor], str]:
        """Return the frozen parameters that have not changed, and the digest of all of them before any change; "" if
        the model has none."""
        kept = {name: self._all[name] for name, mark in self._marks.items() if sum_of_bits(self._all[name]) == mark}
        found = {name: shown(tensor) for name, tensor in kept.items()}
        if self._sha256 is None:
            self._sha256 = State(found, {}).digest() if found else ""
            self._marks = {name: self._marks[name] for name in kept}
        return found, self._sha256

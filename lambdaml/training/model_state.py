"""Takes the model out of a replica, with its buffers and without what its optimizer remembers, and puts it into another."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lambdaml.log.encoding import shown
from lambdaml.log.snapshot import MODEL_PREFIX, State
from lambdaml.training.buffers import Buffers
from lambdaml.training.frozen import Frozen
from lambdaml.training.jobparts import extra_state


class ModelState:
    """The state of one model.

    Args:
        model: The model.
        buffers: Its buffers.
        frozen: Its parameters that require no gradient.
    """

    def __init__(self, model: nn.Module, buffers: Buffers, frozen: Frozen) -> None:
        self._model, self._buffers, self._frozen = model, buffers, frozen

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Tensor], str]:
        """Return the tensors by their names in a snapshot, the values that are no tensors, and the frozen parameters
        with their digest. Tensors are the model's own where it is on the CPU."""
        tensors, extra = extra_state(self._model)
        frozen, sha256 = self._frozen.still()
        for name, tensor in self._model.state_dict().items():
            if MODEL_PREFIX + name not in tensors and MODEL_PREFIX + name not in frozen and name not in extra:
                tensors[MODEL_PREFIX + name] = shown(tensor)
        return tensors | self._buffers.state(), extra, dict(frozen), sha256

    def alone(self, version: int, entry: str) -> State:
        """Return a copy of the model alone, after the commit with this log entry."""
        tensors, extra, _, _ = self.tensors()
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        meta: dict[str, Any] = {"log_state": {"version": version}, "entry": entry}
        return State(copies, meta | ({"extra": extra} if extra else {}))

    def adopt(self, state: State) -> None:
        """Put a model that was taken alone into this one, whose frozen parameters stay."""
        named = state.model()
        self._buffers.load(state.tensors, named)
        self._model.load_state_dict(named, strict=False)

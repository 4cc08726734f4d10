"""Ray Train's half of the example, in one process: its loop learns, and goes on from its checkpoint."""

import contextlib
import importlib
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module("ray_train")
    torch.set_num_threads(before)
    for name in ("ray_train", "digits"):
        sys.modules.pop(name, None)


class Lost(Exception):
    """A worker of the gang is lost, and so the others stop."""


class OneWorker(types.ModuleType):
    """Stands for `ray.train` and `ray.train.torch` in a gang of one, as far as the loop uses them."""

    def __init__(self, folder: Path, lost_after: int) -> None:
        super().__init__("ray.train")
        self.folder, self.lost_after = folder, lost_after
        self.reports: list[dict[str, float]] = []
        self.Checkpoint = Path
        self.torch = types.ModuleType("ray.train.torch")
        self.torch.__dict__.update(
            prepare_model=lambda model: torch.nn.DataParallel(model, device_ids=[]),
            prepare_data_loader=lambda loader: DataLoader(
                loader.dataset, loader.batch_size, sampler=DistributedSampler(loader.dataset, 1, 0)
            ),
        )

    def get_context(self) -> Any:
        return types.SimpleNamespace(get_world_rank=lambda: 0)

    def get_checkpoint(self) -> Any:
        if not self.folder.exists():
            return None
        return types.SimpleNamespace(as_directory=lambda: contextlib.nullcontext(self.folder))

    def report(self, metrics: dict[str, float], checkpoint: Path) -> None:
        shutil.copytree(checkpoint, self.folder, dirs_exist_ok=True)
        self.reports.append(metrics)
        if len(self.reports) == self.lost_after:
            raise Lost


@pytest.mark.parametrize("lost_after", [0, 2])
def test_the_loop_learns_and_goes_on_from_its_checkpoint(
    example: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost_after: int
) -> None:
    train = OneWorker(tmp_path / "checkpoint", lost_after)
    package = types.ModuleType("ray")
    package.__dict__["train"] = train
    for name, module in {"ray": package, "ray.train": train, "ray.train.torch": train.torch}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(example, "EPOCHS", 4)
    torch.manual_seed(0)
    if lost_after:
        with pytest.raises(Lost):
            example.loop()
        best = train.reports[-1]["accuracy"]
    else:
        best = 0.0
    example.loop()
    assert len(train.reports) == 4  # no epoch twice
    assert train.reports[-1]["accuracy"] >= max(0.9, best)
    assert torch.load(tmp_path / "checkpoint" / "state.pt", weights_only=True)["epoch"] == 3

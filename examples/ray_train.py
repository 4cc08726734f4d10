"""Train the digits on Ray, by Ray Train or by lambdaml: `python ray_train.py [ray-train|lambdaml] STORAGE`.

Ray Train starts a gang of workers when there is room for all, and if one is lost, all start again at a checkpoint that
the loop wrote. lambdaml's functions begin one by one; if one is lost, the others continue.
"""

import sys
import tempfile
from typing import Any

import torch
from digits import Digits
from torch.utils.data import DataLoader

WORKERS, EPOCHS = 4, 10


def loop() -> None:
    import ray.train.torch

    job, first = Digits(), 0
    model: Any = ray.train.torch.prepare_model(job.model())
    optimizer = job.optimizer(model)
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            state = torch.load(f"{folder}/state.pt", weights_only=True)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"] + 1
    batches: Any = ray.train.torch.prepare_data_loader(DataLoader(job.dataset(), job.batch_size, shuffle=True))
    for epoch in range(first, EPOCHS):
        batches.sampler.set_epoch(epoch)
        for batch in batches:
            optimizer.zero_grad()
            job.loss(model, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            torch.save(state, f"{folder}/state.pt")
            mine = None if ray.train.get_context().get_world_rank() else ray.train.Checkpoint(folder)
            ray.train.report(job.evaluate(model.module), checkpoint=mine)


def by_ray_train(storage: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    run = RunConfig(name="digits", storage_path=storage, failure_config=FailureConfig(max_failures=3))
    return TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=WORKERS), run_config=run).fit().metrics


def by_lambdaml(storage: str) -> Any:
    import lambdaml.ray

    return lambdaml.ray.train(Digits, storage, workers=WORKERS, epochs=EPOCHS).metrics


if __name__ == "__main__":
    print({"ray-train": by_ray_train, "lambdaml": by_lambdaml}[sys.argv[1]](sys.argv[2]))

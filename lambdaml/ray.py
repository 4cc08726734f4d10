"""`train` and `resume` for a Ray program or notebook: functions are Ray tasks.

    import ray
    import lambdaml.ray

    ray.init()
    result = lambdaml.ray.train(MyJob, "s3://bucket/run-1", workers=8)

A Ray connection that the program already has is used and left open; without one, see `address`. Jobs may be classes and
instances of a notebook: Ray pickles them, and they never enter the bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lambdaml.job import Job
from lambdaml.storage import Store
from lambdaml.training import driver as training
from lambdaml.training.driver import TrainResult

__all__ = ["TrainResult", "resume", "train"]


def train(
    job: str | type[Job] | Job,
    store: str | Store,
    *,
    address: str = "",
    num_cpus_per_function: float = 1.0,
    num_gpus_per_function: float = 0.0,
    memory_bytes_per_function: float = 0.0,
    resources_per_function: Mapping[str, float] | None = None,
    **options: Any,
) -> TrainResult:
    """Call `lambdaml.train` with `engine="ray"`; `options` are its arguments, such as `workers` and `functions`.

    Args:
        job: The job, as in `lambdaml.train`. It may also be a class or an instance of a notebook.
        store: A store that all nodes can reach: a bucket, `ray://name`, or a folder that they share.
        address: The address of the cluster: `auto` or `host:port`, or `local` to start one. The default is the cluster
            that this process is connected to, else `$RAY_ADDRESS`, else `local`.
        num_cpus_per_function, num_gpus_per_function, memory_bytes_per_function: Resources that Ray sets aside for each
            function.
        resources_per_function: Custom resources that Ray sets aside for each function, by the names that nodes give
            them, as in `ray start --resources='{"fast": 4}'`.
    """
    needs = num_cpus_per_function, num_gpus_per_function, memory_bytes_per_function, resources_per_function
    return training.train(job, store, engine="ray", engine_options=_engine_options(address, *needs), **options)


def resume(
    store: str | Store,
    *,
    address: str = "",
    num_cpus_per_function: float = 1.0,
    num_gpus_per_function: float = 0.0,
    memory_bytes_per_function: float = 0.0,
    resources_per_function: Mapping[str, float] | None = None,
    **options: Any,
) -> TrainResult:
    """Call `lambdaml.resume` with `engine="ray"`. A job that was given as an object must be given again: `job=`."""
    needs = num_cpus_per_function, num_gpus_per_function, memory_bytes_per_function, resources_per_function
    return training.resume(store, engine="ray", engine_options=_engine_options(address, *needs), **options)


def _engine_options(
    address: str, cpus: float, gpus: float, memory_bytes: float, resources: Mapping[str, float] | None
) -> dict[str, Any]:
    """Return the arguments of `lambdaml.engines.ray.RayEngine`."""
    return {"address": address, "cpus": cpus, "gpus": gpus, "memory_bytes": memory_bytes, "resources": resources}

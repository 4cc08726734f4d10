"""`lambdaml train`"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from lambdaml.cli import _options
from lambdaml.errors import UserError

_LENGTH, _WAY, _LIMITS = "How long", "How", "Limits"

Job = Annotated[str, typer.Argument(metavar="JOB", help="What to train: path/file.py:Name or package.module:Name.")]
Store = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The run's own place: ./path, file:///path, s3://bucket/prefix, gs://, az://, moto://, memory://; "
        "by default the next free ./runs/<job>-<n>.",
    ),
]
Args = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="An argument of the job's constructor, in JSON or else text. Repeatable."
    ),
]
Workers = Annotated[int, typer.Option(metavar="N", help="Streams of updates that the data is dealt out to.")]
Seed = Annotated[int, typer.Option(metavar="S", help="Of everything that is random.")]

Steps = Annotated[
    int | None, typer.Option(metavar="N", help="Updates that each worker makes.", rich_help_panel=_LENGTH)
]
Epochs = Annotated[
    float | None,
    typer.Option(
        metavar="E", help="Passes over the data; by default 10, or 1000 with a target.", rich_help_panel=_LENGTH
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC>=X", help="Stop at the first snapshot that meets it: 'accuracy>=0.95'.", rich_help_panel=_LENGTH
    ),
]
Schedule = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Whom a commit waits for: `bsp`, `ssp:S`, `asp`, `quorum:K` or `quorum:K,late=weight`.",
        rich_help_panel=_WAY,
    ),
]
Codec = Annotated[
    str, typer.Option(metavar="NAME", help="How gradients are written: `fp32`, `bf16`.", rich_help_panel=_WAY)
]
StalenessRule = Annotated[
    str,
    typer.Option(metavar="RULE", help="The weight of a stale update: `constant`, `inverse`.", rich_help_panel=_WAY),
]
SnapshotEvery = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Updates of each worker between snapshots, each of which is evaluated; by default an epoch.",
        rich_help_panel=_WAY,
    ),
]
Lease = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="How long a function that fell silent keeps its workers; by default 30.",
        rich_help_panel=_LIMITS,
    ),
]
MaxUpdateNorm = Annotated[
    float | None,
    typer.Option(metavar="X", help="Reject updates with a greater 2-norm.", rich_help_panel=_LIMITS),
]
MaxRejected = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Stop the run after this many rejected updates; by default 10.", rich_help_panel=_LIMITS
    ),
]


def train(
    job: Job,
    store: Store = None,
    args: Args = None,
    workers: Workers = 4,
    steps: Steps = None,
    epochs: Epochs = None,
    target: Target = None,
    schedule: Schedule = "bsp",
    codec: Codec = "fp32",
    staleness: StalenessRule = "constant",
    snapshot_every: SnapshotEvery = None,
    functions: _options.Functions = None,
    engine: _options.Engine = None,
    device: _options.Device = "auto",
    seed: Seed = 0,
    lifetime: _options.Lifetime = None,
    address: _options.Address = None,
    num_cpus_per_function: _options.Cpus = None,
    num_gpus_per_function: _options.Gpus = None,
    lease: Lease = None,
    max_update_norm: MaxUpdateNorm = None,
    max_rejected: MaxRejected = None,
    as_json: _options.Json = False,
) -> int:
    """Train a job with stateless workers that share nothing but a store.

    Ctrl-C stops it so that `lambdaml resume` can go on; nothing is lost.
    """
    arguments = parse_args(args or ())
    limits = {"lease_s": lease, "max_update_norm": max_update_norm, "max_rejected": max_rejected}

    import lambdaml
    from lambdaml.cli._follow import follow
    from lambdaml.training import free_place

    return follow(
        store or free_place(job),
        lambda opened, on_event: lambdaml.train(
            job,
            opened,
            workers=workers,
            schedule=schedule,
            steps=steps,
            epochs=epochs,
            target=target,
            codec=codec,
            staleness=staleness,
            functions=functions,
            engine=engine,
            engine_options=_options.engine_options(address, num_cpus_per_function, num_gpus_per_function),
            device=device,
            seed=seed,
            args=arguments,
            snapshot_every=snapshot_every,
            lifetime_s=float("inf") if lifetime is None else lifetime,
            on_event=on_event,
            **{name: value for name, value in limits.items() if value is not None},
        ),
        as_json=as_json,
    )


def parse_args(pairs: Sequence[str]) -> dict[str, Any]:
    """`["lr=0.1", "name=big"]` as keyword arguments.

    Raises:
        UserError: one of them is not `KEY=VALUE`.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--set {pair}: write KEY=VALUE, for example --set lr=0.1")
        try:
            arguments[name] = json.loads(text)
        except ValueError:
            arguments[name] = text
    return arguments

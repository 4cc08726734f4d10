"""`lambdaml train`"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lambdaml.cli import _caps, _options
from lambdaml.errors import UserError
from lambdaml.log.numerics import Mode
from lambdaml.training.arguments import Text
from lambdaml.training.numerics import prepare

if TYPE_CHECKING:
    from lambdaml.options import RunOptions

_LENGTH, _WAY, _LIMITS = "How long", "How", "Limits"


def _prepare(mode: Mode) -> Mode:
    """While options are read, so before NumPy and torch are loaded."""
    prepare(mode)
    return mode


JobSpec = Annotated[str, typer.Argument(metavar="JOB", help="What to train: path/file.py:Name or package.module:Name.")]
_Store = Annotated[
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
        "--set",
        metavar="KEY=VALUE",
        help="An argument of the job's constructor, read as its annotation or default suggests. Repeatable.",
    ),
]
_Workers = Annotated[int, typer.Option(metavar="N", help="Streams of updates that the data is dealt out to.")]
Seed = Annotated[int, typer.Option(metavar="S", help="Of everything that is random.")]

_Steps = Annotated[
    int | None, typer.Option(metavar="N", help="Updates that each worker makes.", rich_help_panel=_LENGTH)
]
_Epochs = Annotated[
    float | None,
    typer.Option(
        metavar="E", help="Passes over the data; by default 10, or 1000 with a target.", rich_help_panel=_LENGTH
    ),
]
_Target = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC>=X", help="Stop at the first snapshot that meets it: 'accuracy>=0.95'.", rich_help_panel=_LENGTH
    ),
]
_Schedule = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Whom a commit waits for: `bsp`, `ssp:S`, `asp`, `quorum:K` or `quorum:K,late=weight`; `auto` measures the "
        "job and the store, and plans: schedule, up to so many workers, batch and codec, the fastest to the end.",
        rich_help_panel=_WAY,
    ),
]
Replan = Annotated[
    bool,
    typer.Option(
        "--replan",
        help="With `auto`: where reality leaves the plan, plan again at a snapshot, and if that is worth it, go on in "
        "another way: in a run of its own beside this one, with .2 after its name.",
        rich_help_panel=_WAY,
    ),
]
CodecSpec = Annotated[
    str, typer.Option(metavar="NAME", help="How gradients are written: `fp32`, `bf16`.", rich_help_panel=_WAY)
]
StalenessRule = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        help="What becomes of stale updates: `constant`, `inverse`, `polynomial:A`, `discard:R` ...",
        rich_help_panel=_WAY,
    ),
]
_ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="With `auto`: what 'lambdaml profile' wrote, instead of measuring.",
        rich_help_panel=_WAY,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(metavar="N", help="Samples of an update, in place of the job's own.", rich_help_panel=_WAY),
]
SnapshotEvery = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Updates of each worker between snapshots, each of which is evaluated; by default an epoch.",
        rich_help_panel=_WAY,
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN[@VERSION]",
        help="Begin with the weights and the optimizer, learning rate included, of another run: its result, or its "
        "newest snapshot.",
        rich_help_panel=_WAY,
    ),
]
_Numerics = Annotated[
    Mode,
    typer.Option(
        metavar="MODE",
        callback=_prepare,
        help="`reproducible`: the same bits each time, and on each CPU of a class; `fast`: whatever is fastest here.",
        rich_help_panel=_WAY,
    ),
]
_Coherence = Annotated[
    bool,
    typer.Option(
        "--coherence",
        help="Measure with each evaluation the cosine between its gradient and the one before, on 1,000 samples.",
        rich_help_panel=_WAY,
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="all|SIZE",
        help="History that stays for replay and verify, such as 500M; by default 2G or a tenth of the free disk. Older "
        "updates and snapshots are deleted while the run goes on.",
        rich_help_panel=_LIMITS,
    ),
]
_Lease = Annotated[
    float | None,
    typer.Option(
        "--lease",
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
        metavar="N",
        help="Stop when N of the latest 2N updates were rejected; by default 10, or as many as there are workers.",
        rich_help_panel=_LIMITS,
    ),
]


def train(
    context: typer.Context,
    job: JobSpec,
    store: _Store = None,
    args: Args = None,
    workers: _Workers = 4,
    steps: _Steps = None,
    epochs: _Epochs = None,
    target: _Target = None,
    schedule: _Schedule = "bsp",
    profile: _ProfileFile = None,
    replan: Replan = False,
    batch_size: BatchSize = None,
    codec: CodecSpec = "fp32",
    staleness: StalenessRule = "constant",
    snapshot_every: SnapshotEvery = None,
    init_from: From = None,
    coherence: _Coherence = False,
    numerics: _Numerics = "reproducible",
    functions: _options.Functions = None,
    engine: _options.Engine = None,
    device: _options.Device = "auto",
    seed: Seed = 0,
    lifetime_s: _options.Lifetime = None,
    address: _options.Address = None,
    cpus: _options.Cpus = None,
    gpus: _options.Gpus = None,
    memory: _options.Memory = None,
    resources: _options.Resources = None,
    keep: Keep = None,
    lease_s: _Lease = None,
    max_update_norm: MaxUpdateNorm = None,
    max_rejected: MaxRejected = None,
    budget: _caps.Budget = None,
    deadline: _caps.Deadline = None,
    max_requests: _caps.MaxRequests = None,
    platform: _caps.As = None,
    store_as: _caps.StoreAs = None,
    as_json: _options.Json = False,
) -> int:
    """Train a job with stateless workers that share nothing but a store.

    Ctrl-C stops it so that `lambdaml resume` can go on; nothing is lost.
    """
    from lambdaml.options import RunOptions
    from lambdaml.training.asked import free_place

    options = _options.asked(context, RunOptions, args=parse_args(args or ()))
    if schedule != "auto" and (replan or profile is not None):
        raise UserError(f"{'--replan' if replan else '--profile'} goes with --schedule auto")
    with nullcontext(store) if store else free_place(job) as place:
        options = replace(options, cap=_caps.caps(place, budget, deadline, max_requests, platform, store_as))
        if schedule == "auto":
            from lambdaml.cli._auto import train_planned

            return train_planned(job, place, options, profile, replan, as_json)
        return _train(job, place, options, as_json)


def _train(job: str, place: str, options: RunOptions, as_json: bool) -> int:
    import lambdaml
    from lambdaml.cli._follow import follow

    given = options.keywords()
    return follow(
        place, lambda opened, on_event: lambdaml.train(job, opened, **given | {"on_event": on_event}), as_json
    )


def parse_args(pairs: Sequence[str]) -> dict[str, Any]:
    """`["lr=0.1", "name=big"]` as keyword arguments, of which the job's parameters say what they are.

    Raises:
        UserError: one of them is not `KEY=VALUE`.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--set {pair}: write KEY=VALUE, for example --set lr=0.1")
        arguments[name] = Text(text)
    return arguments

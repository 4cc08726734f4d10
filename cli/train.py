"""The verb `lambdaml train`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lambdaml.cli import _caps, _options
from lambdaml.errors import UserError
from lambdaml.log.numerics import Mode
from lambdaml.settings import RECOVER_S
from lambdaml.training.arguments import Text
from lambdaml.training.numerics import prepare

if TYPE_CHECKING:
    from lambdaml.engines.caps import Cap
    from lambdaml.options import RunOptions

_LENGTH, _WAY, _LIMITS = "How long to train", "How to train", "Limits"


def _prepare(mode: Mode) -> Mode:
    """Set up the numerics while options are read, which is before NumPy and torch are loaded."""
    prepare(mode)
    return mode


JobSpec = Annotated[str, typer.Argument(metavar="JOB", help="The job: path/file.py:Name or package.module:Name.")]
_Store = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The run's own path or URL: ./path, file:///path, s3://bucket/prefix, gs://, az://, "
        "moto://, memory://; by default the next free ./runs/<job>-<n>.",
    ),
]
Args = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="An argument of the job's constructor, read as the type that its annotation or default suggests. "
        "Repeatable.",
    ),
]
_Workers = Annotated[
    int, typer.Option(metavar="N", help="The number of workers: streams of updates that share the data.")
]
Seed = Annotated[int, typer.Option(metavar="S", help="The seed of everything that is random.")]

_Steps = Annotated[
    int | None, typer.Option(metavar="N", help="The number of updates that each worker makes.", rich_help_panel=_LENGTH)
]
_Epochs = Annotated[
    float | None,
    typer.Option(
        metavar="E",
        help="The number of passes over the data; by default 10, or 1000 with a target.",
        rich_help_panel=_LENGTH,
    ),
]
_Target = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC>=X",
        help="Stop at the first snapshot that meets this target: 'accuracy>=0.95'.",
        rich_help_panel=_LENGTH,
    ),
]
_Patience = Annotated[
    int | None,
    typer.Option(
        "--patience",
        min=1,
        metavar="N",
        help="Stop when N evaluations in a row bring no better value of the target's metric, or of the first one that the "
        "job reports.",
        rich_help_panel=_LENGTH,
    ),
]
_Schedule = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The rule that decides which updates a commit waits for: `bsp`, `cohort:K` (K of the workers "
        "take part in each round), `pipeline:D`, `groups:G` (workers average models of their own in groups of G), `ssp:S`, `asp`, `quorum:K` or `quorum:K,late=weight`. `auto` measures the job and the store, and plans the schedule, the number of workers (up "
        "to --workers), the batch size and the codec that finish soonest.",
        rich_help_panel=_WAY,
    ),
]
Replan = Annotated[
    bool,
    typer.Option(
        "--replan",
        help="With `auto`: if the run departs from its plan, plan again at a snapshot. If a better plan pays, it "
        "continues in "
        "a run of its own beside this one, with .2 after its name.",
        rich_help_panel=_WAY,
    ),
]
AlgorithmSpec = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What a worker computes: `gradient`, `presum:G` for the sum of the gradients of G batches, `local:H` for H "
        "local steps, `admm:RHO` for consensus ADMM, or `statistics` for a job that has sums and no gradient, such as "
        "`lambdaml.jobs:KMeans`. With `local:20,outer=nesterov` the mean displacement is taken with Nesterov's momentum (DiLoCo), "
        "with `local:epochs=1` workers average their models after each pass (FedAvg).",
        rich_help_panel=_WAY,
    ),
]
CodecSpec = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The codec that updates are written with: `fp32`, `bf16`, `topk:0.01` for the largest hundredth of the "
        "numbers, `sparse` for 0.16 bit a parameter ...",
        rich_help_panel=_WAY,
    ),
]
FeedbackShare = Annotated[
    float | None,
    typer.Option(
        "--error-feedback",
        min=0.0,
        max=1.0,
        metavar="X",
        help="The share of what earlier updates did not carry that goes into a worker's next one; by default 1 for "
        "codecs that leave out numbers, and otherwise 0.",
        rich_help_panel=_WAY,
    ),
]
StalenessRule = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        help="The rule for stale updates: `constant`, `inverse`, `polynomial:A`, `discard:R` ...",
        rich_help_panel=_WAY,
    ),
]
_Aggregate = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="How the updates of a step become one: `mean`, or, so that some workers may send anything, `median`, `trimmed:0.1` (the "
        "mean without the least and the greatest tenth), `clip-median-norm` or `krum:F` (F such workers).",
        rich_help_panel=_WAY,
    ),
]
_Tune = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What turns the threshold of the codec `significant:V`, the pace of a codec's warm-up, or the H of `local:H` while the run "
        "goes on: `skewscout`, or `skewscout:every=25,loss=0.03`. It goes with `--schedule bsp`.",
        rich_help_panel=_WAY,
    ),
]
PatternSpec = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="How the bytes of updates reach every function: `gather` (each reads all), `scatter` (each adds up a slice), "
        "`tree:K` (each of K updates are added up by one, and so on) or `fold` (one adds up all).",
        rich_help_panel=_WAY,
    ),
]
_Pattern = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="How the bytes of updates reach every function: `gather` (each reads all), `scatter` (each adds up a slice), "
        "`tree:K` (each of K updates are added up by one, and so on) or `fold` (one adds up all). `auto` measures the job "
        "and the store for some seconds, and takes the one with the quickest rounds.",
        rich_help_panel=_WAY,
    ),
]
BracketSpec = Annotated[
    str | None,
    typer.Option(
        metavar="G",
        help="The bracket of a step's sum: `flat`, or groups of `G` workers, or of such groups (`G^2` ...). By default "
        "it is the one that the pattern adds up in.",
        rich_help_panel=_WAY,
    ),
]
PartitionSpec = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How samples are dealt to the workers: `iid` (anew each epoch), or so that each has an owner: `sorted`, `skew:P`, "
        "`dirichlet:A`, `shards:K`, `by:FIELD`, or `job` for the job's own. By default `job` if the job has "
        "`partition(workers)`, and otherwise `iid`.",
        rich_help_panel=_WAY,
    ),
]
ExtraName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What to measure beside each update, in an object of its own: `per-sample:N`, the gradients of N of the worker's "
        "samples before each local step, or `per-sample:N,codec=bf16`. All history is kept then.",
        rich_help_panel=_WAY,
    ),
]
_ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="With `auto`: the file that `lambdaml profile` wrote, so that nothing is measured first.",
        rich_help_panel=_WAY,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="The number of samples in an update; by default the job's own.", rich_help_panel=_WAY
    ),
]
SnapshotEvery = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="The number of updates of each worker between two snapshots; by default an epoch. Each snapshot is "
        "evaluated.",
        rich_help_panel=_WAY,
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN[@VERSION]",
        help="Begin with the weights and the optimizer, learning rate included, of another run. They are those of its "
        "result "
        "or, if it has none, of its newest snapshot; @VERSION chooses another one.",
        rich_help_panel=_WAY,
    ),
]
_Numerics = Annotated[
    Mode,
    typer.Option(
        metavar="MODE",
        callback=_prepare,
        help="The numerics: `reproducible` gives the same bits each time, and on every CPU of a class; `fast` is "
        "whatever is "
        "fastest here.",
        rich_help_panel=_WAY,
    ),
]
_Coherence = Annotated[
    bool,
    typer.Option(
        "--coherence",
        help="At each evaluation, measure the cosine between its gradient and that of the evaluation before, on 1,000 "
        "samples.",
        rich_help_panel=_WAY,
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="all|ROUNDS|SIZE",
        help="How much history to keep for replay and verify: `all`, a number of rounds such as 16 (a round is one "
        "update of each worker), or a size with its unit, such as 500M; by default 2G or, if it is less, a tenth of "
        "the free disk. Older updates and snapshots are deleted while the run goes on.",
        rich_help_panel=_LIMITS,
    ),
]
_Lease = Annotated[
    float | None,
    typer.Option(
        "--lease",
        metavar="SECONDS",
        help="How long a silent function keeps its workers; by default 30.",
        rich_help_panel=_LIMITS,
    ),
]
MaxUpdateNorm = Annotated[
    float | None,
    typer.Option(metavar="X", help="Reject updates whose 2-norm is greater than this.", rich_help_panel=_LIMITS),
]
Recover = Annotated[
    float,
    typer.Option(
        "--recover",
        min=0.001,
        metavar="SECONDS",
        help="Write a worker's memory when computing it again after a crash would take longer than this.",
        rich_help_panel=_LIMITS,
    ),
]
Announce = Annotated[
    float | None,
    typer.Option(
        "--announce",
        metavar="SECONDS",
        help="With `ssp:S`: announce the update after one whose upload took longer, and start nothing while one is announced.",
        rich_help_panel=_LIMITS,
    ),
]
_LostMemory = Annotated[
    str,
    typer.Option(
        metavar="stop|reset",
        help="What to do when a worker's memory cannot be recovered: `stop` the run, or `reset` that memory.",
        rich_help_panel=_LIMITS,
    ),
]
MaxRejected = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Stop when N of the latest 2N updates were rejected; by default 10, or the number of workers if that is "
        "larger.",
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
    patience_evaluations: _Patience = None,
    schedule: _Schedule = "bsp",
    profile: _ProfileFile = None,
    replan: Replan = False,
    batch_size: BatchSize = None,
    algorithm: AlgorithmSpec = "gradient",
    codec: CodecSpec = "fp32",
    error_feedback: FeedbackShare = None,
    staleness: StalenessRule = "constant",
    aggregate: _Aggregate = "mean",
    tune: _Tune = None,
    pattern: _Pattern = "gather",
    bracket: BracketSpec = None,
    partition: PartitionSpec = None,
    extra: ExtraName = None,
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
    function: _options.LambdaFunction = None,
    function_memory: _options.LambdaMemory = None,
    region: _options.Region = None,
    endpoint_url: _options.EndpointURL = None,
    keep: Keep = None,
    lease_s: _Lease = None,
    max_update_norm: MaxUpdateNorm = None,
    max_rejected: MaxRejected = None,
    recover_s: Recover = RECOVER_S,
    announce_s: Announce = None,
    lost_memory: _LostMemory = "stop",
    budget: _caps.Budget = None,
    deadline: _caps.Deadline = None,
    max_requests: _caps.MaxRequests = None,
    platform: _caps.As = None,
    store_as: _caps.StoreAs = None,
    as_json: _options.Json = False,
) -> int:
    """Train a job with stateless workers that share nothing but a store.

    Ctrl-C stops the run so that `lambdaml resume` can continue it; nothing is lost.
    """
    with _place(store, job) as place:
        cap = _caps.caps(place, budget, deadline, max_requests, platform, store_as)
        return _train(job, place, _asked(context, args, cap), profile, replan, as_json)


def _asked(context: typer.Context, args: list[str] | None, cap: Cap | None) -> RunOptions:
    """Return the options that were given."""
    from lambdaml.options import RunOptions

    return _options.asked(context, RunOptions, args=parse_args(args or ()), cap=cap)


def _place(store: str | None, job: str) -> AbstractContextManager[str]:
    """Return the place of the run as a context: what was asked for, or the next free one, which is reserved."""
    from lambdaml.training.asked import free_place

    return nullcontext(store) if store else free_place(job)


def _demand_plan(schedule: str, replan: bool, profile: Path | None) -> None:
    if schedule != "auto" and (replan or profile is not None):
        raise UserError(f"{'--replan' if replan else '--profile'} goes with --schedule auto")


def _train(job: str, place: str, options: RunOptions, profile: Path | None, replan: bool, as_json: bool) -> int:
    _demand_plan(options.schedule, replan, profile)
    if options.schedule == "auto":
        for given, option, what in (
            (options.partition not in (None, "iid"), "--partition", "data that is dealt anew each epoch"),
            (options.aggregate != "mean", "--aggregate", "the mean of updates"),
            (options.extra is not None, "--extra", "updates alone"),
            (options.tune is not None, "--tune", "a codec that stays as it is"),
        ):
            if given:
                raise UserError(f"--schedule auto plans for {what}: name a schedule with {option}")
        from lambdaml.cli._auto import train_planned

        return train_planned(job, place, options, profile, replan, as_json)
    import lambdaml
    from lambdaml.cli._follow import follow

    if options.pattern == "auto":
        from lambdaml.cli._pattern import chosen_pattern

        options = replace(options, pattern=chosen_pattern(job, place, options))
    asked = options.keywords()
    return follow(
        place, lambda opened, on_event: lambdaml.train(job, opened, **asked | {"on_event": on_event}), as_json
    )


def parse_args(pairs: Sequence[str]) -> dict[str, Any]:
    """Split texts such as `["lr=0.1", "name=big"]` into keyword arguments; the job's parameters decide their types.

    Raises:
        UserError: If one of them is not `KEY=VALUE`.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--set {pair}: write KEY=VALUE, for example --set lr=0.1")
        arguments[name] = Text(text)
    return arguments

"""The verb `lambdaml plan`."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lambdaml.cli import _format, _options
from lambdaml.cli._caps import seconds
from lambdaml.cli._interrupt import interruptible
from lambdaml.cli._measured import measured
from lambdaml.cli._progress import Share
from lambdaml.cli._stdout import results
from lambdaml.cli.train import Args, ExtraName, SnapshotEvery, parse_args
from lambdaml.errors import UserError

if TYPE_CHECKING:
    from lambdaml import Plan, Profile, SearchSpace
    from lambdaml.cost.billing.prices import PriceBook
    from lambdaml.cost.planning.command import HowTo
    from lambdaml.cost.planning.estimate import Estimate

_objective = partial(typer.Option, rich_help_panel="Objective")
_space = partial(typer.Option, rich_help_panel="Search space")
_output = partial(typer.Option, rich_help_panel="Output")

INFEASIBLE = 3
"""The exit status when no candidate keeps the deadline and the budget."""

_Job = Annotated[
    str | None,
    typer.Argument(
        metavar="[JOB]",
        help="The job to plan for. It is measured first; use --profile to give its measurements instead.",
    ),
]
_ProfileFile = Annotated[
    Path | None, typer.Option("--profile", metavar="FILE", help="The file that `lambdaml profile --target` wrote.")
]
_Target = Annotated[
    str | None, _objective(metavar="METRIC>=X", help="The target, such as `accuracy>=0.95`; by default the profile's.")
]
_Epochs = Annotated[
    float | None, _objective(metavar="E", help="The number of passes over the data, in place of a target.")
]
_Deadline = Annotated[
    str | None,
    _objective(metavar="TIME", help="The time that nine of ten runs must keep within: `90s`, `30m`, `1h30m`."),
]
_Budget = Annotated[
    str | None, _objective(metavar="USD", help="The dollars that nine of ten runs must keep within: `2.50`.")
]
Minimise = Annotated[
    str, _objective(metavar="WHAT", help="What to minimise: `cost`, `time`, or `balanced`, which is their product.")
]
_Workers = Annotated[
    str | None,
    _space(
        metavar="A..B",
        help="The smallest and the largest number of workers to consider; by default `1..64`, or the number of functions "
        "in --regions.",
    ),
]
Platforms = Annotated[
    list[str] | None,
    _space(
        "--platform",
        metavar="NAME",
        help="A platform to consider: `lambda-arm`, `lambda-x86`, `spot` or `local`, optionally with its memory "
        "in MB: `lambda-arm:1769`; or one without an engine: `durable`, `microvm`, `managed`, `fargate`, `batch-spot`, "
        "`cloud-run`. Repeatable.",
    ),
]
Channels = Annotated[
    list[str] | None,
    _space(
        "--channel",
        metavar="NAME",
        help="A store to consider: `s3-standard`, `s3-express`, `disk`, `40ms`, or `measured`, which is the store of "
        "the "
        "profile. By default the profile's store, or else `disk` on `local` and `s3-standard` elsewhere. Repeatable.",
    ),
]
Schedules = Annotated[
    list[str] | None,
    _space("--schedule", metavar="NAME", help="A schedule to consider; by default all of them. Repeatable."),
]
_Algorithms = Annotated[
    list[str] | None,
    _space(
        "--algorithm",
        metavar="NAME",
        help="An algorithm to consider, such as `local:20,outer=nesterov`; by default `gradient` alone. Repeatable.",
    ),
]
_Batches = Annotated[
    list[int] | None,
    _space(
        "--batch-size",
        metavar="N",
        help="A batch size to consider; by default the job's own and twice that. Repeatable.",
    ),
]
Codecs = Annotated[
    list[str] | None,
    _space(
        "--codec",
        metavar="NAME",
        help="A codec to consider; by default those of the profile with which pilots reached the target, and those that "
        "leave nothing out. Repeatable.",
    ),
]
_Patterns = Annotated[
    list[str] | None,
    _space(
        "--pattern",
        metavar="NAME",
        help="A pattern to consider, such as `tree:8`; by default `gather`, and what is markedly quicker by formula. "
        "Repeatable.",
    ),
]
_Stragglers = Annotated[
    str, _objective(metavar="MODEL", help="The model of slow functions, as in `lambdaml simulate`: `lognormal:0.3`.")
]
_Region = Annotated[
    str | None,
    _space(
        "--region",
        metavar="REGION",
        help="Ask AWS how many Lambda functions your account may run at a time in this region, and consider no more workers. "
        "Nothing is asked otherwise.",
    ),
]
_Endpoint = Annotated[
    str | None,
    _space("--endpoint-url", metavar="URL", help="Ask this server, which speaks Lambda's API, in place of AWS."),
]
_Prices = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="A file of prices, which replace the packaged ones and your own. Repeatable."),
]
Html = Annotated[Path | None, _output("--html", metavar="FILE", help="Write a page with a chart to this file.")]
_Csv = Annotated[bool, _output("--csv", help="Print all candidates as CSV.")]
All = Annotated[bool, _output("--all", help="Show all candidates, not only the best.")]

_SHOWN = 12


def plan(
    job: _Job = None,
    profile: _ProfileFile = None,
    target: _Target = None,
    epochs: _Epochs = None,
    deadline: _Deadline = None,
    budget: _Budget = None,
    minimise: Minimise = "balanced",
    workers: _Workers = None,
    platform: Platforms = None,
    channel: Channels = None,
    schedule: Schedules = None,
    algorithm: _Algorithms = None,
    batch_size: _Batches = None,
    codec: Codecs = None,
    pattern: _Patterns = None,
    extra: ExtraName = None,
    snapshot_every: SnapshotEvery = None,
    region: _Region = None,
    endpoint_url: _Endpoint = None,
    stragglers: _Stragglers = "none",
    regions: _options.Regions = None,
    bucket_region: _options.BucketRegion = None,
    slow_link: _options.SlowLink = None,
    args: Args = None,
    prices: _Prices = None,
    html: Html = None,
    as_csv: _Csv = False,
    everything: All = False,
    as_json: _options.Json = False,
) -> int:
    """Say what a run would cost and how long it would take, for every way to run it, and which way to choose.

    The exit status is 3 if no candidate keeps the deadline and the budget; the nearest one is shown with the reason.
    """
    limits = _limits(minimise, deadline, budget)
    limits |= {"regions": regions, "bucket_region": bucket_region, "slow_link": slow_link}
    import lambdaml

    space = lambdaml.SearchSpace(
        workers=_workers(workers, regions),
        schedules=tuple(schedule or ()),
        batch_sizes=tuple(batch_size or ()),
        codecs=tuple(codec or ()),
        channels=tuple(channel or ()),
        platforms=tuple(platform or ("lambda-arm",)),
        algorithms=tuple(algorithm or ()),
        patterns=tuple(pattern or ()),
    )
    space, room = _within_room(_measuring(space, extra), region, endpoint_url)
    known, book = _profile(job, profile, args, None if epochs else target, space), lambdaml.prices(*(prices or ()))
    with Share("planning") as share, interruptible(share.stop, share.close):
        found = lambdaml.plan(
            known,
            target=None if epochs else target,
            epochs=epochs,
            **limits,
            space=space,
            stragglers=stragglers,
            snapshot_every=snapshot_every,
            prices=book,
            progress=share,
        )
    return _show(found, _how(found, extra, book, room), html, as_csv, everything, as_json)


def _limits(minimise: str, deadline: str | None, budget: str | None) -> dict[str, Any]:
    """Return the quantity to minimise, and the limits within which it is to be."""
    if minimise not in ("cost", "time", "balanced"):
        raise UserError(f"--minimise {minimise}: choose cost, time or balanced")
    deadline_s = math.inf if deadline is None else seconds(deadline)
    budget_usd = math.inf if budget is None else parse_usd(budget)
    return {"minimise": minimise, "deadline_s": deadline_s, "budget_usd": budget_usd}


def _workers(workers: str | None, regions: str | None) -> tuple[int, int]:
    """Return the range of workers. In regions each has a function."""
    if workers is None and regions is not None:
        from lambdaml.simulation.regions import dealt

        return (len(dealt(regions)),) * 2
    return parse_range(workers or "1..64")


def _measuring(space: SearchSpace, extra: str | None) -> SearchSpace:
    """Return those candidates with which this can be measured."""
    from lambdaml.cost.planning.extras import space_for_extra

    return space if extra is None else space_for_extra(space, extra)


def _within_room(space: SearchSpace, region: str | None, endpoint_url: str | None) -> tuple[SearchSpace, str | None]:
    """Return those candidates for which the account has room, if that is to be asked and all are for Lambda, and a
    sentence about it if any is."""
    on_lambda = [name.startswith("lambda-") for name in space.platforms]
    if not any(on_lambda):
        return space, None
    what = "how many Lambda functions the account may run at a time"
    assumed = "the plan assumes enough for all candidates"
    if region is None and endpoint_url is None:
        return space, f"{what} was not asked ({assumed}); --region REGION asks AWS"
    from lambdaml.deploy.aws import Account

    try:
        account = Account(region, endpoint_url)
        room = account.room()
    except UserError as error:
        return space, f"{what} is not known ({assumed}): {error}"
    least, most = space.workers
    if all(on_lambda):
        space = replace(space, workers=(least, max(least, min(most, room))))
    said = f"the account may run {room:,} Lambda functions at a time in {account.region}"
    return space, f"{said}, which all of its functions share"


def _how(found: Plan, extra: str | None, book: PriceBook, room: str | None) -> HowTo:
    """Return the command for the plan's choice with remarks, the price of what is to be measured among them."""
    from lambdaml.cost.planning.command import how_to_run
    from lambdaml.cost.planning.extras import extra_price

    how, priced = how_to_run(found), ""
    if extra is not None and found.nearest is not None:
        price = extra_price(extra, found.candidates[found.nearest], found.profile, book)
        priced = (
            f"with --extra {extra} the run also has {price.objects:,} objects of {_format.size(price.object_bytes)} and {_format.duration(price.update_s)} "
            f"of compute beside each update: {_format.usd(price.compute_usd)} for compute, {_format.usd(price.requests_usd)} "
            f"for requests, and {_format.usd(price.month_usd)} for each month in which these {_format.size(price.size_bytes)} are kept"
        )
        if how.command is not None:
            how = replace(how, command=f"{how.command} --extra {extra}")
    return replace(how, remarks=(*how.remarks, *filter(None, (room, priced))))


def _show(found: Plan, how: HowTo, html: Path | None, as_csv: bool, everything: bool, as_json: bool) -> int:
    if html is not None:
        from lambdaml.cost.planning.page import plan_page

        try:
            html.write_text(plan_page(found, f"Plan for {found.profile.job.spec.rpartition('/')[2]}", how))
        except OSError as error:
            raise UserError(f"cannot write {html}: {error.strerror}") from error
    if as_json:
        _format.print_json({**found.to_dict(), **how.to_dict()})
    elif as_csv:
        _print_csv(found)
    else:
        _print(found, how, everything)
    return 0 if found.chosen is not None else INFEASIBLE


def _profile(
    job: str | None, file: Path | None, args: list[str] | None, target: str | None, space: SearchSpace
) -> Profile:
    from lambdaml import Profile

    if (job is None) == (file is None):
        raise UserError("give a job to profile, or --profile FILE")
    if file is not None:
        return Profile.load(file)
    assert job is not None
    given: dict[str, Any] = {"args": parse_args(args or ()), "target": target, "workers": space.workers[1]}
    return measured(job, algorithms=space.algorithm_names, codecs=space.codecs, seconds=20.0, **given)


def _print(found: Plan, how: HowTo, everything: bool) -> None:
    from lambdaml.cost.planning.explain import idleness

    shown = list(enumerate(found.candidates)) if everything else _worth_showing(found)
    headings = ["", "place", "schedule", "workers", "functions", "batch", "codec", "platform", "store"]
    headings += ["steps", "staleness", "time", "9 of 10", "cost", "9 of 10", "requests"]
    rows = [[_mark(found, place), f"{place + 1}", *_cells(estimate)] for place, estimate in shown]
    _format.print_table(headings, rows, left=["", "schedule", "codec", "platform", "store"], keys=2)
    for place, estimate in shown:
        if estimate.obstacle:
            _format.print_text(f"{place + 1}: {estimate.obstacle}", "  ")
    print(
        f"\n{len(found.candidates)} candidates, {len(found.frontier)} on the frontier (*), in {found.seconds:.1f} s\n"
    )
    _format.print_text(f"{found.reason[0].upper()}{found.reason[1:]}.")
    if found.chosen is not None:
        waits = idleness(found.candidates[found.chosen])
        _format.print_text(f"{waits[0].upper()}{waits[1:]}.")
        if pairs := found.candidates[found.chosen].transfer_usd:
            paid = ", ".join(f"{pair} {_format.usd(usd)}" for pair, usd in pairs.items())
            _format.print_text(f"Transfers between regions, to the one bucket: {paid}.")
    for sentence in found.explanations:
        _format.print_text(sentence, "  ")
    if found.crossover is not None:
        print()
        _format.print_text(f"{found.crossover}.")
    _print_alternatives(found)
    if how.command is not None:
        print("\nTo run it:")
        _format.print_command(how.command)
    for remark in how.remarks:
        print()
        _format.print_text(f"{remark[0].upper()}{remark[1:]}.")
    marks = {mark: sum(a.mark == mark for a in found.assumptions) for mark in ("measured", "given", "assumed")}
    print("\nRests on " + ", ".join(f"{count} {mark}" for mark, count in marks.items() if count) + " numbers:")
    rows = [[a.what, f"{a.value} {a.unit}".strip(), a.mark] for a in found.assumptions]
    _format.print_table(["what", "value", ""], rows, left=["what", "value", ""])


def _print_alternatives(found: Plan) -> None:
    rows = [
        [
            one.platform.spec,
            f"{one.platform.cold_start_s[0]:g} s",
            one.life,
            one.billed_by,
            _format.duration(one.estimate.seconds) if not one.estimate.obstacle else "never",
            _format.usd(one.estimate.usd) if not one.estimate.obstacle else "",
            one.engine or "none",
        ]
        for one in found.elsewhere
    ]
    if rows:
        place = (found.nearest or 0) + 1
        print(f"\nCandidate {place} on each platform, roughly, and the engine that runs it there:")
        headings = ["platform", "start", "life", "billed by", "time", "cost", "engine"]
        _format.print_table(headings, rows, left=["platform", "billed by", "engine"])


def _worth_showing(found: Plan) -> list[tuple[int, Estimate]]:
    places = sorted({*range(min(_SHOWN, len(found.candidates))), *found.frontier})
    return [(place, found.candidates[place]) for place in places]


def _mark(found: Plan, place: int) -> str:
    return "✔" if place == found.chosen else "*" if place in found.frontier else ""


def _cells(estimate: Estimate) -> list[str]:
    candidate = estimate.candidate
    schedule = ", ".join(
        [
            candidate.schedule,
            *(str(candidate.to_dict()[name]) for name in ("algorithm", "pattern") if name in candidate.to_dict()),
        ]
    )
    chosen = [schedule, f"{candidate.workers}", f"{estimate.functions or ''}", f"{candidate.batch_size}"]
    chosen += [candidate.codec, candidate.platform.spec, candidate.channel.name]
    if estimate.obstacle:
        return [*chosen, "", f"{estimate.staleness:.1f}", "never", "", "", "", ""]
    return [
        *chosen,
        f"{estimate.steps:,}",
        f"{estimate.staleness:.1f}",
        _format.duration(estimate.seconds),
        _format.duration(estimate.p90_seconds),
        _format.usd(estimate.usd),
        _format.usd(estimate.p90_usd),
        f"{estimate.requests:,}",
    ]


def _print_csv(found: Plan) -> None:
    rows: list[dict[str, Any]] = []
    named = {name for estimate in found.candidates for name in estimate.candidate.to_dict()}
    for place, estimate in enumerate(found.candidates):
        row = {key: value for key, value in estimate.to_dict().items() if key not in ("parts_usd", "transfer_usd")}
        usual = {name: value for name, value in estimate.candidate.values().items() if name in named}
        rows.append({"chosen": place == found.chosen, "frontier": place in found.frontier, **row, **usual})
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(results(), names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    results().flush()


def parse_range(text: str) -> tuple[int, int]:
    """Read a range such as `1..64`, or one number for both ends."""
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2] or match[1]):
        raise UserError(f"--workers {text}: write LEAST..MOST, such as 1..64")
    return int(match[1]), int(match[2] or match[1])


def parse_usd(text: str) -> float:
    """Read an amount of US dollars, written as `2.50` or `$2.50`."""
    try:
        value = float(text.removeprefix("$"))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"{text!r} is no sum of money: write 2.50 or $2.50")
    return value

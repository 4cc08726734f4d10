"""The verb `lambdaml simulate`."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lambdaml.cli import _format, _options
from lambdaml.cli._interrupt import interruptible
from lambdaml.cli._progress import Share
from lambdaml.cli._simulated import dollars, print_result, print_sweep, transfers
from lambdaml.cli.train import (
    AlgorithmSpec,
    Announce,
    Args,
    BracketSpec,
    CodecSpec,
    FeedbackShare,
    PartitionSpec,
    PatternSpec,
    Recover,
    Seed,
    StalenessRule,
    parse_args,
)
from lambdaml.errors import UserError, nearest
from lambdaml.settings import RECOVER_S

if TYPE_CHECKING:
    from lambdaml.cost.billing.tariff import Bill
    from lambdaml.simulation import SimulationResult
    from lambdaml.simulation.stub_replica import Costs
    from lambdaml.traces import Trace

_PLACE, _LENGTH, _INSTEAD = "Where to run", "How long to run", "In place of one run"

_Job = Annotated[
    str | None,
    typer.Argument(
        metavar="[JOB]",
        help="The job, as in `train`. Its step time and sizes are measured here for some seconds. Without a job they "
        "are "
        "assumed: 0.1 s for a gradient, a million parameters.",
    ),
]
_ProfileFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Take the step time and the sizes from this JSON file: one that `profile` wrote or `simulate --json` "
        "printed, "
        "or an object with `step_s` and `update_bytes`, and optionally `encode_s`, `apply_s`, `apply_update_s` and "
        "`snapshot_bytes`.",
    ),
]
_Workers = Annotated[int, typer.Option(metavar="N", help="The number of workers: streams of updates.")]
_Functions = Annotated[
    int | None,
    typer.Option(metavar="F", help="The number of functions that share the workers; by default one for each worker."),
]
_Schedule = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The schedule, as in `train`; by default `bsp`, or with --faults the one that the seed draws.",
    ),
]
Updates = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="U",
        help="The number of updates in all, unless --steps is given; by default 2,000, or 50 for each worker if that "
        "is more.",
        rich_help_panel=_LENGTH,
    ),
]
_Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="The number of updates of each worker; with `quorum`, the number of commits.",
        rich_help_panel=_LENGTH,
    ),
]
_Channel = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The store to model: `s3-standard`, `s3-express`, `redis`, `disk`, `lambdaml-s3`, `lambdaml-elasticache`, "
        "`fmi-s3`, `fmi-redis`, or a time such as `40ms`. Options may follow, as in "
        "`40ms:bandwidth=40MB/s,writes_per_s=350`; `reads_per_s` is the other one.",
        rich_help_panel=_PLACE,
    ),
]
_Platform = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The platform that runs the functions: `lambda-arm`, `lambda-x86`, `lambdaml-2021`, `durable`, `microvm`, "
        "`fargate`, `cloud-run` (`:MEMORY_MB` may follow), `spot`, `managed`, `batch-spot`, `local`.",
        rich_help_panel=_PLACE,
    ),
]
_Stragglers = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="The model of slow functions: `none`, `lognormal:SIGMA`, `pareto:ALPHA`, `slow:FUNCTION,FACTOR`, "
        "`spread:SIGMA`.",
        rich_help_panel=_PLACE,
    ),
]
Real = Annotated[bool, typer.Option("--real", help="Compute the job's real gradients, but model their times.")]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Simulate every request. This is the default up to 32 functions; beyond that a closed form is used.",
    ),
]
ToTrace = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE", help="Write the trace to this Parquet file; for exact simulations only."),
]
Sweep = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Simulate several schedules and print a line for each: 'bsp asp ssp:3 quorum:6,late=weight', separated by "
        "spaces or commas.",
        rich_help_panel=_INSTEAD,
    ),
]
Faults = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="SEED",
        help="Play the fault schedule of this seed, which is a small run of its own, print its events, and say whether "
        "every "
        "promise held. Only --schedule, --import and --json may be given with it.",
        rich_help_panel=_INSTEAD,
    ),
]
Import = Annotated[
    str | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        help="Import this module or path/file.py first, so that it can register your schedule.",
    ),
]


def simulate(
    context: typer.Context,
    job: _Job = None,
    profile: _ProfileFile = None,
    args: Args = None,
    workers: _Workers = 8,
    functions: _Functions = None,
    schedule: _Schedule = None,
    algorithm: AlgorithmSpec = "gradient",
    codec: CodecSpec = "fp32",
    error_feedback: FeedbackShare = None,
    staleness: StalenessRule = "constant",
    pattern: PatternSpec = "gather",
    bracket: BracketSpec = None,
    partition: PartitionSpec = None,
    recover_s: Recover = RECOVER_S,
    announce_s: Announce = None,
    updates: Updates = None,
    steps: _Steps = None,
    channel: _Channel = "s3-standard",
    platform: _Platform = "lambda-arm",
    stragglers: _Stragglers = "none",
    regions: _options.Regions = None,
    bucket_region: _options.BucketRegion = None,
    slow_link: _options.SlowLink = None,
    real: Real = False,
    exact: Exact = False,
    seed: Seed = 0,
    to_trace: ToTrace = None,
    sweep: Sweep = None,
    faults: Faults = None,
    module: Import = None,
    as_json: _options.Json = False,
) -> int:
    """Say how long a run would take and what it would cost, by running its protocol under a virtual clock.

    Nothing is trained, started or paid for. Times and dollars are modelled.
    """
    if module is not None:
        _import(module)
    if faults is not None:
        _refuse(context, "--faults", lambda name: name not in ("faults", "schedule", "module", "as_json"))
        from lambdaml.cli._faults import play_seed

        return play_seed(faults, schedule, as_json=as_json)
    if sweep is not None:
        _refuse(context, "--sweep", lambda name: name in ("schedule", "to_trace"))
    costs, write = None if profile is None else _read_profile(profile, codec, algorithm), _writer(to_trace)
    names = "workers functions updates steps channel platform stragglers algorithm codec error_feedback".split()
    names += "regions bucket_region slow_link".split()
    names += "staleness pattern bracket partition recover_s announce_s seed real".split()
    asked: dict[str, Any] = {name: context.params[name] for name in names}
    asked |= {"exact": exact or None, "args": parse_args(args or ()), "trace": write}
    origin = "given" if profile else "measured" if job else "assumed"
    results = _results(_schedules(sweep) if sweep is not None else [schedule or "bsp"], job, costs, asked)
    _print(list(results), sweep is not None, asked, origin, as_json)
    return 0


def _print(
    found: list[tuple[str, SimulationResult, Bill]], sweep: bool, asked: dict[str, Any], origin: str, as_json: bool
) -> None:
    channel = asked["channel"]
    if as_json and sweep:
        _format.print_json([{"schedule": name, **_record(one, bill, channel)} for name, one, bill in found])
    elif as_json:
        _format.print_json(_record(found[0][1], found[0][2], channel))
    elif sweep:
        print_sweep(found, asked, origin)
    else:
        from lambdaml.cli._pattern import simulated_choice

        ((name, result, bill),) = found
        from lambdaml.schedules import SCHEDULES, rounds_at_once

        one_model = not rounds_at_once(SCHEDULES.make(name))
        alike = one_model and asked["regions"] is None and asked["slow_link"] is None
        choice = simulated_choice(asked, name, result.costs) if alike else None
        print_result(name, result, bill, asked, origin, choice)


def _record(result: SimulationResult, bill: Bill, channel: str) -> dict[str, Any]:
    record = result.to_dict()
    moved = {"transfers": transfers(result, bill)} if result.moved else {}
    return {**record, "modelled": {"usd": dollars(bill), **record["modelled"], **moved}, "store": channel}


def _results(
    schedules: list[str], job: str | None, costs: Costs | None, asked: dict[str, Any]
) -> Iterator[tuple[str, SimulationResult, Bill]]:
    """Simulate and bill one schedule after the other, all with the costs that were measured for the first."""
    import lambdaml
    from lambdaml.cost.billing.tariff import Quantities
    from lambdaml.simulation.regions import REGIONS

    tariff = lambdaml.Tariff(lambdaml.prices(), asked["channel"], asked["platform"], regions=REGIONS)
    for schedule in schedules:
        with Share(schedule) as share, interruptible(share.stop, share.close):
            if job is not None and costs is None:
                share.say(f"measuring {job} for some seconds")
            result = lambdaml.simulate(job, schedule=schedule, costs=costs, progress=share, **asked)
        costs = result.costs
        yield schedule, result, tariff.bill(Quantities.of(result))


def _schedules(text: str) -> list[str]:
    """Split a text such as `bsp, asp quorum:6,late=weight` into names, and check that each of them exists."""
    from lambdaml.schedules import SCHEDULES

    names = [name for name in re.split(r",?\s+|,(?=[A-Za-z][\w-]*(?:[:,\s]|$))", text.strip(", ")) if name]
    if not names:
        raise UserError("--sweep: name schedules, for example --sweep 'bsp asp ssp:3'")
    for name in names:
        SCHEDULES.make(name)
    return names


def _refuse(context: typer.Context, option: str, wrong: Callable[[str], bool]) -> None:
    """Refuse parameters that were given, but mean nothing together with this option.

    Raises:
        UserError: If there is such a parameter.
    """
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        given = source is not None and source.name != "DEFAULT"
        if given and wrong(name):
            shown = parameter.opts[0] if parameter.param_type_name == "option" else "a job"
            raise UserError(f"{option} does not go with {shown}: see 'lambdaml simulate --help'")


def _writer(path: Path | None) -> Callable[[Trace], None] | None:
    if path is None:
        return None
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    return lambda trace: trace.save(path)


def _read_profile(path: Path, codec: str, algorithm: str) -> Costs:
    """Read the costs from a file; see the help of `--profile`.

    Raises:
        UserError: If the file cannot be read, or one of its fields is unknown, missing or not a number of at least 0.
    """
    from lambdaml.simulation.stub_replica import Costs

    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if isinstance(record, dict) and "schema_version" in record:
        from lambdaml.cost.profiling.profile import Profile

        return Profile.of(record, str(path)).costs(codec=codec, algorithm=algorithm)
    if isinstance(record, list) and record:
        record = record[0]  # a sweep's simulations have the same costs
    if isinstance(record, dict) and isinstance(record.get("modelled"), dict):
        record = record["modelled"].get("costs")
    if not isinstance(record, dict):
        raise UserError(f"{path} is no profile: it must be a JSON object with step_s, update_bytes ...")
    types = {field.name: int if field.type == "int" else float for field in fields(Costs)}
    for name in ("step_s", "update_bytes", *record):
        if name not in types:
            raise UserError(f"{path}: a profile has no field {name!r}{nearest(name, types)}")
        if name not in record:
            raise UserError(f"{path}: a profile needs {name}")
        value = record[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UserError(f"{path}: {name} must be a number that is not negative (it is {value!r})")
    return Costs(**{name: types[name](value) for name, value in record.items()})  # type: ignore[arg-type]


def _import(module: str) -> None:
    path = Path(module)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UserError(f"there is no file {module}")
    sys.path.insert(0, str(path.resolve().parent if is_file else Path.cwd()))
    try:
        import_module(path.stem if is_file else module)
    except (Exception, SystemExit) as error:
        raise UserError(f"cannot import {module}: {type(error).__name__}: {error}") from error

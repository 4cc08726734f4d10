"""The arguments and options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from lambdaml.errors import UserError

Options = TypeVar("Options")

Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The run's path or URL: ./path, file:///path, s3://bucket/prefix ..."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]

Prices = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A file of your prices, which replace the packaged ones; see `lambdaml prices`."),
]

BilledAs = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="PLATFORM",
        help="Bill functions as if they had run on this platform: `lambda-arm:1769` (memory in MB), `lambda-x86:...`, "
        "`spot`, "
        "`ec2-m7g.large`; by default the one that they ran on.",
    ),
]
StoreAs = Annotated[
    str | None,
    typer.Option(
        metavar="STORE", help="Bill the store as if it were this one: `s3-standard`, `s3-express` or `redis`."
    ),
]

_REGIONS = "Regions"
Regions = Annotated[
    str | None,
    typer.Option(
        metavar="REGION:F,...",
        help="The number of functions in each region of AWS, such as `us-east-1:2,eu-west-1:2`, in the order of their "
        "numbers. There is one bucket: requests of functions in other regions take the round trip more, their "
        "connections are slower, and what crosses regions is billed. Copies of the bucket are not modelled. By default "
        "all functions are in the bucket's region.",
        rich_help_panel=_REGIONS,
    ),
]
BucketRegion = Annotated[
    str | None,
    typer.Option(
        metavar="REGION",
        help="The region of the bucket; by default the first one of --regions.",
        rich_help_panel=_REGIONS,
    ),
]
SlowLink = Annotated[
    str | None,
    typer.Option(
        metavar="FUNCTION:TIMES",
        help="Give one function a slow link: with `3:10`, the requests of function 3 take 10 times as long, and its "
        "bandwidths are a tenth.",
        rich_help_panel=_REGIONS,
    ),
]

Functions = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="F",
        help="The number of processes that share the workers; by default one for each worker, but no more than there "
        "are "
        "cores.",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What runs the functions: `local` (processes), `inline` (this process), `ray` (a cluster) or `lambda` (AWS "
        "Lambda); by default `local` or `inline`, whichever the store allows.",
    ),
]
_RAY = "With --engine ray"
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="The cluster to use: `auto`, host:port, or `local` to start one; by default $RAY_ADDRESS, or else "
        "`local`.",
        rich_help_panel=_RAY,
    ),
]
Cpus = Annotated[
    float | None,
    typer.Option(
        "--num-cpus-per-function",
        min=0.0,
        metavar="X",
        help="The CPUs that Ray sets aside for each function; by default 1.",
        rich_help_panel=_RAY,
    ),
]
Gpus = Annotated[
    float | None,
    typer.Option(
        "--num-gpus-per-function",
        min=0.0,
        metavar="X",
        help="The GPUs that Ray sets aside for each function; by default 0, with which functions compute on the CPU.",
        rich_help_panel=_RAY,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory-per-function",
        metavar="SIZE",
        help="The memory that Ray sets aside for each function, such as 2G; by default none.",
        rich_help_panel=_RAY,
    ),
]
Resources = Annotated[
    list[str] | None,
    typer.Option(
        "--resource-per-function",
        metavar="NAME=X",
        help="The amount of a named resource of the nodes that each function takes up. Repeatable.",
        rich_help_panel=_RAY,
    ),
]
_LAMBDA = "With --engine lambda"
LambdaFunction = Annotated[
    str | None,
    typer.Option(
        "--function",
        metavar="NAME",
        help="The Lambda function to invoke, as `lambdaml deploy aws` made it; by default `lambdaml`.",
        rich_help_panel=_LAMBDA,
    ),
]
LambdaMemory = Annotated[
    int | None,
    typer.Option(
        "--memory",
        min=128,
        max=10_240,
        metavar="MB",
        help="The memory that the Lambda function must have; by default any will do.",
        rich_help_panel=_LAMBDA,
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        metavar="REGION",
        help="The region of the Lambda function; by default that of your AWS settings.",
        rich_help_panel=_LAMBDA,
    ),
]
EndpointURL = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="A server that speaks Lambda's API, such as `lambdaml lambda-local`. `local` starts one for this run.",
        rich_help_panel=_LAMBDA,
    ),
]
Device = Annotated[
    str,
    typer.Option(metavar="DEVICE", help="The device to compute on: `cpu`, `cuda`, or `auto` for the best available."),
]
Lifetime = Annotated[
    float | None,
    typer.Option(
        "--lifetime",
        min=1.0,
        metavar="SECONDS",
        help="Limit the life of each function to this time, as cloud platforms do.",
    ),
]


def asked(context: typer.Context, make: Callable[..., Options], **others: Any) -> Options:
    """Build the library's options from a command's parameters of the same names, without those that were not given.

    Raises:
        UserError: If a size or a resource cannot be read.
    """
    given = {name: value for name, value in context.params.items() if value is not None}
    others["engine_options"] = engine_options(
        **{name: given.get(name) for name in signature(engine_options).parameters}
    )
    return make(**{name: value for name, value in given.items() if name in signature(make).parameters} | others)


def engine_options(
    address: str | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
    memory: str | None = None,
    resources: list[str] | None = None,
    function: str | None = None,
    function_memory: int | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
) -> dict[str, Any]:
    """Return those of an engine's own options that were asked for.

    Raises:
        UserError: If a size or a resource cannot be read.
    """
    asked = {
        "address": address,
        "cpus": cpus,
        "gpus": gpus,
        "memory_bytes": _bytes(memory) if memory else None,
        "resources": dict(_resource(text) for text in resources) if resources else None,
        "function": function,
        "memory": function_memory,
        "region": region,
        "endpoint_url": endpoint_url,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _bytes(text: str) -> float:
    from lambdaml.training.history_room import bytes_of

    if (size := bytes_of(text)) < 1:
        raise UserError(f"--memory-per-function {text}: write a size, for example 2G")
    return size


def _resource(text: str) -> tuple[str, float]:
    name, equals, amount = text.partition("=")
    try:
        return name, float(amount) if equals and name else float("")
    except ValueError:
        raise UserError(f"--resource-per-function {text}: write NAME=NUMBER, for example fast=1") from None

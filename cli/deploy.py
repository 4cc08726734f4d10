"""The verb `lambdaml deploy`."""

from __future__ import annotations

import platform
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from lambdaml.cli import _format, _options
from lambdaml.errors import UserError, nearest

if TYPE_CHECKING:
    from lambdaml import PriceBook
    from lambdaml.deploy.aws import Account, Wish

_stack = partial(typer.Option, rich_help_panel="The stack")
_instead = partial(typer.Option, rich_help_panel="Instead of making it")

Cloud = Annotated[str, typer.Argument(metavar="CLOUD", help="Where to: `aws`, for functions on AWS Lambda.")]
_Bucket = Annotated[
    str | None,
    _stack(metavar="NAME", help="The bucket of the runs. It is made, private and encrypted, if there is none."),
]
_Prefix = Annotated[
    str, _stack(metavar="FOLDER", help="The folder of the bucket that functions may use, and no other.")
]
_Image = Annotated[
    str | None,
    _stack(metavar="URI", help="The image in ECR, with a tag or digest; `deploy/lambda/Dockerfile` makes it."),
]
_Name = Annotated[str, _stack(metavar="NAME", help="The name of the function, which `train --function` takes.")]
_Memory = Annotated[int, _stack(metavar="MB", help="The memory of a function; 1,769 MB come with one vCPU.")]
_Arm64 = Annotated[
    bool | None,
    _stack(
        "--arm64/--x86",
        help="The architecture that the image was built for; by default this machine's, whose bits a run has.",
    ),
]
_MaxFunctions = Annotated[
    int, _stack(min=0, metavar="N", help="The most functions at a time; 0 sets no limit beside the account's own.")
]
_Email = Annotated[
    str | None, _stack(metavar="ADDRESS", help="Whom AWS tells when the bill of the account comes near --monthly-usd.")
]
_MonthlyUsd = Annotated[
    int | None, _stack(min=1, metavar="USD", help="The dollars of a month that --email hears of; 10 by default.")
]
_Region = Annotated[
    str | None, typer.Option(metavar="NAME", help="The region; by default the image's, or that of your AWS settings.")
]
_DryRun = Annotated[
    bool, _instead("--dry-run", help="Say what would be made, what it may do and what it costs. AWS is not asked.")
]
_Check = Annotated[
    bool, _instead("--check", help="Look whether the stack stands, of which version, and whether you may invoke.")
]
_Remove = Annotated[bool, _instead("--remove", help="Remove the stack. Its bucket stays, and so does the image.")]


def deploy(
    cloud: Cloud,
    bucket: _Bucket = None,
    prefix: _Prefix = "runs",
    image: _Image = None,
    name: _Name = "lambdaml",
    memory: _Memory = 1769,
    arm64: _Arm64 = None,
    max_functions: _MaxFunctions = 0,
    email: _Email = None,
    monthly_usd: _MonthlyUsd = None,
    region: _Region = None,
    dry_run: _DryRun = False,
    check: _Check = False,
    remove: _Remove = False,
    prices: _options.Prices = None,
) -> int:
    """Make what functions on AWS Lambda need, as one CloudFormation stack; or change, examine or remove it.

    The stack is a function, a role that reaches one folder of one bucket, a log, perhaps the bucket, and a budget that
    tells somebody. Made again with other options it changes; an option that is left out is as by default.
    """
    if cloud != "aws":
        raise UserError(f"there is no cloud {cloud!r}{nearest(cloud, ['aws'])}")
    if dry_run + check + remove > 1:
        raise UserError("--dry-run, --check and --remove: give one of them")
    from lambdaml.deploy.aws import Account, Wish

    if check or remove:
        return _check(Account(region), name) if check else _remove(Account(region), name)
    if bucket is None or image is None:
        raise UserError("give --bucket and --image; docs/lambda.md says how to come by them")
    if monthly_usd is not None and email is None:
        raise UserError("--monthly-usd says what --email hears of: give both")
    architecture = _architecture() if arm64 is None else "arm64" if arm64 else "x86_64"
    wish = Wish(bucket, image, name, prefix, memory, architecture, max_functions, email, monthly_usd or 10)
    if dry_run:
        import lambdaml

        _describe(wish, lambdaml.prices(*([prices] if prices else [])))
        return 0
    changed = Account(region or wish.region).deploy(wish)
    print(f"stack {name} in {wish.region}: {'stands' if changed else 'stands as it was, nothing to change'}")
    print("\nTo train with it, and to see what it may do:")
    _format.print_command(f"lambdaml train JOB --store s3://{bucket}/{prefix}/RUN --engine lambda --function {name}")
    _format.print_command(f"lambdaml doctor s3://{bucket}/{prefix}")
    return 0


def _architecture() -> str:
    return "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "x86_64"


def _check(account: Account, name: str) -> int:
    findings = account.check(name)
    rows = [(finding.name, "ok" if finding.ok else "BAD", finding.reason) for finding in findings]
    _format.print_table(["what", "ok", "finding"], rows, left=["what", "ok", "finding"])
    return 0 if all(finding.ok for finding in findings) else 1


def _remove(account: Account, name: str) -> int:
    bucket = account.remove(name)
    print(f"stack {name} in {account.region} is gone" + (f"; bucket {bucket} and its runs stay" if bucket else ""))
    return 0


def _describe(wish: Wish, book: PriceBook) -> None:
    from lambdaml.deploy.costs import costs

    print(f"stack {wish.name} in {wish.region} would have")
    _format.print_table(["what", "type"], list(wish.resources().items()), left=["what", "type"])
    print("\nIts functions may")
    for statement in wish.permissions():
        actions, places = (_many(statement[key]) for key in ("Action", "Resource"))
        condition = "".join(
            f", if {key} is {value}" for test in statement.get("Condition", {}).values() for key, value in test.items()
        )
        _format.print_text(f"{', '.join(actions)} on {' and '.join(places)}{condition}", "  ")
    print()
    _format.print_text(
        "But for storage, it costs nothing until a run runs. Prices of us-east-1 without free tiers "
        "('lambdaml prices' has their sources):"
    )
    rows = [[cost.what, _format.usd(cost.usd), cost.unit, cost.how] for cost in costs(wish, book)]
    _format.print_table(["what", "USD", "for a", "from"], rows, left=["what", "for a", "from"])


def _many(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value

"""All verbs as one command. To add a verb, add a file with a function that returns its exit status, and a line in
`VERBS`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from lambdaml.cli._errors import EXIT_CODES, guarded
from lambdaml.cli.bill import bill
from lambdaml.cli.cancel import cancel
from lambdaml.cli.copy import copy
from lambdaml.cli.deploy import deploy
from lambdaml.cli.doctor import doctor
from lambdaml.cli.gc import gc
from lambdaml.cli.influence import influence
from lambdaml.cli.lambda_local import lambda_local
from lambdaml.cli.logs import logs
from lambdaml.cli.metrics import metrics
from lambdaml.cli.plan import plan
from lambdaml.cli.prices import prices
from lambdaml.cli.profile import profile
from lambdaml.cli.replay import replay
from lambdaml.cli.report import report
from lambdaml.cli.rerun import rerun
from lambdaml.cli.resume import resume
from lambdaml.cli.set import set
from lambdaml.cli.simulate import simulate
from lambdaml.cli.staleness import staleness
from lambdaml.cli.status import status
from lambdaml.cli.study import study
from lambdaml.cli.trace import trace
from lambdaml.cli.train import train
from lambdaml.cli.verify import verify
from lambdaml.cli.watch import watch
from lambdaml.cli.why import why

VERBS = (
    train,
    profile,
    plan,
    simulate,
    study,
    resume,
    rerun,
    status,
    watch,
    metrics,
    trace,
    staleness,
    logs,
    report,
    why,
    influence,
    bill,
    verify,
    replay,
    set,
    cancel,
    copy,
    gc,
    prices,
    doctor,
    lambda_local,
    deploy,
)

app = typer.Typer(
    name="lambdaml",
    help="Train PyTorch models with stateless workers that share nothing but a bucket.",
    epilog="Exit status: " + ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
for verb in VERBS:
    app.command()(verb)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> int:
    if version:
        import lambdaml

        print(lambdaml.__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help(), end="")
    return 0


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    _quieten()
    return guarded(lambda: int(app(args=list(arguments), prog_name="lambdaml", standalone_mode=False) or 0))


def _quieten() -> None:
    """Hide the warnings that libraries mean for each other; `-W` and the variables named here show them again."""
    warnings.filterwarnings("ignore", module=r"(lambdaml|numpy|sklearn|torch)(\.|$)")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

"""Train PyTorch models with stateless workers that share nothing but a bucket.

    import lambdaml

    plan = lambdaml.plan("examples/digits.py:Digits", target="accuracy>=0.95")
    result = lambdaml.train("examples/digits.py:Digits", store="file:///tmp/digits", workers=4)
    run = lambdaml.Run("file:///tmp/digits")
    bill = lambdaml.bill(run, platform="lambda-arm:1769", channel="s3-standard")

Names resolve when they are first used, so that `import lambdaml` loads neither torch nor a cloud client. This is also
the one place below `lambdaml.cost` that knows of it: the names of planning and billing belong to the same face.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lambdaml.cost.billing.bill import RunBill, bill
    from lambdaml.cost.billing.caps import Caps
    from lambdaml.cost.billing.prices import PriceBook, prices
    from lambdaml.cost.billing.tariff import Quantities, Tariff
    from lambdaml.cost.planning.candidates import SearchSpace
    from lambdaml.cost.planning.plan import Plan, plan
    from lambdaml.cost.profiling.measure import profile
    from lambdaml.cost.profiling.profile import Profile
    from lambdaml.cost.reporting.report import RunReport, report
    from lambdaml.cost.reporting.why import Diagnosis, Lever, why
    from lambdaml.errors import LambdaMLError, UserError
    from lambdaml.job import Job
    from lambdaml.run import Run
    from lambdaml.simulation import SimulationResult, simulate
    from lambdaml.statistics_job import StatisticsJob
    from lambdaml.traces import Trace
    from lambdaml.traces.replay import replay_trace
    from lambdaml.training.driver import TrainResult, rerun, resume, train

__all__ = [
    "Caps",
    "Diagnosis",
    "Job",
    "LambdaMLError",
    "Lever",
    "Plan",
    "PriceBook",
    "Profile",
    "Quantities",
    "Run",
    "RunBill",
    "RunReport",
    "SearchSpace",
    "SimulationResult",
    "StatisticsJob",
    "Tariff",
    "Trace",
    "TrainResult",
    "UserError",
    "__version__",
    "bill",
    "plan",
    "prices",
    "profile",
    "replay_trace",
    "report",
    "rerun",
    "resume",
    "simulate",
    "train",
    "why",
]

# With a checkout's root on sys.path (`python -m`, `python -c`), this folder is found before the installed package and
# holds neither storage nor cost nor cli: look for those in the installed one, too.
__path__ = extend_path(__path__, __name__)

_HOMES = {
    "Caps": "lambdaml.cost.billing.caps",
    "Diagnosis": "lambdaml.cost.reporting.why",
    "Job": "lambdaml.job",
    "LambdaMLError": "lambdaml.errors",
    "Lever": "lambdaml.cost.reporting.why",
    "Plan": "lambdaml.cost.planning.plan",
    "PriceBook": "lambdaml.cost.billing.prices",
    "Profile": "lambdaml.cost.profiling.profile",
    "Quantities": "lambdaml.cost.billing.tariff",
    "Run": "lambdaml.run",
    "RunBill": "lambdaml.cost.billing.bill",
    "RunReport": "lambdaml.cost.reporting.report",
    "SearchSpace": "lambdaml.cost.planning.candidates",
    "SimulationResult": "lambdaml.simulation",
    "StatisticsJob": "lambdaml.statistics_job",
    "Tariff": "lambdaml.cost.billing.tariff",
    "Trace": "lambdaml.traces",
    "TrainResult": "lambdaml.training.driver",
    "UserError": "lambdaml.errors",
    "bill": "lambdaml.cost.billing.bill",
    "plan": "lambdaml.cost.planning.plan",
    "prices": "lambdaml.cost.billing.prices",
    "profile": "lambdaml.cost.profiling.measure",
    "replay_trace": "lambdaml.traces.replay",
    "report": "lambdaml.cost.reporting.report",
    "rerun": "lambdaml.training.driver",
    "resume": "lambdaml.training.driver",
    "simulate": "lambdaml.simulation",
    "train": "lambdaml.training.driver",
    "why": "lambdaml.cost.reporting.why",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("lambdaml-runtime")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

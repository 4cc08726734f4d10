"""Train PyTorch models with stateless workers that share nothing but a bucket.

    import lambdaml

    result = lambdaml.train("examples/digits.py:Digits", workers=4, store="file:///tmp/digits")
    run = lambdaml.Run("file:///tmp/digits")

Names resolve when they are first used, so that `import lambdaml` loads neither torch nor a cloud client.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lambdaml.errors import LambdaMLError, UserError
    from lambdaml.job import Job
    from lambdaml.log.run import Run
    from lambdaml.simulation import SimulationResult, simulate
    from lambdaml.traces import Trace
    from lambdaml.traces.replay import replay_trace
    from lambdaml.training.driver import TrainResult, resume, train

__all__ = [
    "Job",
    "LambdaMLError",
    "Run",
    "SimulationResult",
    "Trace",
    "TrainResult",
    "UserError",
    "__version__",
    "replay_trace",
    "resume",
    "simulate",
    "train",
]

# With a checkout's root on sys.path (`python -m`, `python -c`), this folder is found before the installed package and
# holds neither storage nor cost nor cli: look for those in the installed one, too.
__path__ = extend_path(__path__, __name__)

_HOMES = {
    "Job": "lambdaml.job",
    "LambdaMLError": "lambdaml.errors",
    "Run": "lambdaml.log.run",
    "SimulationResult": "lambdaml.simulation",
    "Trace": "lambdaml.traces",
    "TrainResult": "lambdaml.training.driver",
    "UserError": "lambdaml.errors",
    "replay_trace": "lambdaml.traces.replay",
    "resume": "lambdaml.training.driver",
    "simulate": "lambdaml.simulation",
    "train": "lambdaml.training.driver",
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

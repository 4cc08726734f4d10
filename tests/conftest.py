"""What all tests share."""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from lambdaml.training import numerics

# Whatever the environment that tests are run in: before anything here or in a worker of xdist loads NumPy or torch.
numerics.prepare("reproducible")

# A shell has what it starts in the background ignore Ctrl-C, which would then be tested in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two busy cores are no reason for a property to fail, and a failure must come again in the next run.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def numerics_of_all_tests() -> Iterator[None]:
    """A test in the other class leaves no mark on the tests after it."""
    yield
    numerics.prepare("reproducible")


CONFORMANCE = {
    **{kind: kind for kind in ("schedule", "algorithm", "codec", "rule", "aggregate", "tuner", "partition", "engine")},
    "store": "url",
}
"""Each kind of part that has conformance tests (`test_conformance.py`), and the fixture that these take it from."""


def pytest_addoption(parser: pytest.Parser) -> None:
    for kind in CONFORMANCE:
        parser.addoption(f"--{kind}", metavar="SPEC", help=f"run the conformance tests of a {kind} on this one alone")


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.endswith("test_conformance"):
        chosen = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
        for kind, fixture in CONFORMANCE.items():
            spec = metafunc.config.getoption(kind)
            if spec and fixture in set(metafunc.fixturenames) - chosen:
                metafunc.definition.add_marker(pytest.mark.parametrize(fixture, [spec], indirect=True))

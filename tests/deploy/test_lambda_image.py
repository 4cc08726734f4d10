"""deploy/lambda/Dockerfile, as far as it can be checked where no Docker is: what it installs, copies and starts."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "deploy" / "lambda" / "Dockerfile").read_text()
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its arguments, with the defaults of the build arguments filled in."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    arguments: dict[str, str] = {}
    found = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        if name == "ARG":
            key, _, arguments[key] = rest.partition("=")
        for key, value in arguments.items():
            rest = rest.replace(f"${{{key}}}", value)
        if name:
            found.append((name, rest))
    return found


def given(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_every_instruction_is_one_of_docker_and_begins_with_the_base() -> None:
    names = [name for name, _ in instructions()]
    assert names[0] == "FROM" and set(names) <= {"FROM", "RUN", "COPY", "ARG", "ENV", "CMD"}


def test_what_is_copied_is_in_the_checkout() -> None:
    sources = [source for copied in given("COPY") for source in copied.split()[:-1]]
    assert sources == ["constraints.txt", "dist", "examples"]
    assert "pip wheel --no-deps --wheel-dir dist ." in TEXT  # makes dist
    assert all((ROOT / source).exists() for source in sources if source != "dist")


def test_the_job_lies_where_its_name_on_the_command_line_says() -> None:
    """Lambda starts the handler in LAMBDA_TASK_ROOT, so that examples/digits.py is found there."""
    assert given("COPY")[-1] == "examples ${LAMBDA_TASK_ROOT}/examples/"


def test_versions_are_those_of_this_checkout() -> None:
    assert re.findall(r"torch==(\S+)", TEXT) == [PINNED["torch"]]
    (torch, _) = given("RUN")
    assert "--index-url https://download.pytorch.org/whl/cpu " in torch
    (python,) = re.findall(r"^FROM public\.ecr\.aws/lambda/python:(\S+)$", TEXT, re.MULTILINE)
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    assert "lambdaml_runtime-*.whl)[lambda]" in given("RUN")[1] and "lambda" in PROJECT["optional-dependencies"]


def test_it_starts_our_handler_on_one_thread() -> None:
    assert given("CMD") == ['["lambdaml.deploy.handler.handler"]']
    assert "\ndef handler(event" in (ROOT / "deploy" / "handler.py").read_text()
    assert "OMP_NUM_THREADS=1" in given("ENV")[0].split()


def installed_bytes(names: Iterable[str]) -> dict[str, int]:
    """The size of each package that these need, by name, as it is installed here."""
    sizes: dict[str, int] = {}
    pending = [Requirement(name) for name in names]
    while pending:
        wanted = pending.pop()
        name = wanted.name.lower().replace("_", "-")
        if name in sizes or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found = distribution(name)
        paths = [Path(str(found.locate_file(file))) for file in found.files or ()]
        sizes[name] = sum(path.stat().st_size for path in paths if path.is_file())
        pending += map(Requirement, found.requires or ())
    return sizes


def test_the_size_that_it_states_is_the_sum_of_what_it_installs() -> None:
    packages = installed_bytes([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["lambda"]])
    if distribution("torch").version != f"{PINNED['torch']}+cpu":
        pytest.skip("the torch that is installed here is not the one of the image")
    with_job = installed_bytes([*packages, "scikit-learn"])
    whole, torch, job = (float(number) for number in re.findall(r"(\d\.\d\d)(?= GB| of them| more)", TEXT))
    assert whole == pytest.approx(sum(packages.values()) / 1e9, abs=0.02)
    assert torch == pytest.approx(packages["torch"] / 1e9, abs=0.02)
    assert job == pytest.approx((sum(with_job.values()) - sum(packages.values())) / 1e9, abs=0.02)

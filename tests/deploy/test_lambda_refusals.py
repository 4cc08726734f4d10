"""What keeps functions on Lambda from a run is said in one line, with exit code 2, and nothing is begun or left running."""

import json
import os
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from lambdaml.cli._app import run as command
from lambdaml.deploy.local_lambda import LocalLambda
from tests.storage.s3server import S3Server

ROOT = Path(__file__).resolve().parents[2]
JOB = f"{ROOT / 'tests' / 'lambdaml' / 'engines' / 'jobs.py'}:Points"
LAMBDA = ["train", JOB, "--steps", "4", "--workers", "2", "--engine", "lambda"]

Refuse = Callable[..., str]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {
        "AWS_ACCESS_KEY_ID": "PERSON",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("lambdaml.storage.retry.BASE_S", 0.001)


@pytest.fixture
def refuse(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Refuse:
    """Return a function that runs a command that is refused, and returns its one line."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> str:
        capfd.readouterr()
        code = command(list(words))
        said = capfd.readouterr()
        assert code == 2 and not said.out, said
        assert said.err.startswith("error: ") and said.err.count("\n") == 1, said.err
        return said.err

    return call


class Role(S3Server):
    """A bucket that refuses one kind of request from functions, whose role lacks the right."""

    denied = ""
    kind = ""

    def count(self, method: str, path: str, create_only: bool) -> None:
        self.kind = "LIST" if "list-type" in path else "DELETE" if method == "POST" else method
        super().count(method, path, create_only)

    def next_fault(self, method: str) -> str | None:  # type: ignore[override]
        denies = self.kind == self.denied and "Credential=ROLE/" in self.headers["authorization"]
        return "403" if denies else None


@pytest.fixture(scope="module")
def bucket() -> Iterator[Role]:
    with Role() as server:
        yield server


@pytest.fixture(scope="module")
def platform() -> Iterator[LocalLambda]:
    role = {"AWS_ACCESS_KEY_ID": "ROLE", "AWS_SECRET_ACCESS_KEY": "secret"}
    with LocalLambda(environment=role) as local:
        yield local


@pytest.mark.parametrize(
    ("kind", "right"),
    [
        ("PUT", "s3:PutObject"),
        ("GET", "s3:GetObject"),
        ("LIST", "s3:ListBucket"),
        ("DELETE", "s3:DeleteObject"),
    ],
)
def test_a_role_without_a_right(kind: str, right: str, refuse: Refuse, bucket: Role, platform: LocalLambda) -> None:
    bucket.denied = kind
    said = refuse(*LAMBDA, "--store", f"{bucket.url}-{kind}", "--endpoint-url", platform.url)
    assert "the Lambda function 'lambdaml' cannot use the store: " in said
    assert f"(403 AccessDenied): {right} is not allowed" in said
    assert not [key for key in bucket.objects if key.endswith("run.json")]
    assert not platform.stats()["running"]


def test_a_bucket_in_another_region(refuse: Refuse, platform: LocalLambda) -> None:
    with S3Server(denies=(301, "PermanentRedirect")) as server:
        said = refuse(*LAMBDA, "--store", server.url, "--endpoint-url", platform.url)
    assert "in another region, eu-north-1 (301); set AWS_REGION=eu-north-1" in said


class _Denies(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.dumps({"Message": "User: arn:aws:iam::1:user/me is not authorized"}).encode()
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(403)
        self.send_header("x-amzn-ErrorType", "AccessDeniedException")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_no_right_to_invoke(refuse: Refuse, bucket: Role) -> None:
    with HTTPServer(("127.0.0.1", 0), _Denies) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        said = refuse(*LAMBDA, "--store", f"{bucket.url}-invoke", "--endpoint-url", url)
        server.shutdown()
    assert (
        "the Lambda function 'lambdaml' in us-east-1: lambda:InvokeFunction is denied (AccessDeniedException)" in said
    )


def test_no_credentials(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    began = time.monotonic()
    assert "no AWS credentials found; set AWS_ACCESS_KEY_ID" in refuse(*LAMBDA, "--store", "s3://bucket/run")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("store", ["file://{here}/run", "{here}/run", "memory://run", "moto://bucket/run"])
def test_a_store_that_functions_cannot_reach(
    store: str, refuse: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("it was refused before anything was asked of Lambda")

    monkeypatch.setattr("lambdaml.engines.invoke.Invoker.ask", connect)
    said = refuse(*LAMBDA, "--store", store.format(here=tmp_path))
    assert "use s3://" in said
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    "words",
    [
        ("--engine", "lambda", "--num-cpus-per-function", "1"),
        ("--engine", "lambda", "--address", "auto"),
        ("--engine", "ray", "--function", "lambdaml"),
        ("--engine", "local", "--endpoint-url", "local"),
    ],
)
def test_an_option_of_another_engine(words: tuple[str, ...], refuse: Refuse, tmp_path: Path) -> None:
    said = refuse("train", JOB, "--steps", "4", "--store", str(tmp_path / "run"), *words)
    assert f"engine {words[1]!r} takes no option" in said
    assert not list(tmp_path.iterdir())


def test_a_server_that_nobody_serves(refuse: Refuse, bucket: Role) -> None:
    said = refuse(*LAMBDA, "--store", f"{bucket.url}-nobody", "--endpoint-url", "http://127.0.0.1:9")
    assert "cannot be reached (EndpointConnectionError); nothing was begun" in said

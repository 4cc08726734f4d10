"""Credentials never enter a run, a log, an error, a trace or a report: on each engine, on each kind of store.

A run is made with credentials that are easy to find again, then everything that it and the commands about it leave or say
is searched for them: as they are, URL-encoded, in base64, and as Python writes bytes.
"""

import base64
import json
import logging
import os
import subprocess
import sys
import tempfile
import traceback
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import lambdaml
from lambdaml.cli._app import run as command
from lambdaml.deploy.local_lambda import LocalLambda
from lambdaml.deploy.sandbox import InvocationReport
from lambdaml.errors import LambdaMLError
from lambdaml.storage import Store, open_store
from lambdaml.storage.connect import AZURITE_ACCOUNT, AZURITE_KEY
from tests.cost.profiles import digits
from tests.storage.s3server import S3Server
from tests.storage.servers import azurite

ROOT = Path(__file__).resolve().parents[2]
JOB = f"{ROOT / 'tests' / 'lambdaml' / 'engines' / 'jobs.py'}:Points"
SMALL = ["--workers", "2", "--functions", "2", "--steps", "6", "--snapshot-every", "3"]
NOWHERE = "http://127.0.0.1:9"

AWS = {
    "AWS_ACCESS_KEY_ID": "AKIALEAK7LEAK7LEAK7A",
    "AWS_SECRET_ACCESS_KEY": "leak/Secret+Key/0123456789+abcdefABCDEFghi",
    "AWS_SESSION_TOKEN": "leakToken//0123456789+abcdefghijklmnopqrstuvwxyz==",
}
PROFILE = "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\naws_session_token = {}\n".format(
    *AWS.values()
)
AZURE = {"AZURE_STORAGE_ACCOUNT_NAME": AZURITE_ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": AZURITE_KEY}
SAS = {
    "AZURE_STORAGE_ACCOUNT_NAME": AZURITE_ACCOUNT,
    "AZURE_STORAGE_SAS_KEY": "sv=2024-01-01&ss=b&sig=leakSignature%2Babcdefghijklmnop%3D",
}
PRIVATE = rsa.generate_private_key(65537, 2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
ACCOUNT = {"client_email": "me@example.com", "private_key_id": "1", "private_key": PRIVATE.decode()}
GOOGLE = {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(ACCOUNT)}
SECRETS = [*AWS.values(), AZURITE_KEY, "leakSignature+abcdefghijklmnop=", PRIVATE.decode().splitlines()[7]]


def forms(secret: str) -> set[bytes]:
    """Return all forms in which a secret is looked for, without the ends that depend on what stands beside it."""
    raw = secret.encode()
    found = {raw, urllib.parse.quote(secret).encode(), urllib.parse.quote(secret, safe="").encode()}
    for shift in range(3):
        found.add(base64.b64encode(bytes(shift) + raw)[4:-4])
    return found | {each.lower() for each in found}


FORMS = {form for secret in SECRETS for form in forms(secret)}


def demand_none(said: bytes | str, where: object) -> None:
    """Fail if a secret stands in what was said, without showing it."""
    data = said.encode() if isinstance(said, str) else said
    assert not [form[:6] for form in FORMS if form in data], f"a secret stands in {where}"


def test_secrets_are_found_in_all_forms() -> None:
    for secret in SECRETS:
        for text in (secret, urllib.parse.quote_plus(secret), f"{secret.encode()!r}"):
            with pytest.raises(AssertionError, match="stands in this"):
                demand_none(f"x={text}&", "this")
        with pytest.raises(AssertionError):
            demand_none(base64.b64encode(b"user:" + secret.encode() + b"; more"), "this")


class Watched:
    """A place of its own for all that commands leave, say and log; `check` looks for secrets there.

    Args:
        folder: The folder for the working folder and temporary files.
        patch: What sets the environment.
        capfd: What catches the output of this process and of those that it starts.
        caplog: What catches the log.
    """

    def __init__(
        self,
        folder: Path,
        patch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.folder, self._capfd, self._caplog = folder, capfd, caplog
        (folder / "tmp").mkdir()
        patch.setenv("TMPDIR", str(folder / "tmp"))
        patch.setattr(tempfile, "tempdir", None)
        patch.chdir(folder)
        patch.setenv("LAMBDAML_TRACEBACK", "1")
        caplog.set_level(logging.DEBUG, "lambdaml")

    def says(self, *words: str, code: int = 0) -> str:
        """Run a command in this process, and return what it says, which has no secret in it."""
        self._capfd.readouterr()
        assert command(list(words)) == code, self._capfd.readouterr()
        told = self._capfd.readouterr()
        demand_none(told.out + told.err, words)
        return told.out + told.err

    def check(self) -> None:
        """Look for secrets in the log, in what was said, and in all files that are left."""
        demand_none(self._caplog.text, "the log")
        told = self._capfd.readouterr()
        demand_none(told.out + told.err, "the output")
        for path in self.folder.rglob("*"):
            if path.is_file():
                demand_none(path.read_bytes(), path)


@pytest.fixture
def watched(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Watched]:
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    watched = Watched(tmp_path, monkeypatch, capfd, caplog)
    yield watched
    watched.check()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


def place(server: S3Server, name: str) -> str:
    return f"s3://bucket/{name}?endpoint={server.endpoint}&region=us-east-1"


def use(patch: pytest.MonkeyPatch, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        patch.setenv(name, value)


def demand_none_in_run(url: str) -> None:
    """Look for secrets in all objects of a run, their names included, and in its trace as it is read."""
    store = open_store(url)
    keys = [info.key for info in store.list()]
    assert {"run.json", "model.safetensors"} <= set(keys)
    for key in keys:
        demand_none(key, key)
        demand_none(bytes(store.get(key) or b""), key)
    store.close()
    demand_none(json.dumps(list(lambdaml.Run(url).trace())), "the trace")


def look_at(url: str, watched: Watched) -> None:
    """Run the commands that tell of a run, as text, JSON, CSV and pages."""
    for verb in ("status", "bill", "verify", "trace"):
        watched.says(verb, url)
        watched.says(verb, url, "--json")
    watched.says("trace", url, "--csv", "trace.csv")
    watched.says("bill", url, "--csv", "bill.csv")


def test_inline_on_s3_with_keys_in_the_environment(
    watched: Watched, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, AWS)
    run = place(server, "inline")
    watched.says("train", JOB, "--store", run, "--engine", "inline", *SMALL)
    assert server.headers["x-amz-security-token"] == AWS["AWS_SESSION_TOKEN"], "they are used"
    demand_none_in_run(run)
    look_at(run, watched)
    watched.says("report", run)
    replace(digits(), target="accuracy>=0.9").dump(Path("p.json"))
    few = ["--platform", "local", "--schedule", "bsp", "--codec", "fp32", "--pattern", "gather", "--workers", "2..2"]
    watched.says("plan", "--profile", "p.json", *few, "--html", "plan.html", "--json")
    assert Path("plan.html").exists()


def test_local_processes_on_s3_through_boto3_with_a_profile(
    watched: Watched,
    server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    profile = tmp_path_factory.mktemp("profile") / "credentials"
    profile.write_text(PROFILE)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    run = f"{place(server, 'local')}&client=boto3"
    watched.says("train", JOB, "--store", run, "--engine", "local", "--json", *SMALL)
    assert server.headers["x-amz-security-token"] == AWS["AWS_SESSION_TOKEN"], "they are used"
    demand_none_in_run(run)
    watched.says("status", run, "--json")


def test_local_processes_on_azure(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, AZURE)
    with azurite() as base:
        place, _, query = base.partition("?")
        run = f"{place}/run?{query}"
        watched.says("train", JOB, "--store", run, "--engine", "local", *SMALL)
        demand_none_in_run(run)
        watched.says("bill", run, "--json")


def test_inline_on_google(watched: Watched, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, GOOGLE)
    run = f"gs://bucket/google?endpoint={server.endpoint}"
    watched.says("train", JOB, "--store", run, "--engine", "inline", *SMALL)
    demand_none_in_run(run)
    watched.says("bill", run)


def test_tasks_of_ray(watched: Watched, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own files are searched, too: its sockets need a folder with a short name."""
    pytest.importorskip("ray")
    use(monkeypatch, AWS)
    run = place(server, "ray")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        words = ["train", JOB, "--store", run, "--engine", "ray", "--address", "local", "--lease", "60", *SMALL]
        done = subprocess.run(
            [sys.executable, "-m", "lambdaml.cli", *words], check=False, capture_output=True, timeout=120
        )
        demand_none(done.stdout + done.stderr, words)
        assert done.returncode == 0, done.stderr
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert any("raylet" in path.name for path in files)
        for path in files:
            demand_none(path.read_bytes(), path)
    demand_none_in_run(run)


class Recording(LocalLambda):
    """A Lambda on this machine that keeps the payloads of events and answers."""

    payloads: list[bytes]

    def _run(self, payload: bytes, context: str) -> tuple[bytes, InvocationReport] | None:
        answer = super()._run(payload, context)
        self.payloads += [payload, answer[0] if answer else b""]
        return answer


def test_functions_on_lambda(watched: Watched, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, AWS)
    said = StringIO()
    run = place(server, "lambda")
    with Recording(log=said) as platform:
        platform.payloads = []
        lambda_options = ["--engine", "lambda", "--endpoint-url", platform.url]
        watched.says("train", JOB, "--store", run, *lambda_options, *SMALL)
        watched.says(
            "train", JOB, "--store", place(server, "lambda-2"), *lambda_options, "--set", "fails=2", *SMALL, code=1
        )
        watched.says("train", JOB, "--store", run.replace("bucket", "other"), *lambda_options, *SMALL, code=2)
        server.denies = (403, "InvalidAccessKeyId")
        watched.says("train", JOB, "--store", place(server, "lambda-3"), *lambda_options, *SMALL, code=2)
        server.denies = None
        watched.check()
        for payload in platform.payloads:
            demand_none(payload, "a payload")
        demand_none(json.dumps([asdict(report) for report in platform.reports()]), "the reports")
    assert len(platform.payloads) >= 6 and "REPORT" in said.getvalue()
    demand_none(said.getvalue(), "what sandboxes print")
    demand_none_in_run(run)
    look_at(run, watched)


CODES = [
    (403, "AccessDenied"),
    (403, "InvalidAccessKeyId"),
    (403, "SignatureDoesNotMatch"),
    (400, "ExpiredToken"),
    (301, "PermanentRedirect"),
    (500, "InternalError"),
    (418, "Teapot"),
]


def demand_none_in_error(call: Callable[[], Any]) -> None:
    """Look for secrets in the error that a call raises, in its notes, and in all errors that are shown as its causes."""
    with pytest.raises(LambdaMLError) as caught:
        call()
    demand_none("".join(traceback.format_exception(caught.value)) + repr(caught.value), "an error")


def demand_none_in_errors(store: Store) -> None:
    """Look for secrets in the errors of all calls of a store that refuses them."""
    demand_none_in_error(lambda: store.get("k"))
    demand_none_in_error(lambda: store.get_range("k", 0, 1))
    demand_none_in_error(lambda: store.head("k"))
    demand_none_in_error(lambda: list(store.list("k")))
    demand_none_in_error(lambda: store.put("k", b""))
    demand_none_in_error(lambda: store.create("k", b""))
    demand_none_in_error(lambda: store.delete(["k", "l"]))
    store.close()


@pytest.mark.parametrize("client", ["obstore", "boto3"])
def test_commands_that_fail_on_s3(
    client: str, watched: Watched, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, AWS)
    monkeypatch.setattr("lambdaml.storage.retry.BASE_S", 0.001)
    run = f"{place(server, 'fails')}&client={client}"
    for url in (run.replace("bucket", "other"), run.replace(server.endpoint, NOWHERE)):
        watched.says("status", url, code=2 if "other" in url else 1)
        demand_none_in_error(lambda url=url: open_store(url).create("k", b""))
    for denies in CODES:
        server.denies = denies
        watched.says("train", JOB, "--store", run, "--json", *SMALL, code=2 if denies[0] in (301, 400, 403) else 1)
        watched.says("doctor", run, code=1)
        demand_none_in_errors(open_store(run))
    server.denies = None


@pytest.mark.parametrize("settings", [AZURE, SAS], ids=["key", "signature"])
def test_commands_that_fail_on_azure(
    settings: Mapping[str, str], watched: Watched, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, settings)
    monkeypatch.setattr("lambdaml.storage.retry.BASE_S", 0.001)
    server.denies = (403, "AuthenticationFailed")
    for endpoint in (NOWHERE, server.endpoint):
        run = f"az://container/run?endpoint={endpoint}/{AZURITE_ACCOUNT}"
        watched.says("train", JOB, "--store", run, *SMALL, code=1 if endpoint == NOWHERE else 2)
        demand_none_in_errors(open_store(run))
    server.denies = None


def test_commands_that_fail_on_google(watched: Watched, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambdaml.storage.retry.BASE_S", 0.001)
    run = f"gs://other/run?endpoint={server.endpoint}"
    for account in (GOOGLE["GOOGLE_SERVICE_ACCOUNT_KEY"], GOOGLE["GOOGLE_SERVICE_ACCOUNT_KEY"][:-20]):
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", account)
        watched.says("train", JOB, "--store", run, *SMALL, code=2)
        demand_none_in_error(lambda: open_store(run).create("k", b""))

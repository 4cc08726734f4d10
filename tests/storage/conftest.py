"""Stores to test: each server and the Ray cluster are started once in the whole session, and only if a test asks for
them. No settings for a cloud of the person who runs the tests count."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lambdaml.storage import Store, open_store
from lambdaml.storage.open import BACKENDS

sys.path.insert(0, str(Path(__file__).parent))

import servers
from s3server import S3Server

FAULTS = "faults=slowdown:0.05,timeout:0.05,lost:0.05&faults_seed=3"

STORES = {
    "memory": "memory://{token}",
    "file": "file://{folder}/{token} with space",
    "s3": "{moto}/{token}",
    "s3-boto3": "{moto}/{token}&client=boto3",
    "seaweedfs": "{seaweedfs}/{token}",
    "ministack": "{ministack}/{token}&client=boto3",
    "azurite": "{azurite}/{token}",
    "gs": "{gs}/{token}",
    "ray": "{ray}/{token}",
    "sqlite": "sqlite://{folder}/{token}.db",
    "memory-slow": "memory://{token}?latency=2ms&bandwidth=500MB/s",
    "file-faulty": "file://{folder}/{token}?" + FAULTS,
    "memory-slow-faulty": "memory://{token}?latency=disk&" + FAULTS,
    "s3-faulty": "{moto}/{token}&" + FAULTS,
    "ray-faulty": "{ray}/{token}&" + FAULTS,
}
SERVERS = {f"{{{name}}}": f"{name}_url" for name in ("moto", "seaweedfs", "ministack", "azurite", "gs", "ray")}

RAY = """
import sys
from lambdaml.storage.ray import connect
print(connect("local"), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True, scope="session")
def no_aws_settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR"))]:
            patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def moto_url(no_aws_settings: None) -> Iterator[str]:
    """An `s3://` URL on moto, without a prefix."""
    store = open_store("moto://bucket")
    yield store.url
    store.close()


@pytest.fixture(scope="session")
def seaweedfs_url(no_aws_settings: None) -> Iterator[str]:
    with servers.seaweedfs() as url:
        yield url


@pytest.fixture(scope="session")
def ministack_url(no_aws_settings: None) -> Iterator[str]:
    with servers.ministack() as url:
        yield url


@pytest.fixture(scope="session")
def azurite_url(no_aws_settings: None) -> Iterator[str]:
    with servers.azurite() as url:
        yield url


@pytest.fixture(scope="session")
def gs_url(no_aws_settings: None) -> Iterator[str]:
    """A `gs://` URL on our own small server; no emulator of Google's store that installs speaks its XML protocol."""
    with S3Server() as server:
        yield f"gs://bucket?endpoint={server.endpoint}"


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A Ray cluster that belongs to a process of its own, as it takes seconds to start and must not be forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        owner = subprocess.Popen(
            [sys.executable, "-c", RAY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    assert owner.stdin is not None and owner.stdout is not None
    yield owner.stdout.readline().strip()
    owner.stdin.close()
    assert owner.wait(30) == 0
    owner.stdout.close()


@pytest.fixture(scope="module")
def ray_url(ray_address: str) -> Iterator[str]:
    """A `ray://` URL without a prefix. This process is connected to Ray until the module's tests are done."""
    import ray

    yield f"ray://tests?address={ray_address}&auth=token"
    ray.shutdown()


def url_of(kind: str, request: pytest.FixtureRequest) -> str:
    """A fresh, empty store of this kind, or of a pattern like those of `STORES`."""
    pattern, token = STORES.get(kind, kind), secrets.token_hex(4)
    for server, fixture in SERVERS.items():
        if server in pattern:
            head, _, query = request.getfixturevalue(fixture).partition("?")
            path, _, more = pattern.removeprefix(server).format(token=token).partition("&")
            return f"{head}{path}?{query}" + (f"&{more}" if more else "")
    return pattern.format(token=token, folder=request.getfixturevalue("tmp_path"))


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(BACKENDS, "sqlite", ("tests.parts.sqlite", ()))
    return url_of(request.param, request)


@pytest.fixture
def store(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("lambdaml.storage.retry.BASE_S", 0.002)
    opened = open_store(url)
    yield opened
    opened.close()

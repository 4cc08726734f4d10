"""Stores to test: one server for S3 in the whole session, and no AWS settings of the person who runs the tests."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lambdaml.storage import Store, open_store

sys.path.insert(0, str(Path(__file__).parent))

FAULTS = "faults=slowdown:0.05,timeout:0.05,lost:0.05&faults_seed=3"

STORES = {
    "memory": "memory://{token}",
    "file": "file://{folder}/{token} with space",
    "s3": "{moto}/{token}",
    "s3-boto3": "{moto}/{token}&client=boto3",
    "memory-slow": "memory://{token}?latency=2ms&bandwidth=500MB/s",
    "file-faulty": "file://{folder}/{token}?" + FAULTS,
    "memory-slow-faulty": "memory://{token}?latency=disk&" + FAULTS,
    "s3-faulty": "{moto}/{token}&" + FAULTS,
}


@pytest.fixture(autouse=True, scope="session")
def no_aws_settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
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


def url_of(kind: str, request: pytest.FixtureRequest) -> str:
    """A fresh, empty store of this kind."""
    pattern, token = STORES[kind], secrets.token_hex(4)
    if "{moto}" in pattern:
        head, _, query = request.getfixturevalue("moto_url").partition("?")
        path, _, more = pattern.removeprefix("{moto}").format(token=token).partition("&")
        return f"{head}{path}?{query}" + (f"&{more}" if more else "")
    return pattern.format(token=token, folder=request.getfixturevalue("tmp_path"))


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest) -> str:
    return url_of(request.param, request)


@pytest.fixture
def store(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("lambdaml.storage.retry.BASE_S", 0.002)
    opened = open_store(url)
    yield opened
    opened.close()

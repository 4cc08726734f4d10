"""What travels to Ray's nodes: the job's folder, small, without runs, and nothing is written into that folder."""

from __future__ import annotations

import os
import resource
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from lambdaml.cli._progress import Picture
from lambdaml.engines.ray import _environment
from lambdaml.events import Event, SentEvent


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The names in the archive that would be sent, with the sizes of what Ray wrote; no Ray is started."""
    import ray
    from ray._private.runtime_env import packaging

    found: dict[str, Any] = {}

    def send(uri: str, data: bytes) -> None:
        archive = tmp_path.parent / f"{tmp_path.name}.zip"
        archive.write_bytes(data)
        found["size_bytes"] = len(data)
        found["names"] = sorted(name for name in zipfile.ZipFile(archive).namelist())

    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(runtime_env={}))
    monkeypatch.setattr(packaging, "pin_runtime_env_uri", lambda uri: None)
    monkeypatch.setattr(packaging, "package_exists", lambda uri: False)
    monkeypatch.setattr(packaging, "upload_package_to_gcs", send)
    monkeypatch.chdir(tmp_path)
    return found


def test_packing_80_kb_a_hundred_times_never_writes_more_than_1_mb(tmp_path: Path, packed: dict[str, Any]) -> None:
    """Ray's own way made the archive in the working directory, where it read itself, as the folder's order decided."""
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    for attempt in range(100):
        folder = tmp_path / f"job{attempt}"
        folder.mkdir()
        for number in range(20):
            (folder / f"data{attempt}{number}.bin").write_bytes(os.urandom(4000))
        (folder / "my.py").write_text("class J: pass\n")
        before = sorted(os.listdir(folder))
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, allowed[1]))
        try:
            _environment("my.py:J")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
        assert packed["size_bytes"] < 100_000
        assert sorted(os.listdir(folder)) == before


def test_runs_stores_and_what_git_ignores_stay_behind(tmp_path: Path, packed: dict[str, Any]) -> None:
    for name in ("my.py", "helper/a.py", "runs/my-1/run.json", "deep/store/log/0.json", "big.bin", "deep/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text("big.bin\n")
    _environment("my.py:J", f"file://{tmp_path}/deep/store")
    assert packed["names"] == [".gitignore", "deep/b.py", "helper/a.py", "my.py"]


def test_what_travels_is_said_with_its_size_unless_nothing_does(
    tmp_path: Path, packed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private.runtime_env import packaging

    (tmp_path / "my.py").write_text("class J: pass\n")
    (tmp_path / "data.bin").write_bytes(bytes(500_000))
    said: list[Event] = []
    _environment("my.py:J", emit=said.append)
    assert said == [SentEvent(folder=str(tmp_path), files=2, size_bytes=packed["size_bytes"])]
    assert Picture("run").take(said[0], 0.0) == f"sent to Ray's nodes: {tmp_path}, 2 files, 500.2 kB"
    monkeypatch.setattr(packaging, "package_exists", lambda uri: True)
    again = _environment("my.py:J", emit=said.append)
    assert len(said) == 1 and again["working_dir"].startswith("gcs://")
    _environment("json:J", emit=said.append)
    assert len(said) == 1

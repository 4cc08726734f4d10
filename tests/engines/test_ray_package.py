"""What travels to Ray's nodes: the job's folder, small, without runs, and nothing is written into that folder."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from lambdaml.engines.ray import _environment


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


def test_packing_the_working_directory_does_not_write_into_it(tmp_path: Path, packed: dict[str, Any]) -> None:
    for number in range(20):
        (tmp_path / f"data{number}.bin").write_bytes(os.urandom(4000))
    (tmp_path / "my.py").write_text("class J: pass\n")
    before = sorted(os.listdir(tmp_path))
    for _ in range(10):
        _environment("my.py:J")
        assert packed["size_bytes"] < 100_000
        assert sorted(os.listdir(tmp_path)) == before


def test_runs_stores_and_what_git_ignores_stay_behind(tmp_path: Path, packed: dict[str, Any]) -> None:
    for name in ("my.py", "helper/a.py", "runs/my-1/run.json", "deep/store/log/0.json", "big.bin", "deep/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text("big.bin\n")
    _environment("my.py:J", f"file://{tmp_path}/deep/store")
    assert packed["names"] == [".gitignore", "deep/b.py", "helper/a.py", "my.py"]

"""The packed folder of the job's code is sent to the nodes of a Ray cluster.

Runs, the store's folder and files that git ignores are not sent. Ray keeps the archive in its GCS; a folder that was
sent before and has not changed is not sent again.
"""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname


@dataclass(frozen=True, slots=True)
class Package:
    """Describes a folder that Ray's nodes can load.

    Attributes:
        uri: The URI by which a runtime environment names it.
        files: The number of files that were sent; 0 if the cluster had them already.
        size_bytes: The size of the archive that was sent.
    """

    uri: str
    files: int
    size_bytes: int


def send(folder: Path, store: str) -> Package:
    """Pack the folder and send it to the cluster that this process is connected to, unless that has it already.

    Args:
        folder: The folder.
        store: The URL of the run's store, which may be in the folder.

    Raises:
        Exception: If the folder is too large or cannot be read; this is whatever Ray raises.
    """
    from ray._private.runtime_env import packaging, working_dir

    what: dict[str, Any] = {"working_dir": str(folder), "excludes": _not_sent(folder, store)}
    excluded: list[str] = []

    def note(_: str, excludes: list[str] | None = None, is_file: bool = False) -> None:
        excluded.extend(excludes or [])

    # Ray's own function makes the archive in the working directory, which may be the very folder that it packs, and
    # does not say how large the archive is.
    uri: str = working_dir.upload_working_dir_if_needed(what, include_gitignore=True, upload_fn=note)["working_dir"]
    packaging.pin_runtime_env_uri(uri)
    if packaging.package_exists(uri):
        return Package(uri, 0, 0)
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "package.zip"
        packaging.create_package(str(folder), archive, include_gitignore=True, excludes=excluded)
        with zipfile.ZipFile(archive) as packed:
            files = len(packed.namelist())
        data = archive.read_bytes()
    packaging.upload_package_to_gcs(uri, data)
    return Package(uri, files, len(data))


def _not_sent(folder: Path, store: str) -> list[str]:
    """Return patterns, in git's syntax, for files in the job's folder that are not its code."""
    patterns = ["/runs/"]
    if store.startswith("file://"):
        place = Path(url2pathname(urlsplit(store).path)).resolve()
        if place != folder and folder in place.parents:
            patterns.append(f"/{place.relative_to(folder).as_posix()}/")
    return patterns

"""`make docs`: the site is built without a warning, has every page and the whole reference, and loads nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lambdaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site. A broken link or anchor, a page that the navigation lacks and a bad docstring are warnings, which a
    quiet build would not count.
    """
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Documentation built" in done.stderr and "WARNING" not in done.stderr
    return place


def ids(site: Path, page: str) -> set[str]:
    return set(re.findall(r'id="([\w.]+)"', (site / page).read_text()))


def test_every_page_of_the_repository_is_there(site: Path) -> None:
    pages = [page.relative_to(ROOT).with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 25
    assert [page for page in pages if not (site / page).is_file()] == []
    assert "<h1" in (site / "index.html").read_text()


def test_the_reference_has_every_public_name(site: Path) -> None:
    public = {f"lambdaml.{name}" for name in lambdaml.__all__ if name != "__version__"}
    assert public <= ids(site, "api/lambdaml.html")
    assert {"lambdaml.Job.loss", "lambdaml.Run.verify"} <= ids(site, "api/lambdaml.html")


@pytest.mark.parametrize(
    "name",
    [
        "algorithms.Algorithm",
        "codecs.Codec",
        "engines.Engine",
        "errors.UserError",
        "events.CommitEvent",
        "partitions.Partition",
        "patterns.Pattern",
        "schedules.Schedule",
        "staleness.Rule",
        "storage.Store",
        "traces.Trace",
    ],
)
def test_the_reference_has_what_users_extend(name: str, site: Path) -> None:
    assert f"lambdaml.{name}" in ids(site, f"api/lambdaml.{name.partition('.')[0]}.html")


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loads = re.compile(r'<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]*)"')
    assert {url for page in site.rglob("*.html") for url in loads.findall(page.read_text())} == set()
    assert not [page for page in site.rglob("*.html") if 'class="mermaid"' in page.read_text()]

"""Every link between the files of the repository leads somewhere, to the right heading, too."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "deploy", "examples", "benchmarks", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
CODE = re.compile(r"^```.*?^```|^ {4}[^\n]*|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def links(text: str) -> list[str]:
    return [inline or html for inline, html in LINK.findall(CODE.sub("", text))]


@cache
def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub names them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.*?)\s*$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    names = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain]
    return {f"{name}-{before}" if (before := names[:place].count(name)) else name for place, name in enumerate(names)}


def fault(page: Path, link: str) -> str | None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or not target.is_relative_to(ROOT):
        return f"{link}: there is no such file"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return f"{link}: there is no such heading"
    return None


def test_these_are_the_pages() -> None:
    assert {"README.md", "docs/cli.md", "docs/concepts/jobs.md", "deploy/ray/README.md"} <= {
        str(page.relative_to(ROOT)) for page in PAGES
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    ours = [link for link in links(page.read_text()) if not re.match(r"[a-z]+:", link)]
    assert [said for link in ours if (said := fault(page, link))] == []


def test_a_broken_link_is_found() -> None:
    readme = ROOT / "README.md"
    text = (
        "[a](docs/nowhere.md) `[b](c.md)` [c](docs/cli.md#exit-status) [d](docs/cli.md#none) ![e](f.svg)\n\n    [g](h)"
    )
    assert [said for link in links(text) if (said := fault(readme, link))] == [
        "docs/nowhere.md: there is no such file",
        "docs/cli.md#none: there is no such heading",
        "f.svg: there is no such file",
    ]

"""A real browser, Debian's Chromium, in which tests open pages: without a screen, a network or anything kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser as Chromium
    from playwright.sync_api import Page

SIZES = ((1400, "light"), (1400, "dark"), (400, "light"), (400, "dark"))
"""The widths in pixels and the colours in which each page is looked at."""

_QUIET = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run"


@dataclass(slots=True)
class Browser:
    """Opens pages, and keeps what they complain about."""

    chromium: Chromium
    complaints: list[str] = field(default_factory=list)

    def open(self, where: Path | str, width: int = 1400, colours: str = "light") -> Page:
        """A page, once its charts are drawn."""
        page = self.chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=colours)  # type: ignore[arg-type]
        page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._asked(request.url))
        page.goto(where if isinstance(where, str) else where.resolve().as_uri())
        page.wait_for_selector("body[data-ready=yes]", timeout=60_000)
        return page

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1")):
            self.complaints.append(f"asks for {url}")


def check_page(browser: Browser, where: Path) -> None:
    """A page is in order at every size: its charts are there, nothing sticks out, nothing complains or is loaded."""
    for width, colours in SIZES:
        page = browser.open(where, width, colours)
        charts = page.query_selector_all("figure[data-chart]")
        assert len(charts) == len(page.query_selector_all("figure .drawing svg")) > 0
        assert all(int(chart.get_attribute("data-drawn") or 0) > 0 for chart in charts)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()
    assert browser.complaints == []


def numbers(page: Page, chart: str) -> list[list[Any]]:
    """What the table below a chart shows, as texts, once it is opened."""
    figure = page.locator(f"figure[data-chart={chart}]")
    figure.locator("summary").click()
    figure.locator("tbody tr").first.wait_for()
    rows: list[list[Any]] = figure.locator("tbody").evaluate(
        "body => [...body.rows].map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return rows


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """A browser for the tests of a file."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_QUIET.split())
        yield browser
        browser.close()


@pytest.fixture
def browser(chromium: Chromium) -> Browser:
    """A browser that has heard no complaint yet."""
    return Browser(chromium)

"""`watch --web` shows a run in browsers on this machine, and on no other."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from lambdaml.cli._watch import Watched
from lambdaml.cli._web import HOST, Web
from tests.browser import SIZES, Browser, browser, chromium
from tests.cli.conftest import Cli, Trained

__all__ = ["browser", "chromium"]


@pytest.fixture(scope="module")
def watched(trained: Trained) -> Watched:
    made = Watched(str(trained.place), None)
    made.seen = made.observer.finish()
    return made


def asked(web: Web, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(web.url.split("/")[2])
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_page_asks_its_own_server_alone_however_often_it_is_read(watched: Watched) -> None:
    before = watched.observer.asked.total
    with Web(watched.page, watched.live) as web:
        assert web.url.startswith(f"http://{HOST}:")
        for _ in range(3):
            status, page = asked(web, "/")
            assert (status, b"http-equiv" in page) == (200, False)
            status, live = asked(web, "/picture.json")
        picture = json.loads(live)
        assert picture["picture"]["version"] == watched.seen.version
        assert set(picture["charts"]) == {"losses", "metric-0"}
        assert asked(web, "/../etc/passwd")[0] == 404
        assert asked(web, "/picture.json", Host="evil.example")[0] == 403
    assert watched.observer.asked.total == before, "the bucket is read at one pace, whoever looks"


def test_a_browser_shows_it_and_brings_it_up_to_date(watched: Watched, browser: Browser) -> None:
    with Web(watched.page, watched.live) as web:
        for width, colours in SIZES:
            page = browser.open(web.url, width, colours)
            assert len(page.query_selector_all("figure .drawing svg")) == 2
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.get_by_text("The run has ended. This is its last picture.").wait_for()
            page.close()
    assert browser.complaints == []


def test_the_verb_says_where_to_look(cli: Cli, trained: Trained, tmp_path: Path) -> None:
    ended = cli("watch", trained.place, "--web")
    assert ended.code == 0
    assert ended.err.startswith("look at http://127.0.0.1:")
